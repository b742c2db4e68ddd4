"""Several rewards and clips that cannot be measured -> one total a clip.

Axes: B clips.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from reward_physics.observation import Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One reward of a recipe, ready to be called.

    Args:
        name: its label in logs.
        reward: callable (observation, **columns) -> (B,).
        weight: factor in the total.
        parameters: keyword arguments from the recipe.
    """

    name: str
    reward: Callable[..., Any]
    weight: float = 1.0
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def differentiable(self) -> bool:
        """False where the callable says so."""
        return getattr(self.reward, "differentiable", True) is not False

    def __call__(self, observation: Observation, columns: Mapping[str, Any]) -> Tensor:
        """The reward's value, checked: (B,), floating point, NaN allowed, infinity not.

        Raises:
            ValueError: the reward raised, or returned something else; the message names it.
        """
        given = accepted_columns(self.reward, columns, self.parameters)
        try:
            value = self.reward(observation, **self.parameters, **given)
        except Exception as error:
            raise ValueError(f"reward {self.name} failed: {type(error).__name__}: {error}") from error
        return _checked(self.name, value, observation)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardResult:
    """What a recipe says of a batch of clips.

    Args:
        total_B: weighted sum, with unmeasurable clips priced; carries the gradient when one was asked for.
        terms: every reward by name, unweighted and detached, NaN where not measurable; held-out ones as
            `held_out/name`.
        measurable_B: True where every trained reward was measured.
        reasons: None, or why not.
        observation: what was measured on the clips.
    """

    total_B: Tensor
    terms: dict[str, Tensor]
    measurable_B: Tensor
    reasons: list[str | None]
    observation: Observation

    @property
    def unmeasurable_fraction(self) -> float:
        return 1 - self.measurable_B.float().mean().item()


def combine(
    observation: Observation,
    terms: Sequence[Term],
    columns: Mapping[str, Any],
    *,
    unmeasurable: float | Literal["worst"] = "worst",
    visibility_weight: float = 0.0,
    held_out: Sequence[Term] = (),
) -> RewardResult:
    """Judge an observation.

        total_b = sum_k w_k r_kb                                          where every r_kb was measured
                = price + visibility_weight (visibility_b - 1)            elsewhere

    The visibility term is never positive, so hiding an object never pays, and it is differentiable, so a hidden
    object is pulled back into sight where the price alone has no gradient.

    Args:
        observation: measured clips; its grad mode decides whether the total carries gradient.
        terms: rewards to train on.
        columns: columns of the data set, handed to the rewards that name them.
        unmeasurable: what such a clip is worth: a number, or the worst total among the batch's measurable clips
            (minus the sum of the weights' sizes when there is none).
        visibility_weight: >= 0.
        held_out: rewards to report and not to train on.

    Raises:
        ValueError: a reward without gradient where one is asked for, or a reward's own mistake, naming it.
    """
    total = torch.zeros(observation.batch_size, device=observation.video.frames_BTCHW.device)
    measurable, values, culprits = torch.ones_like(total, dtype=torch.bool), {}, [[] for _ in range(len(total))]
    for term in terms:
        if observation.grad and not term.differentiable:
            raise ValueError(
                f"reward {term.name} says that it is not differentiable: list it under held_out, "
                "or train without gradient"
            )
        value = term(observation, columns)
        missing = value.detach().isnan()
        if observation.grad and not value.requires_grad and not missing.all():
            raise ValueError(
                f"reward {term.name} has no gradient at the pixels: compute it from the observation without detaching, "
                f"or mark it with {term.name}.differentiable = False and list it under held_out"
            )
        total = total + term.weight * torch.where(missing, torch.zeros_like(value), value)
        measurable = measurable & ~missing
        values[term.name] = value.detach()
        for clip in missing.nonzero()[:, 0].tolist():
            culprits[clip].append(term.name)
    if not measurable.all():
        total = _price(total, measurable, observation, terms, unmeasurable, visibility_weight)
    with torch.no_grad():
        for term in held_out:
            values[f"held_out/{term.name}"] = term(observation, columns).detach()
    return RewardResult(
        total_B=total,
        terms=values,
        measurable_B=measurable,
        reasons=[_reason(observation, clip, names) for clip, names in enumerate(culprits)],
        observation=observation,
    )


def accepted_columns(
    reward: Callable[..., Any], columns: Mapping[str, Any], taken: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns that the reward's signature has room for, less those that the recipe's parameters set."""
    signature = inspect.signature(reward).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    names = list(signature)[1:]
    return {name: value for name, value in columns.items() if name not in taken and (takes_all or name in names)}


def _price(total, measurable, observation, terms, unmeasurable, visibility_weight) -> Tensor:
    seen = total.detach()[measurable]
    if unmeasurable != "worst":
        price = torch.full_like(total, float(unmeasurable))
    elif len(seen):
        price = seen.min().expand_as(total)
    else:
        price = torch.full_like(total, -sum(abs(term.weight) for term in terms))
    if visibility_weight > 0:
        price = price + visibility_weight * (observation.visibility_B - 1)
    return torch.where(measurable, total, price.to(total.dtype))


def _reason(observation: Observation, clip: int, names: list[str]) -> str | None:
    """The measurement's own reason where one was made, else the name of the reward that gave NaN."""
    if not names:
        return None
    measured = observation.__dict__.get("fit")
    reason = None if measured is None else measured.reasons[clip]
    return reason or f"reward {', '.join(names)} could not be measured"


def _checked(name: str, value: Any, observation: Observation) -> Tensor:
    batch, device = observation.batch_size, observation.video.frames_BTCHW.device
    if not isinstance(value, Tensor):
        raise ValueError(f"reward {name} must return a tensor of shape ({batch},), got {type(value).__name__}")
    if value.shape != (batch,):
        raise ValueError(f"reward {name} must return one score a clip, shape ({batch},), got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"reward {name} must return floating point, got {value.dtype}")
    if value.device != device:
        raise ValueError(f"reward {name} must return its scores on {device} like the frames, got {value.device}")
    infinite = value.detach().isinf()
    if infinite.any():
        clip = int(infinite.nonzero()[0])
        raise ValueError(
            f"reward {name} must be finite, or NaN where it cannot be measured: got {value[clip].item()} "
            f"for clip {clip}"
        )
    return value

"""Several rewards, gates and clips that cannot be measured -> one total per clip.

Axes: B clips.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from reward_physics.observation import Observation

Aggregation = Literal["sum", "normalised_sum", "product"]
_LEAST_FACTOR = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """One reward of a recipe, ready to be called.

    Args:
        name: its label in logs.
        reward: callable (observation, **columns) -> (B,).
        weight: factor in the total.
        scale: a difference of the reward that counts as 1, > 0; None: 1, or the batch's spread where the aggregation
            normalises.
        parameters: keyword arguments from the recipe.
    """

    name: str
    reward: Callable[..., Any]
    weight: float = 1.0
    scale: float | None = None
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
        total_B: the aggregate, gated, with unmeasurable clips priced; carries the gradient when one was asked for.
        terms: every reward by name, unweighted, unscaled and detached, NaN where not measurable; gates as `gates/name`,
            held-out rewards as `held_out/name`.
        measurable_B: True where every trained reward and every gate was measured.
        reasons: None, or why not.
        observation: what was measured on the clips.
        live_terms: the trained rewards with their graph, for the gradient of each alone; empty without gradient.
    """

    total_B: Tensor
    terms: dict[str, Tensor]
    measurable_B: Tensor
    reasons: list[str | None]
    observation: Observation
    live_terms: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def combine(
    observation: Observation,
    terms: Sequence[Term],
    columns: Mapping[str, Any],
    *,
    unmeasurable: float | Literal["worst"] = "worst",
    visibility_weight: float = 0.0,
    held_out: Sequence[Term] = (),
    gates: Sequence[Term] = (),
    aggregation: Aggregation = "sum",
) -> RewardResult:
    """Judge an observation.

        sum_b   = sum_k w_k r_kb / s_k,   or   prod_k (r_kb / s_k)^w_k   under `product`
        total_b = min(sum_b, price + prod_j gate_jb (sum_b - price))      where every r_kb and gate_jb was measured
                = min(price, worst_c total_c) + visibility_weight (visibility_b - 1)     elsewhere

    where c goes over the batch's measured clips: hiding is never worth more than the worst that was seen. A gate in
    [0, 1] so takes away what a clip is worth above the price of an unmeasurable one, and never adds. The visibility
    term is never positive, so hiding an object never pays, and it is differentiable, so a hidden object is pulled back
    into sight where the price alone has no gradient.

    Args:
        observation: measured clips; its grad mode decides whether the total carries gradient.
        terms: rewards to train on.
        columns: columns of the data set, handed to the rewards that name them.
        unmeasurable: the price, what such a clip is worth at most: a number, or the worst total among the batch's
            measurable clips (minus the sum of the weights' sizes, 0 under `product`, when there is none). With gates,
            which need a price below what they take away, the worst is at most that fallback.
        visibility_weight: >= 0.
        held_out: rewards to report and not to train on.
        gates: rewards in [0, 1].
        aggregation: `sum`; `normalised_sum`, where a reward without a scale of its own is divided by its standard
            deviation over the batch's measurable clips; or `product`, of rewards in [0, 1].

    Raises:
        ValueError: a reward without gradient where one is asked for, or a reward's own mistake, naming it.
    """
    lives = {term.name: _live_value(term, observation, columns) for term in terms}
    shut = {gate.name: _in_unit_range("gate", gate.name, _live_value(gate, observation, columns)) for gate in gates}
    total_B, measurable_B = total_of(
        terms,
        lives,
        shut,
        visibility=lambda: observation.visibility_B,
        unmeasurable=unmeasurable,
        visibility_weight=visibility_weight,
        aggregation=aggregation,
    )
    values = {name: value_B.detach() for name, value_B in lives.items()}
    values |= {f"gates/{name}": value_B.detach() for name, value_B in shut.items()}
    with torch.no_grad():
        for term in held_out:
            values[f"held_out/{term.name}"] = term(observation, columns).detach()
    return RewardResult(
        total_B=total_B,
        terms=values,
        measurable_B=measurable_B,
        reasons=[_reason(observation, clip, names) for clip, names in enumerate(_culprits(lives | shut))],
        observation=observation,
        live_terms=lives if observation.grad else {},
    )


def total_of(
    terms: Sequence[Term],
    values: Mapping[str, Tensor],
    gates: Mapping[str, Tensor],
    *,
    visibility: Callable[[], Tensor],
    unmeasurable: float | Literal["worst"] = "worst",
    visibility_weight: float = 0.0,
    aggregation: Aggregation = "sum",
) -> tuple[Tensor, Tensor]:
    """What measured rewards are worth together: the formula of `combine`.

    Args:
        terms: the rewards, for their weights and scales; they are not called.
        values: each one's (B,) by name, NaN where it was not measured.
        gates: each gate's (B,) in [0, 1], NaN where it was not measured.
        visibility: gives (B,) in [0, 1]; asked for only where something was not measured.

    Returns:
        total_B, and measurable_B: True where everything was measured.
    """
    missing = torch.stack([value_B.detach().isnan() for value_B in [*values.values(), *gates.values()]])
    measurable_B = ~missing.any(0)
    total_B = _aggregate(terms, values, aggregation)
    if not gates and measurable_B.all():
        return total_B, measurable_B
    fallback = 0.0 if aggregation == "product" else -sum(abs(term.weight) for term in terms)
    price_B = _price(total_B, measurable_B, unmeasurable, fallback, gated=bool(gates))
    for value_B in gates.values():
        open_B = torch.where(value_B.detach().isnan(), 0.0, value_B)
        total_B = torch.where(total_B > price_B, price_B + open_B * (total_B - price_B), total_B)
    if measurable_B.any():
        price_B = price_B.minimum(total_B.detach()[measurable_B].min())
    if visibility_weight > 0 and not measurable_B.all():
        price_B = price_B + visibility_weight * (visibility() - 1)
    return torch.where(measurable_B, total_B, price_B.to(total_B.dtype)), measurable_B


def accepted_columns(
    reward: Callable[..., Any], columns: Mapping[str, Any], taken: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns that the reward's signature has room for, less those that the recipe's parameters set."""
    signature = inspect.signature(reward).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    names = list(signature)[1:]
    return {name: value for name, value in columns.items() if name not in taken and (takes_all or name in names)}


def _live_value(term: Term, observation: Observation, columns: Mapping[str, Any]) -> Tensor:
    """The reward with its graph, refused where it has none and one is needed."""
    if observation.grad and not term.differentiable:
        raise ValueError(
            f"reward {term.name} says that it is not differentiable: list it under held_out, or train without gradient"
        )
    value_B = term(observation, columns)
    if observation.grad and not value_B.requires_grad and not value_B.detach().isnan().all():
        raise ValueError(
            f"reward {term.name} has no gradient at the pixels: compute it from the observation without detaching, "
            f"or mark it with {term.name}.differentiable = False and list it under held_out"
        )
    return value_B


def _in_unit_range(kind: str, name: str, value_B: Tensor) -> Tensor:
    beyond = (value_B.detach() < -1e-6) | (value_B.detach() > 1 + 1e-6)
    if beyond.any():
        got = value_B[beyond][0].item()
        todo = "use aggregation: sum" if kind == "reward" else "list it under rewards, or bring it into that range"
        raise ValueError(f"{kind} {name} must lie in [0, 1], got {got:g} for clip {int(beyond.nonzero()[0])}: {todo}")
    return value_B


def _culprits(values: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of the rewards and gates that were not measured, per clip."""
    missing = {name: value_B.detach().isnan().tolist() for name, value_B in values.items()}
    return [list(itertools.compress(missing, column)) for column in zip(*missing.values(), strict=True)]


def _aggregate(terms: Sequence[Term], lives: Mapping[str, Tensor], aggregation: Aggregation) -> Tensor:
    """One number per clip; what was not measured counts 0, or 1 in a product, and is priced afterwards."""
    product = aggregation == "product"
    total_B = torch.full_like(next(iter(lives.values())).detach(), float(product), dtype=torch.float32)
    for term in terms:
        value_B = lives[term.name]
        missing_B = value_B.detach().isnan()
        value_B = torch.where(missing_B, torch.zeros_like(value_B), value_B)
        scale = term.scale
        if scale is None and aggregation == "normalised_sum":
            scale = _spread(value_B.detach()[~missing_B])
        if scale is not None:
            value_B = value_B / scale
        if product:
            factor_B = _in_unit_range("reward", term.name, value_B).clamp(_LEAST_FACTOR, 1) ** term.weight
            total_B = total_B * torch.where(missing_B, torch.ones_like(factor_B), factor_B)
        else:
            total_B = total_B + term.weight * value_B
    return total_B


def _spread(seen_N: Tensor) -> float:
    """Standard deviation, or 1 where there is none to speak of."""
    spread = seen_N.double().std(correction=0).item() if len(seen_N) > 1 else 0.0
    return spread if spread > 1e-6 else 1.0


def _price(
    total_B: Tensor,
    measurable_B: Tensor,
    unmeasurable: float | Literal["worst"],
    fallback: float,
    *,
    gated: bool,
) -> Tensor:
    seen = total_B.detach()[measurable_B]
    if unmeasurable != "worst":
        return torch.full_like(total_B, float(unmeasurable))
    if not len(seen):
        return torch.full_like(total_B, fallback)
    worst = seen.min()
    return (worst.clamp(max=fallback) if gated else worst).expand_as(total_B)


def _reason(observation: Observation, clip: int, names: list[str]) -> str | None:
    """The measurement's own reason where one was made, else the name of the reward that gave NaN."""
    if not names:
        return None
    for name in ("fit", "flights"):
        measured = observation.__dict__.get(name)
        if measured is not None and measured.reasons[clip]:
            return measured.reasons[clip]
    return f"reward {', '.join(names)} could not be measured"


def _checked(name: str, value: Any, observation: Observation) -> Tensor:
    batch, device = observation.batch_size, observation.video.device
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

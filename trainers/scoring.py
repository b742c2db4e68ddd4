"""From generated pixels to rewards, their gradient at the pixels, and figures gathered over the processes.

Axes: B clips, M clips of all processes, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from reward_physics.video import Video


class Judge(Protocol):
    """What a recipe does: `rewards.recipe.Recipe`."""

    def judge(self, video: Video, columns: dict[str, Any], grad: bool) -> Any:
        """total_B, terms (NaN where not measurable), measurable_B, reasons and the observation."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """Rewards of a batch of clips.

    Args:
        reward_B: the recipe's total, unmeasurable clips priced.
        terms: each reward by name, NaN where it could not be measured.
        measurable_B: 1 where every trained reward was measured.
        reasons: why not, a clip.
        pixel_grad_BTCHW: d reward_b / d frames_b, or None where none was asked for.
        pixel_grad_norm_B: its norm, before it was limited.
        dropped_B: 1 where the gradient was not finite and is left out.
        gradient_figures: norms and cosines of the rewards' own gradients, a clip, where they were asked for.
    """

    reward_B: Tensor
    terms: dict[str, Tensor]
    measurable_B: Tensor
    reasons: list[str | None]
    pixel_grad_BTCHW: Tensor | None = None
    pixel_grad_norm_B: Tensor | None = None
    dropped_B: Tensor | None = None
    gradient_figures: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def _detach(result: Any) -> dict[str, Any]:
    return {
        "reward_B": result.total_B.detach().float(),
        "terms": {name: value.detach().float() for name, value in result.terms.items()},
        "measurable_B": result.measurable_B.detach().float(),
        "reasons": list(result.reasons),
    }


def score(recipe: Judge, video: Video, columns: dict[str, Any]) -> tuple[Scored, Any]:
    """Rewards without gradient, and the observation they were read from."""
    with torch.no_grad():
        result = recipe.judge(video.detached(), columns, False)
    return Scored(**_detach(result)), result.observation


def joined(parts: list[Scored]) -> Scored:
    """Scores of several batches as one."""
    return Scored(
        reward_B=torch.cat([part.reward_B for part in parts]),
        terms={name: torch.cat([part.terms[name] for part in parts]) for name in parts[0].terms},
        measurable_B=torch.cat([part.measurable_B for part in parts]),
        reasons=[reason for part in parts for reason in part.reasons],
    )


def score_with_gradient(
    recipe: Judge,
    video: Video,
    columns: dict[str, Any],
    *,
    max_ratio: float = float("inf"),
    skip_first: bool = False,
    each_reward: bool = False,
    everywhere: Callable[[Tensor], Tensor] = lambda value_B: value_B,
) -> Scored:
    """Rewards and their gradient at the pixels; the estimators' graph is freed before this returns.

    Args:
        max_ratio: a clip whose gradient is longer than this many times the median of the measurable clips of all
            processes is scaled down to it.
        skip_first: the first frame is given, not generated: its pixels get no gradient.
        each_reward: compare the gradients of several rewards too: a further backward through the estimators for each.
            A single reward costs nothing more.
        everywhere: gathers one value a clip from all processes, which all get here. What a recipe takes from its
            batch (the price `worst` of a clip that cannot be measured, the spreads of `normalised_sum`) stays that of
            one process's clips.

    Raises:
        ValueError: a reward that is not finite or has no gradient.
    """
    leaf = video.frames_BTCHW.detach().requires_grad_()
    with torch.enable_grad():
        result = recipe.judge(video.with_frames(leaf), columns, True)
    total_B = result.total_B
    check_finite(result)
    if not total_B.requires_grad:
        blind = [name for name, value_B in result.terms.items() if value_B.isnan().all()]
        if blind:
            raise ValueError(
                f"reward {blind[0]} could not be measured on any of {len(total_B)} clips: {result.reasons[0]}"
            )
        raise ValueError(
            "the recipe's reward has no gradient at the pixels: use differentiable rewards, or visibility_weight > 0"
        )
    figures = gradient_figures(getattr(result, "live_terms", {}), leaf, skip_first=skip_first) if each_reward else {}
    (gradient,) = torch.autograd.grad(total_B.sum(), leaf, allow_unused=True)
    gradient = torch.zeros_like(leaf) if gradient is None else gradient
    if skip_first:
        gradient[:, 0] = 0
    finite_B = gradient.isfinite().flatten(1).all(1)
    gradient = torch.where(finite_B.view(-1, 1, 1, 1, 1), gradient, 0)
    norm_B = gradient.flatten(1).norm(dim=1)
    measurable_B = result.measurable_B.to(norm_B.device).float()
    factor_B = limit(norm_B, everywhere(norm_B), everywhere(measurable_B) > 0, max_ratio)
    limited = gradient * factor_B.view(-1, 1, 1, 1, 1)
    return Scored(
        **_detach(result),
        pixel_grad_BTCHW=limited,
        pixel_grad_norm_B=norm_B,
        dropped_B=(~finite_B).float(),
        gradient_figures=figures,
    )


def gradient_figures(live_terms: dict[str, Tensor], leaf_BTCHW: Tensor, *, skip_first: bool) -> dict[str, Tensor]:
    """Norm of each reward's own gradient at the pixels, and the cosine of every two, (B,).

    Args:
        live_terms: rewards with their graph, unweighted; fewer than two give nothing. Where one was not measured, its
            figures are NaN.
        leaf_BTCHW: the pixels.
    """
    if len(live_terms) < 2:
        return {}
    flat: dict[str, Tensor] = {}
    for name, value_B in live_terms.items():
        known_B = ~value_B.detach().isnan()
        flat[name] = torch.full_like(leaf_BTCHW.flatten(1), torch.nan)
        if value_B.requires_grad:
            safe = torch.where(known_B, value_B, torch.zeros_like(value_B)).sum()
            (gradient,) = torch.autograd.grad(safe, leaf_BTCHW, retain_graph=True, allow_unused=True)
            gradient = torch.zeros_like(leaf_BTCHW) if gradient is None else gradient
            if skip_first:
                gradient[:, 0] = 0
            flat[name] = torch.where(known_B[:, None], gradient.flatten(1), torch.nan)
    names = list(flat)
    figures = {f"grad/{name}/norm": gradient.norm(dim=1) for name, gradient in flat.items()}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            figures[f"grad/cos/{a}/{b}"] = torch.nn.functional.cosine_similarity(flat[a], flat[b], dim=1)
    return figures


def limit(norm_B: Tensor, norm_M: Tensor, measurable_M: Tensor, max_ratio: float) -> Tensor:
    """Factors that bring each norm down to at most `max_ratio` times the median of the measurable clips' norms.

    Clips that cannot be measured have the faint gradient of the visibility term: they would pull the median down.

    Args:
        norm_B: of this process's clips.
        norm_M, measurable_M: of the clips of all processes.
    """
    known = norm_M[measurable_M & (norm_M > 0)]
    if len(known) == 0:
        return torch.ones_like(norm_B)
    bound = max_ratio * known.quantile(0.5)
    return torch.where(norm_B > bound, bound / norm_B.clamp(min=torch.finfo(norm_B.dtype).tiny), 1.0)


def check_finite(result: Any) -> None:
    """Raise ValueError where a total or a measured term is infinite, or a total is NaN."""
    for name, value_B in [*result.terms.items(), ("total", result.total_B)]:
        bad = value_B.isinf() if name != "total" else ~value_B.isfinite()
        if bad.any():
            clip = int(bad.nonzero()[0])
            raise ValueError(
                f"reward {name} must be finite, or NaN where it cannot be measured, got {value_B[clip].item()} for "
                f"clip {clip} of the batch: mend the reward"
            )


def check_recipe(recipe: Judge, video: Video, columns: dict[str, Any], *, num_frames: int) -> None:
    """Score true clips once, with gradient, before the first step: shape, finiteness, differentiability.

    Raises:
        ValueError: the reward cannot be used for training, with the reason.
    """
    scored = score_with_gradient(recipe, video, columns)
    warn_unmeasured(scored)
    if scored.reward_B.shape != (video.batch_size,):
        raise ValueError(
            f"a reward must return one score a clip, shape ({video.batch_size},), got {tuple(scored.reward_B.shape)}"
        )
    assert scored.dropped_B is not None
    if scored.dropped_B.all() and num_frames > 1:
        raise ValueError(
            "the reward's gradient at the pixels is not finite on true clips: guard its roots and divisions"
        )


def gather(accelerator: Accelerator, value_B: Tensor) -> Tensor:
    """One value a clip of all processes, in their order; all must call."""
    everything: Any = accelerator.gather(value_B.contiguous())
    return everything.float()


def warn_unmeasured(scored: Scored) -> None:
    """Name the rewards that none of the true clips let measure: the run goes on, and prices such clips."""
    for name, value_B in scored.terms.items():
        if value_B.isnan().all():
            warnings.warn(
                f"reward {name} could not be measured on any of the {len(value_B)} true clips that were tried "
                f"({scored.reasons[0]}): such clips are worth what the recipe says of unmeasurable ones",
                stacklevel=2,
            )


def reward_metrics(accelerator: Accelerator, scored: Scored) -> dict[str, float]:
    """Figures over the clips of all processes; a term's mean and spread are over the clips that could be measured."""

    def gathered(value_B: Tensor) -> Tensor:
        return gather(accelerator, value_B)

    reward_B = gathered(scored.reward_B)
    metrics = {
        "reward": reward_B.mean().item(),
        "reward_std": reward_B.std(correction=0).item(),
        "measurable": gathered(scored.measurable_B).mean().item(),
    }
    for name, value_B in scored.terms.items():
        value_B = gathered(value_B)
        value_B = value_B[value_B.isfinite()]
        if len(value_B):
            metrics[f"rewards/{name}/mean"] = value_B.mean().item()
            metrics[f"rewards/{name}/std"] = value_B.std(correction=0).item()
    if scored.pixel_grad_norm_B is not None and scored.dropped_B is not None:
        norm_B = gathered(scored.pixel_grad_norm_B)
        metrics |= {"pixel_grad_norm": norm_B.median().item(), "pixel_grad_norm_max": norm_B.max().item()}
        metrics["dropped_gradients"] = gathered(scored.dropped_B).sum().item()
    for name, value_B in scored.gradient_figures.items():
        value_B = gathered(value_B)
        value_B = value_B[value_B.isfinite()]
        if len(value_B):
            metrics[name] = value_B.median().item()
    return metrics

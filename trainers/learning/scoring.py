"""From generated pixels to rewards, their gradient at the pixels, and figures gathered over the processes.

Axes: B clips, M clips of all processes, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from reward_physics.video import Video
from rewards.recipe.in_parts import totals_among, visibility_of


class Scorer(Protocol):
    """What a recipe does. A batch judged in parts needs its `gates`, `config` and `total` as well."""

    def score(self, video: Video, columns: dict[str, Any], grad: bool) -> Any:
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
        visibility_B: how much of the object is seen, where a clip's price hangs on it, otherwise 1.
        pixel_grad_BTCHW: d reward_b / d frames_b, or None where none was asked for or there is none.
        pixel_grad_norm_B: its norm.
        dropped_B: 1 where the gradient was not finite and is left out.
        latent_grad: the gradient carried on to the latents, where they were decoded for it.
        saturated_B: share of a clip's colours outside [0, 1], where they were decoded for it.
        gradient_figures: norms and cosines of the rewards' own gradients, a clip, where they were asked for.
    """

    reward_B: Tensor
    terms: dict[str, Tensor]
    measurable_B: Tensor
    reasons: list[str | None]
    visibility_B: Tensor | None = None
    pixel_grad_BTCHW: Tensor | None = None
    pixel_grad_norm_B: Tensor | None = None
    dropped_B: Tensor | None = None
    latent_grad: Tensor | None = None
    saturated_B: Tensor | None = None
    gradient_figures: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def _detach(recipe: Scorer, result: Any) -> dict[str, Any]:
    seen_B = visibility_of(cast(Any, recipe), result) if getattr(recipe, "config", None) is not None else None
    return {
        "reward_B": result.total_B.detach().float(),
        "terms": {name: value.detach().float() for name, value in result.terms.items()},
        "measurable_B": result.measurable_B.detach().float(),
        "reasons": list(result.reasons),
        "visibility_B": None if seen_B is None else seen_B.detach(),
    }


def score(recipe: Scorer, video: Video, columns: dict[str, Any]) -> tuple[Scored, Any]:
    """Rewards without gradient, and the observation they were read from."""
    with torch.no_grad():
        result = recipe.score(video.detached(), columns, False)
        return Scored(**_detach(recipe, result)), result.observation


def joined(parts: Sequence[Scored]) -> Scored:
    """Scores of several batches as one."""

    def together(values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return torch.cat(values)
        if isinstance(first, dict):
            return {name: together([value[name] for value in values]) for name in first}
        return None if first is None else [item for value in values for item in value]

    fields = [field.name for field in dataclasses.fields(Scored)]
    return Scored(**{name: together([getattr(part, name) for part in parts]) for name in fields})


def priced_together(recipe: Scorer, scored: Scored) -> Scored:
    """Scores whose prices and spreads are those of all these clips, in whatever batches they were scored.

    A recipe takes the price `worst` and the scales of `normalised_sum` from the clips that it is shown together. What
    belongs together is the group, so that no clip's score hangs on how the group was cut into batches. A scorer
    without `total` scores each clip for itself.
    """
    scorer = cast(Any, recipe)
    if scored.visibility_B is None or getattr(scorer, "total", None) is None:
        return scored
    with torch.no_grad():
        return dataclasses.replace(scored, reward_B=scorer.total(scored.terms, scored.visibility_B)[0].float())


def some_clips(scored: Scored, places: Sequence[int] | slice) -> Scored:
    """The scores of some clips of a batch, without what was kept of their gradient."""
    picked: list[int] = list(range(len(scored.reasons))[places]) if isinstance(places, slice) else list(places)
    return Scored(
        reward_B=scored.reward_B[picked],
        terms={name: value_B[picked] for name, value_B in scored.terms.items()},
        measurable_B=scored.measurable_B[picked],
        reasons=[scored.reasons[place] for place in picked],
        visibility_B=None if scored.visibility_B is None else scored.visibility_B[picked],
    )


def some_columns(columns: dict[str, Any], clips: slice) -> dict[str, Any]:
    """The data's columns of some clips of a batch."""
    return {name: value[clips] for name, value in columns.items()}


def score_with_gradient(
    recipe: Scorer,
    video: Video,
    columns: dict[str, Any],
    *,
    skip_first: bool = False,
    each_reward: bool = False,
    clips: slice | None = None,
    whole: Scored | None = None,
) -> Scored:
    """Rewards and their gradient at the pixels; the estimators' graph is freed before this returns.

    Args:
        skip_first: the first frame is given, not generated: its pixels get no gradient.
        each_reward: compare the gradients of several rewards too: a further backward through the estimators for each.
            A single reward costs nothing more.
        clips: where these clips are but a part of a batch, their places in it; there, none need have a gradient.
        whole: scores of that batch, where the recipe `needs_its_batch`.

    Raises:
        ValueError: a reward that is not finite or has no gradient.
    """
    leaf, scorer = video.frames_BTCHW.detach().requires_grad_(), cast(Any, recipe)
    with torch.enable_grad():
        result = recipe.score(video.with_frames(leaf), columns, True)
        check_finite(result)
        total_B = result.total_B
        if whole is not None and clips is not None:
            assert whole.visibility_B is not None
            total_B = totals_among(whole.terms, whole.visibility_B, scorer, result, columns, clips)
    scored = dataclasses.replace(Scored(**_detach(recipe, result)), reward_B=total_B.detach().float())
    if not total_B.requires_grad and clips is None:
        raise no_gradient(scored)
    figures = gradient_figures(getattr(result, "live_terms", {}), leaf, skip_first=skip_first) if each_reward else {}
    if not total_B.requires_grad:
        zeros_B = torch.zeros_like(scored.reward_B)
        return dataclasses.replace(scored, pixel_grad_norm_B=zeros_B, dropped_B=zeros_B, gradient_figures=figures)
    (gradient,) = torch.autograd.grad(total_B.sum(), leaf, allow_unused=True)
    gradient = torch.zeros_like(leaf) if gradient is None else gradient
    if skip_first:
        gradient[:, 0] = 0
    finite_B = gradient.isfinite().flatten(1).all(1)
    gradient = torch.where(finite_B.view(-1, 1, 1, 1, 1), gradient, 0)
    return dataclasses.replace(
        scored,
        pixel_grad_BTCHW=gradient,
        pixel_grad_norm_B=gradient.flatten(1).norm(dim=1),
        dropped_B=(~finite_B).float(),
        gradient_figures=figures,
    )


def no_gradient(scored: Scored) -> ValueError:
    """Why a batch's reward has no gradient at the pixels."""
    blind = [name for name, value_B in scored.terms.items() if value_B.isnan().all()]
    if blind:
        return ValueError(
            f"reward {blind[0]} could not be measured on any of {len(scored.reward_B)} clips: {scored.reasons[0]}"
        )
    return ValueError(
        "the recipe's reward has no gradient at the pixels: use differentiable rewards, or visibility_weight > 0"
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


def check_recipe(recipe: Scorer, video: Video, columns: dict[str, Any], *, num_frames: int) -> None:
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


def warn_unmeasured(scored: Scored) -> None:
    """Name the rewards that none of the true clips let measure: the run goes on, and prices such clips."""
    for name, value_B in scored.terms.items():
        if value_B.isnan().all():
            warnings.warn(
                f"reward {name} could not be measured on any of the {len(value_B)} true clips that were tried "
                f"({scored.reasons[0]}): such clips are worth what the recipe says of unmeasurable ones",
                stacklevel=2,
            )

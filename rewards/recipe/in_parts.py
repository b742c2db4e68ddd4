"""A batch that is scored in parts: what a clip's total owes to the other clips of its batch.

Axes: B clips of the whole batch, P clips of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rewards.recipe.combine import RewardResult
from rewards.recipe.recipe import Recipe


def needs_its_batch(recipe: Recipe) -> bool:
    """Whether a clip's gradient depends on the batch: by a spread, or by gates against the price `worst`."""
    config = recipe.config
    spreads = config.aggregation == "normalised_sum" and any(term.scale is None for term in recipe.terms)
    return spreads or (bool(recipe.gates) and config.unmeasurable == "worst")


def visibility_of(recipe: Recipe, result: RewardResult) -> Tensor:
    """How much of the object is seen where a clip's price hangs on it, otherwise 1, one value per clip."""
    ones_P = torch.ones_like(result.total_B.detach().float())
    if recipe.config.visibility_weight == 0 or result.measurable_B.all():
        return ones_P
    return torch.where(result.measurable_B, ones_P, result.observation.visibility_B.float())


def totals_among(
    terms: Mapping[str, Tensor],
    visibility_B: Tensor,
    recipe: Recipe,
    result: RewardResult,
    columns: Mapping[str, Any],
    clips: slice,
) -> Tensor:
    """Totals of one part's clips, with their gradient, priced among all clips of the batch, (P,).

    Args:
        terms: rewards and gates of the whole batch by name, without gradient.
        visibility_B: of the whole batch, as `visibility_of` has it.
        result: what the recipe says of the part.
        columns: of the part.
        clips: the part's places in the batch.
    """
    start, stop, _ = clips.indices(len(visibility_B))
    gates = {f"gates/{gate.name}": gate(result.observation, columns) for gate in recipe.gates}
    live = {
        name: terms[name].slice_scatter(value_P.float(), start=start, end=stop)
        for name, value_P in (result.live_terms | gates).items()
    }
    seen_B = visibility_B.slice_scatter(visibility_of(recipe, result), start=start, end=stop)
    return recipe.total({**terms, **live}, seen_B)[0][clips]

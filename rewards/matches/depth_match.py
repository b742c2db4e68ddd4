"""Depth against a reference clip's: the depth reward of PISA, and one whose scale does not breathe with the frame."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.estimators.depth import align_inverse_depth
from reward_physics.observation import Observation
from rewards.matches.reference import measured
from rewards.matches.segmentation_match import followed_mask


def depth_match(observation: Observation, *, reference_BTCHW: Tensor, published: bool = False) -> Tensor:
    """Minus the mean relative error of the depth where the object is or should be:

        r = -sum_{t,x} m |log d - log d'| / sum_{t,x} m,    m = max(mask, mask')

    with ' for the reference. Metric depths are compared as they are; relative ones after one scale and one shift a
    clip, fitted on the background.

    `published`: r = -mean (D - D')^2 with D the depth of every frame stretched to 0 ... 255 by its own least and
    greatest value. That scale breathes when the nearest thing moves, and hides the motion.

    Args:
        observation: needs depth, and a mask unless `published`.
        reference_BTCHW: the data's clips in [0, 1] (a column of the data).

    Returns:
        (B,), (-inf, 0]. NaN where the object is nowhere seen.

    Reference: Li et al., "PISA Experiments", 2025, section on object reward optimisation, depth reward.
    """
    depth = observation.depth
    if depth is None:
        raise ValueError("depth_match: there is no depth estimator: name one under instruments.depth")
    reference = measured(observation, reference_BTCHW, "depth", lambda seen: seen.depth.depth_BTHW)  # pyright: ignore[reportOptionalMemberAccess]
    if published:
        return -(_stretched(depth.depth_BTHW) - _stretched(reference)).square().mean((1, 2, 3))
    mask_reference = measured(observation, reference_BTCHW, "mask", followed_mask)
    mask = torch.maximum(followed_mask(observation).detach(), mask_reference)
    seen, true = depth.depth_BTHW, reference
    if not depth.metric:
        true = 1 / (true - true.amin((1, 2, 3), keepdim=True) + 0.05 * _spread(true))
        seen = align_inverse_depth(seen, true, 1 - mask)
    gap = (seen.clamp(min=1e-3).log() - true.clamp(min=1e-3).log()).abs()
    count_B = mask.sum((1, 2, 3))
    return torch.where(count_B >= 1, -(gap * mask).sum((1, 2, 3)) / count_B.clamp(min=1), torch.nan)


def _stretched(depth_BTHW: Tensor) -> Tensor:
    low, high = depth_BTHW.amin((2, 3), keepdim=True), depth_BTHW.amax((2, 3), keepdim=True)
    return 255 * (depth_BTHW - low) / (high - low).clamp(min=1e-6)


def _spread(inverse_BTHW: Tensor) -> Tensor:
    high, low = inverse_BTHW.amax((1, 2, 3), keepdim=True), inverse_BTHW.amin((1, 2, 3), keepdim=True)
    return (high - low).clamp(min=1e-6)

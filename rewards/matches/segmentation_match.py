"""The object's mask against a reference clip's: the segmentation reward of PISA, and one that pulls from afar."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.grid import centroid
from reward_physics.observation import Observation
from rewards.matches.reference import measured


def segmentation_match(
    observation: Observation, *, reference_BTCHW: Tensor, distance_weight: float = 1.0, published: bool = False
) -> Tensor:
    """Overlap with the reference's mask, less the distance between the two objects:

        r = mean_t IoU(m_t, m'_t) - 1 - distance_weight mean_t |c_t - c'_t| / H

    with ' for the reference, soft masks of the one followed object, c its centroid and H the picture's height. 0 for
    the same clip. The distance has a gradient where the masks no longer meet and IoU has none. Two empty frames agree;
    where one is empty, the IoU is 0 and the distance counts as the whole height.

    The overlap of soft masks is sum min / sum max.

    `published`: r = mean_t IoU - 1 on the whole frame's mask, with products in place of min and max (a soft mask then
    misses itself), two empty frames counted as a miss, and no pull between masks that do not meet.

    Args:
        observation: needs a mask.
        reference_BTCHW: the data's clips in [0, 1] (a column of the data).
        distance_weight: >= 0.

    Returns:
        (B,), in [-1 - distance_weight * W/H, 0].

    Reference: Li et al., "PISA Experiments", 2025, section on object reward optimisation, segmentation reward.
    """
    if published:
        mask = observation.mask_BTHW
        true = measured(observation, reference_BTCHW, "whole mask", lambda seen: seen.mask_BTHW)
        return _published_iou(mask, true).mean(1) - 1
    mask, true = followed_mask(observation), measured(observation, reference_BTCHW, "mask", followed_mask)
    height_px = mask.shape[2]
    there, expected = mask.detach().sum((2, 3)) >= 1, true.sum((2, 3)) >= 1
    apart_px = centroid(mask, least_area=1e-3) - centroid(true, least_area=1e-3)
    away_px = (apart_px.square().sum(-1) + 1e-8).sqrt()
    away = torch.where(there & expected, away_px / height_px, (there != expected).to(away_px))
    overlap = torch.where(there | expected, _soft_iou(mask, true), 1.0)
    return overlap.mean(1) - 1 - distance_weight * away.mean(1)


def followed_mask(observation: Observation) -> Tensor:
    """The mask within the window that follows the object, (B, T, H, W): other objects are left out."""
    return observation.mask_BTHW * observation.image_track.window_BTHW


def _soft_iou(a_BTHW: Tensor, b_BTHW: Tensor) -> Tensor:
    """sum min(a, b) / sum max(a, b) of each frame: 1 for a soft mask and itself."""
    return torch.minimum(a_BTHW, b_BTHW).sum((2, 3)) / torch.maximum(a_BTHW, b_BTHW).sum((2, 3)).clamp(min=1e-3)


def _published_iou(a_BTHW: Tensor, b_BTHW: Tensor) -> Tensor:
    """sum a b / (sum a + sum b - sum a b) of each frame: below 1 for a soft mask and itself."""
    both = (a_BTHW * b_BTHW).sum((2, 3))
    return both / (a_BTHW.sum((2, 3)) + b_BTHW.sum((2, 3)) - both + 1e-6)

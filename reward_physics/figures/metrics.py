"""Figures of merit: g error, trajectory error, and shape apart from motion.

Axes: B clips, T frames, D coordinates, H W pixels, N values, K objects. A mask is a number in [0, 1], counted as object
from 0.5 up. Every metric says what a vanished object costs: nothing is skipped silently. The definitions under
`published_` repeat what post-training papers computed, to compare with their tables; the others are to decide by.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.grid import centroid

STANDARD_G_M_S2 = 9.81


def relative_g_error(g_N: Tensor, *, g_m_s2: float = STANDARD_G_M_S2) -> Tensor:
    """|g - g_true| / g_true per clip; NaN stays NaN.

    Args:
        g_N: measured downward acceleration, m/s^2.
        g_m_s2: the true value, > 0.
    """
    if g_m_s2 <= 0:
        raise ValueError(f"g_m_s2 must be > 0, got {g_m_s2}")
    return (g_N - g_m_s2).abs() / g_m_s2


def nan_median(values_N: Tensor) -> float:
    """Median of the measurable values, the mean of the middle two for an even count; NaN when there is none."""
    finite = values_N[torch.isfinite(values_N)].double()
    return float(torch.quantile(finite, 0.5)) if len(finite) else math.nan


def instrument_disagreement(g_N: Tensor, g_judge_N: Tensor) -> Tensor:
    """|g - g_judge| / |g_judge| per clip; NaN where either cannot measure or the judge reads zero."""
    safe = torch.where(g_judge_N == 0, torch.nan, g_judge_N)
    return (g_N - g_judge_N).abs() / safe.abs()


def trajectory_l2(position_BTD: Tensor, true_BTD: Tensor, *, missing: float) -> Tensor:
    """Mean Euclidean distance to the true position over all frames, mean_t |x_t - y_t|.

    Args:
        position_BTD: measured positions (m, or px); NaN in frames where the object is not seen.
        true_BTD: true positions, finite.
        missing: what a frame without the object costs, in the same unit (say the length of the true path).
    Returns:
        Tensor[B].
    """
    distance_BT = torch.linalg.vector_norm(_same_shape(position_BTD, true_BTD), dim=-1)
    return torch.where(torch.isfinite(distance_BT), distance_BT, missing).mean(-1)


def mask_iou(mask: Tensor, true: Tensor) -> Tensor:
    """Intersection over union of two masks over the last two axes; 1 where both are empty, 0 where one is.

    Args:
        mask, true: [..., H, W], soft or binary.
    """
    a, b = mask >= 0.5, true >= 0.5
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp(min=1), 1.0)


def mask_centroid(mask: Tensor) -> Tensor:
    """Centroid (u, v) in pixels of a soft mask over the last two axes, [..., 2]; NaN where it is empty."""
    shown = (mask.sum((-2, -1)) > 0)[..., None]
    return torch.where(shown, centroid(mask, least_area=torch.finfo(mask.dtype).tiny), torch.nan)


def shift_mask(mask: Tensor, shift_uv: Tensor) -> Tensor:
    """The mask moved by (u, v) pixels, bilinear, zero from outside.

    Args:
        mask: [..., H, W].
        shift_uv: [..., 2], px; non-finite counts as no shift.
    """
    height, width = mask.shape[-2:]
    flat = mask.reshape(-1, 1, height, width)
    shift = torch.nan_to_num(shift_uv.reshape(-1, 2), nan=0.0, posinf=0.0, neginf=0.0).to(mask)
    scale = shift.new_tensor([2.0 / width, 2.0 / height])
    theta = torch.eye(2, 3, dtype=mask.dtype, device=mask.device).repeat(len(flat), 1, 1)
    theta[:, :, 2] = -shift * scale
    grid = F.affine_grid(theta, list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, padding_mode="zeros", align_corners=False).reshape(mask.shape)


def aligned_iou(mask: Tensor, true: Tensor) -> Tensor:
    """IoU after the true mask's centroid is moved onto the measured one's, frame by frame: shape apart from motion.

    The true mask is the one that moves (by a fraction of a pixel too); what of it leaves the picture is cut off.
    Empty against empty is 1, empty against something 0.
    """
    a, b = (mask >= 0.5).float(), (true >= 0.5).float()
    return mask_iou(a, shift_mask(b, mask_centroid(a) - mask_centroid(b)))


def area_ratio(mask: Tensor, true: Tensor) -> Tensor:
    """Measured area over true area per frame; NaN where the true object is out of sight, 0 where it has vanished."""
    a, b = (mask >= 0.5).sum((-2, -1)), (true >= 0.5).sum((-2, -1))
    return torch.where(b > 0, a / b.clamp(min=1), torch.nan)


def chamfer_px(mask_HW: Tensor, true_HW: Tensor, *, missing_px: float | None = None) -> float:
    """Symmetric Chamfer distance of two masks, px: half the sum of the two mean nearest distances.

    Args:
        missing_px: the cost when exactly one is empty; by default the picture's diagonal (published code skips it).
    """
    a, b = ((image >= 0.5).nonzero().double() for image in (mask_HW, true_HW))
    if not len(a) and not len(b):
        return 0.0
    if not len(a) or not len(b):
        return math.hypot(*mask_HW.shape) if missing_px is None else missing_px
    distance = torch.cdist(a, b)
    return float(distance.amin(0).mean() + distance.amin(1).mean()) / 2


def _same_shape(position: Tensor, true: Tensor) -> Tensor:
    if position.shape != true.shape:
        raise ValueError(f"positions must have the truth's shape {tuple(true.shape)}, got {tuple(position.shape)}")
    return position - true

"""The one place for pixel centres, discs, centroids and moments of masks.

Pixels: u right, v down, in px. The centre of row i, column j lies at (u, v) = (j + 0.5, i + 0.5).

Axes: B clips, T frames, H rows, W columns; `...` stands for any leading axes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EDGE_PX = 1.5


def pixel_axes(height_px: int, width_px: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """The u of every column (W,) and the v of every row (H,), px, with the type and device of `like`."""
    v_H = torch.arange(height_px, dtype=like.dtype, device=like.device) + 0.5
    u_W = torch.arange(width_px, dtype=like.dtype, device=like.device) + 0.5
    return u_W, v_H


def pixel_grid(height_px: int, width_px: int, *, like: Tensor) -> Tensor:
    """Centres (u, v) of the pixels of a picture, (H, W, 2), px, with the type and device of `like`."""
    u_W, v_H = pixel_axes(height_px, width_px, like=like)
    return torch.stack((u_W.expand(height_px, -1), v_H[:, None].expand(-1, width_px)), dim=-1)


def pixel_centres(image: Tensor) -> Tensor:
    """Centres (u, v) of the pixels of an image (..., H, W), as (H, W, 2), px."""
    height, width = image.shape[-2:]
    return pixel_grid(height, width, like=image)


def disc(centre_B2: Tensor, uv_HW2: Tensor, radius_B: Tensor) -> Tensor:
    """Soft discs (B, H, W): 1 inside, falling to 0 over the 1.5 px beyond the radius."""
    distance = (uv_HW2 - centre_B2[:, None, None]).norm(dim=-1)
    return ((radius_B[:, None, None] + _EDGE_PX - distance) / _EDGE_PX).clamp(0, 1)


def ellipse(centre_N2: Tensor, half_extent_N2: Tensor, uv_HW2: Tensor) -> Tensor:
    """Soft upright ellipses (N, H, W): 1 inside, 0 outside, with an edge of about one pixel; differentiable.

        m = clamp(1/2 + sqrt(a b) (1 - rho), 0, 1),    rho^2 = (du / a)^2 + (dv / b)^2

    Args:
        centre_N2: (u, v), px.
        half_extent_N2: half-axes a along u and b along v, px, > 0.
        uv_HW2: pixel centres, px.
    """
    away = (uv_HW2 - centre_N2[:, None, None]) / half_extent_N2[:, None, None]
    # A root has no slope at 0, the middle of a pixel that is the ellipse's own.
    rho = (away.square().sum(-1) + 1e-12).sqrt()
    radius = half_extent_N2.prod(-1).sqrt()
    return (0.5 + radius[:, None, None] * (1 - rho)).clamp(0, 1)


def centroid(mask: Tensor, *, least_area: float = 1e-6) -> Tensor:
    """Centroid (u, v) of masks (..., H, W), as (..., 2), px; next to zero where a mask is empty.

    Args:
        mask: weights of the pixels, >= 0.
        least_area: the sum of the weights counts as this at least, px^2.
    """
    area = mask.sum((-2, -1)).clamp(min=least_area)[..., None]
    return (mask[..., None] * pixel_centres(mask)).sum((-3, -2)) / area


def mean_place(mask: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid (..., 2) of masks (..., H, W), px, and their area (...); where there is next to no mask, `otherwise`."""
    area = mask.sum((-2, -1))
    return torch.where((area > 1e-3)[..., None], centroid(mask), otherwise), area


def second_moments(mask: Tensor, *, least_area: float = 1e-6) -> Tensor:
    """Covariance of the pixels of masks (..., H, W) about their centroid, (..., 2, 2), px^2.

        C = sum m (x - c) (x - c)^T / sum m

    A disc of radius r has r^2 / 4 along every axis.
    """
    flat = mask.reshape(-1, *mask.shape[-2:])
    area = flat.sum((1, 2)).clamp(min=least_area)
    offset = pixel_centres(flat) - centroid(flat, least_area=least_area)[:, None, None]
    moments = torch.einsum("bhw,bhwi,bhwj->bij", flat, offset, offset) / area[:, None, None]
    return moments.reshape(*mask.shape[:-2], 2, 2)


def principal_variances(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Variance along the long and along the short axis, (...) each, px^2, of moments (..., 2, 2)."""
    half_trace = moments.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
    spread = (half_trace.square() - torch.linalg.det(moments)).clamp(min=0).sqrt()
    return half_trace + spread, half_trace - spread


def heaviest(mask_BHW: Tensor) -> Tensor:
    """Centre (B, 2) of the neighbourhood that holds the most mask."""
    width = mask_BHW.shape[-1]
    size = max(3, (width // 16) * 2 + 1)
    index = F.avg_pool2d(mask_BHW[:, None], size, stride=1, padding=size // 2).flatten(1).argmax(1)
    return torch.stack((index % width + 0.5, torch.div(index, width, rounding_mode="floor") + 0.5), dim=-1).to(mask_BHW)


def blob(mask_BHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (B, 2), window radius (B,) and area (B,) of one object's mask, px.

    The window is the object's longest half-axis and some margin.
    """
    longest, _ = principal_variances(second_moments(mask_BHW))
    return centroid(mask_BHW), 1.1 * 2 * longest.clamp(min=0.25).sqrt() + 0.75, mask_BHW.sum((1, 2))

"""Pixel centres, discs, centroids and moments of masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EDGE_PX = 1.5


def centre_of(window_BTHW: Tensor) -> Tensor:
    """Centroid (u, v) of every window, (B, T, 2), px; zero where it is empty."""
    total = window_BTHW.sum((2, 3)).clamp(min=1e-6)[..., None]
    return (window_BTHW[..., None] * pixel_centres(window_BTHW)).sum((2, 3)) / total


def pixel_centres(image_BTHW: Tensor) -> Tensor:
    height, width = image_BTHW.shape[-2:]
    v = torch.arange(height, dtype=image_BTHW.dtype, device=image_BTHW.device) + 0.5
    u = torch.arange(width, dtype=image_BTHW.dtype, device=image_BTHW.device) + 0.5
    return torch.stack((u.expand(height, -1), v[:, None].expand(-1, width)), dim=-1)


def disc(centre_B2: Tensor, uv_HW2: Tensor, radius_B: Tensor) -> Tensor:
    distance = (uv_HW2 - centre_B2[:, None, None]).norm(dim=-1)
    return ((radius_B[:, None, None] + _EDGE_PX - distance) / _EDGE_PX).clamp(0, 1)


def heaviest(mask_BHW: Tensor) -> Tensor:
    """Centre (B, 2) of the neighbourhood that holds the most mask."""
    width = mask_BHW.shape[-1]
    size = max(3, (width // 16) * 2 + 1)
    index = F.avg_pool2d(mask_BHW[:, None], size, stride=1, padding=size // 2).flatten(1).argmax(1)
    return torch.stack((index % width + 0.5, torch.div(index, width, rounding_mode="floor") + 0.5), dim=-1).to(mask_BHW)


def blob(mask_BHW: Tensor, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, window radius (the object's longest half-axis and some margin) and area of the start mask."""
    area = mask_BHW.sum((1, 2))
    centre = (mask_BHW[..., None] * uv).sum((1, 2)) / area.clamp(min=1e-6)[:, None]
    offset = uv - centre[:, None, None]
    moments = torch.einsum("bhw,bhwi,bhwj->bij", mask_BHW, offset, offset) / area.clamp(min=1e-6)[:, None, None]
    trace, det = moments.diagonal(dim1=1, dim2=2).sum(-1), torch.linalg.det(moments)
    longest = trace / 2 + (trace.square() / 4 - det).clamp(min=0).sqrt()
    return centre, 1.1 * 2 * longest.clamp(min=0.25).sqrt() + 0.75, area

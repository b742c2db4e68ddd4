"""Rigidity: a rigid object keeps its area and its shape in the picture while it keeps its distance.

    size    s_t = (A_t - A_0) / (A_t + A_0)                    in [-1, 1], A_0 the median of the frames that show it
    shape   f_t = (I_t - I_0) / (I_t + I_0),  I = (mu_20 + mu_02) / A^2,  Hu's first invariant: 1 / (2 pi) for a disc
    stretch q_t = |e_t - e_0|,  e = (mu_20 - mu_02, 2 mu_11) / (mu_20 + mu_02)

The invariant does not change when the object moves, turns in the picture or is scaled: it grows when the object smears
or splits. A stretch changes it by its square alone, which e, the axes of the ellipse with the mask's moments, sees at
once: 0 for a disc, 1 in length for a line; e_0 is that of the first frame that shows the object. A body that tumbles
shows other sides of itself: give a tolerance.

Reference: Hu, "Visual pattern recognition by moment invariants", 1962, equation 19.

Axes: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from reward_physics.grid import second_moments


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rigidity:
    """Changes of size and shape; zeros in frames where the border may cut the object.

    Args:
        size_BT, shape_BT: in [-1, 1].
        stretch_BT: in [0, 2].
        inside_BT: True where the object should be seen whole.
        travel_B: how far its centre moves, in radii, detached.
    """

    size_BT: Tensor
    shape_BT: Tensor
    stretch_BT: Tensor
    inside_BT: Tensor
    travel_B: Tensor


def measure_rigidity(
    mask_BTHW: Tensor, centroid_BT2: Tensor, usual_area_B: Tensor, distance_BT: Tensor | None = None
) -> Rigidity:
    """Size and shape of a mask against the usual ones of its clip; differentiable in the mask.

    Args:
        mask_BTHW: the object's soft mask, nothing else in it.
        centroid_BT2: (u, v), px.
        usual_area_B: area of the whole object, px^2.
        distance_BT: the object's distance, where it is known: areas are then taken at the first one's.
    """
    height, width = mask_BTHW.shape[-2:]
    area = mask_BTHW.sum((2, 3))
    scale = torch.ones_like(area) if distance_BT is None else (distance_BT / distance_BT[:, :1]).square().to(area)
    radius = (usual_area_B.detach() / torch.pi).sqrt()[:, None] / scale.detach().sqrt()
    at = centroid_BT2.detach()
    size_px = at.new_tensor([width, height])
    inside = ((at > 1.2 * radius[..., None]) & (at < size_px - 1.2 * radius[..., None])).all(-1)
    usual = usual_area_B.detach()[:, None].to(area)
    size = (area * scale - usual) / (area * scale + usual)
    invariant, axes = _moments(mask_BTHW, area)
    shows = inside & (area.detach() > 0.3 * usual)
    known = torch.where(shows, invariant.detach(), torch.nan).nanmedian(1).values
    known = torch.where(known.isnan(), torch.full_like(known, 1 / (2 * torch.pi)), known)[:, None]
    shape = (invariant - known) / (invariant + known)
    first = shows.float().argmax(1)[:, None, None].expand(-1, 1, 2)
    stretch = ((axes - axes.detach().gather(1, first)).square().sum(-1) + 1e-8).sqrt()
    zero = torch.zeros_like(area)
    way = torch.where(inside[..., None], at, torch.nan)
    spread = _nan_range(way[..., 0]).square() + _nan_range(way[..., 1]).square()
    return Rigidity(
        size_BT=torch.where(inside, size, zero),
        shape_BT=torch.where(shows, shape, zero),
        stretch_BT=torch.where(shows, stretch, zero),
        inside_BT=inside,
        travel_B=spread.sqrt() / radius[:, 0].to(spread),
    )


def _moments(mask: Tensor, area_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Hu's first invariant (B, T), and the axes e (B, T, 2) of the ellipse; zeros where there is no mask."""
    present_BT = area_BT.detach() > 1e-3
    safe = torch.where(present_BT, area_BT, torch.ones_like(area_BT))
    moments = second_moments(mask, least_area=1e-3)
    across, down, mixed = moments[..., 0, 0], moments[..., 1, 1], moments[..., 0, 1]
    spread = across + down
    axes = torch.stack((across - down, 2 * mixed), -1) / spread.clamp(min=1e-6)[..., None]
    invariant = torch.where(present_BT, spread / safe, torch.zeros_like(spread))
    return invariant, torch.where(present_BT[..., None], axes, torch.zeros_like(axes))


def _nan_range(values_BT: Tensor) -> Tensor:
    high = torch.where(values_BT.isnan(), -torch.inf, values_BT).amax(1)
    low = torch.where(values_BT.isnan(), torch.inf, values_BT).amin(1)
    return (high - low).clamp(min=0).nan_to_num(0.0)

"""From masks, flow and depth to the object's track in pixels; `in_metres` turns it into metres.

A detached window follows the object from frame to frame, so that far spurious mask pixels do not pull it; inside the
window the centroid, the area and the mean flow are differentiable.

Axes: B clips, T frames, S pairs of frames (S = T - stride), H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.grid import centroid, pixel_centres
from reward_physics.objects.masks import eroded
from reward_physics.objects.windows import follow


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTrack:
    """The object in the image.

    Args:
        centroid_BT2: mask-weighted centroid (u, v), px.
        area_BT: soft mask area inside the window, px^2.
        visible_BT: area over the object's usual area, clamped to [0, 1]; differentiable.
        weight_BT: trust in each frame's centroid in [0, 1], detached: seen, whole, not cut by the image's border.
        flow_BS2: robust mean flow over the object from frame s to s + stride, px; None without flow.
        surface_depth_BT: mean z-depth of the visible surface, m; None without depth.
        centre_depth_BT: the same moved to the object's centre; None without depth or camera.
        radius_px_BT: radius of the disc of the same area, px, detached.
        window_BTHW: where the object was looked for, detached.
        flow_weight_BS: trust in each flow in [0, 1], detached: where following it forward and back returns to the
            start; None where that was not checked.
        noise_px_B: noise of a centroid of weight 1 that its measurement reports, px, detached; None where it reports
            none.
    """

    centroid_BT2: Tensor
    area_BT: Tensor
    visible_BT: Tensor
    weight_BT: Tensor
    flow_BS2: Tensor | None
    surface_depth_BT: Tensor | None
    centre_depth_BT: Tensor | None
    radius_px_BT: Tensor
    window_BTHW: Tensor
    flow_weight_BS: Tensor | None = None
    noise_px_B: Tensor | None = None


def track_in_image(
    mask_BTHW: Tensor,
    *,
    first_mask_BHW: Tensor | None = None,
    flow_BSHW2: Tensor | None = None,
    stride: int = 1,
    depth_BTHW: Tensor | None = None,
    camera: Camera | None = None,
    window_BTHW: Tensor | None = None,
) -> ImageTrack:
    """Follow one object through soft masks.

    Args:
        mask_BTHW: soft masks in [0, 1].
        first_mask_BHW: the object in the first frame; without it the heaviest blob of the first mask.
        flow_BSHW2: flow over `stride` frames, px.
        stride: frames between the two ends of the flow.
        depth_BTHW: metric z-depth, m.
        camera: needed to move depth from the surface to the centre.
        window_BTHW: where the object is, where that is known already; empty in frames that do not show it.
    """
    uv_HW2 = pixel_centres(mask_BTHW)
    window = window_BTHW
    if window is None:
        window = follow(mask_BTHW.detach(), first_mask_BHW, None if flow_BSHW2 is None else flow_BSHW2.detach(), stride)
    inside = mask_BTHW * window
    area = inside.sum((2, 3))
    centre = centroid(window)
    # An empty mask leaves the window's own centre: no division by zero, no gradient.
    place = ((inside[..., None] * uv_HW2).sum((2, 3)) + 1e-4 * centre) / (area + 1e-4)[..., None]
    if window_BTHW is None:
        usual_B = _usual_area(area.detach(), first_mask_BHW)
    else:
        usual_B = _usual_area_where_seen(area.detach(), window)
    visible = (area / usual_B[:, None]).clamp(0, 1)
    weight = _trust(inside.detach(), area.detach(), usual_B)
    if window_BTHW is not None:
        # Twice its area is the object together with something else.
        weight = weight * (area.detach() < 1.8 * usual_B[:, None])
    flow = None if flow_BSHW2 is None else robust_flow(flow_BSHW2, inside.detach()[:, : flow_BSHW2.shape[1]])
    radius = (area.detach().clamp(min=1e-6) / math.pi).sqrt()
    surface = centre_depth = None
    if depth_BTHW is not None:
        surface, centre_depth = depth_of_object(depth_BTHW, inside.detach(), radius, camera)
    return ImageTrack(
        centroid_BT2=place,
        area_BT=area,
        visible_BT=visible,
        weight_BT=weight,
        flow_BS2=flow,
        surface_depth_BT=surface,
        centre_depth_BT=centre_depth,
        radius_px_BT=radius,
        window_BTHW=window,
    )


def surface_to_centre(surface_m: Tensor, radius_px: Tensor, kept: Tensor, focal_px: Tensor) -> Tensor:
    """Depth of a ball's centre from the mean depth of its visible surface.

    Over the disc of radius e r in the middle of a ball of radius r, the surface is nearer than the centre by
    r (2/3) (1 - (1 - e^2)^(3/2)) / e^2 + (e^2 / 2) r^2 / z on average: 2/3 r over the whole disc (e = 1), r in its
    middle (e = 0), and what perspective adds, since rays that spread meet the ball sooner. The silhouette of the ball
    has r / sqrt(z^2 - r^2) = radius_px / f.
    Boxes, cylinders and capsules are treated as balls of the same area.

    Args:
        surface_m: mean z-depth of the surface, m.
        radius_px: radius of the disc of the object's area, px.
        kept: e^2, the share of the area over which the mean was taken, in [0, 1].
        focal_px: px.
    """
    e2 = kept.clamp(1e-3, 1.0)
    nearer = (2 / 3) * (1 - (1 - e2).clamp(min=0) ** 1.5) / e2
    tangent = radius_px / focal_px
    share = tangent / (1 + tangent.square()).sqrt()
    return surface_m / (1 - (nearer * share + 0.5 * e2 * share.square()).clamp(max=0.5))


def _usual_area(area_BT: Tensor, first_mask_BHW: Tensor | None) -> Tensor:
    """The area the object should show: that of the first mask, or the median of the frames."""
    if first_mask_BHW is not None:
        return first_mask_BHW.to(area_BT).sum((1, 2)).clamp(min=1.0)
    return area_BT.median(dim=1).values.clamp(min=1.0)


def _usual_area_where_seen(area_BT: Tensor, window_BTHW: Tensor) -> Tensor:
    """The median area of the frames that have a window."""
    seen = window_BTHW.amax(dim=(2, 3)) > 0
    usual = torch.where(seen, area_BT, torch.nan).nanmedian(dim=1).values
    return torch.nan_to_num(usual, nan=1.0).clamp(min=1.0)


def _trust(inside_BTHW: Tensor, area_BT: Tensor, usual_B: Tensor) -> Tensor:
    """1 for a whole object inside the frame; 0 where under 40 % of it is seen or the border cuts it."""
    seen = ((area_BT / usual_B[:, None] - 0.4) / 0.2).clamp(0, 1)
    top, bottom = inside_BTHW[:, :, 0].sum(-1), inside_BTHW[:, :, -1].sum(-1)
    left, right = inside_BTHW[..., 0].sum(-1), inside_BTHW[..., -1].sum(-1)
    cut = top + bottom + left + right
    return seen * (cut < 0.75)


def robust_flow(flow_BSHW2: Tensor, inside_BSHW: Tensor) -> Tensor:
    """Robust mean flow over the object: detached weights (eroded mask, Cauchy's on the residual), differentiable
    flow."""
    batch, pairs, height, width = inside_BSHW.shape
    core = eroded(inside_BSHW.reshape(-1, 1, height, width)).reshape(inside_BSHW.shape)
    thin = (core.sum((2, 3), keepdim=True) < 3).to(core)
    base = (thin * inside_BSHW.square() + (1 - thin) * core) + 1e-8
    weight, flow = base, flow_BSHW2.detach()
    for _ in range(3):
        mean = (flow * weight[..., None]).sum((2, 3)) / weight.sum((2, 3))[..., None]
        squared = (flow - mean[:, :, None, None]).square().sum(-1)
        spread = (weight * squared).sum((2, 3)) / weight.sum((2, 3)) + 0.01
        weight = base / (1 + squared / (2 * spread[..., None, None]))
    return (flow_BSHW2 * weight[..., None]).sum((2, 3)) / weight.sum((2, 3))[..., None]


def depth_of_object(
    depth_BTHW: Tensor, inside_BTHW: Tensor, radius_px_BT: Tensor, camera: Camera | None
) -> tuple[Tensor, Tensor | None]:
    """Mean z-depth of the object's visible surface (B, T), m, and that of its centre; None without a camera.

    Args:
        depth_BTHW: metric z-depth, m.
        inside_BTHW: soft mask of the object, detached.
        radius_px_BT: radius of the disc of the object's area, px.
    """
    surface, kept = _object_depth(depth_BTHW, inside_BTHW)
    if camera is None:
        return surface, None
    return surface, surface_to_centre(surface, radius_px_BT, kept, camera.focal_px_B[:, None].to(surface))


def _object_depth(depth_BTHW: Tensor, inside_BTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Robust mean depth over the eroded object, and the share of the object's area that it was taken over."""
    batch, frames, height, width = inside_BTHW.shape
    core = eroded(inside_BTHW.reshape(-1, 1, height, width)).reshape(inside_BTHW.shape)
    thin = (core.sum((2, 3), keepdim=True) < 3).to(core)
    base = thin * inside_BTHW.square() + (1 - thin) * core + 1e-8
    weight, depth = base, depth_BTHW.detach()
    for _ in range(3):
        mean = (depth * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True)
        squared = (depth - mean).square()
        spread = (weight * squared).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True)
        weight = base / (1 + squared / (4 * spread + (0.01 * mean).square()))
    kept = base.sum((2, 3)) / inside_BTHW.sum((2, 3)).clamp(min=1e-6)
    return (depth_BTHW * weight).sum((2, 3)) / weight.sum((2, 3)), kept.clamp(0, 1)

"""Metres without a depth network: from a known scale, or from the object's known size.

An object of diameter D m that shows d px across has d / D pixels a metre, and lies at the z-depth z = f / (pixels a
metre) of a camera with focal length f px.

Axes: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.grid import principal_variances, second_moments
from reward_physics.tracks.in_metres import Line, fit_distance, horizontal_distance

SCALE_SD = 0.01
"""Relative standard error of a scale or size given by hand: one pixel in a stick of a hundred."""

_EDGE_SD_PX = 0.3
"""How well the diameter of an object is known, px, however many frames show it."""

_FAR_M = 100.0


def facing_camera(px_per_m_B: Tensor, height_px: int, width_px: int) -> Camera:
    """A level camera far in front of the vertical plane that the object moves in, `px_per_m` pixels a metre there."""
    batch = len(px_per_m_B)
    camera = Camera.looking(height_px=height_px, width_px=width_px, fov_y_deg=45.0, batch_size=batch)
    intrinsics = camera.intrinsics_B33.to(px_per_m_B).clone()
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = px_per_m_B * _FAR_M
    return Camera(
        intrinsics_B33=intrinsics,
        world_from_camera_B44=camera.world_from_camera_B44.to(px_per_m_B),
        height_px=height_px,
        width_px=width_px,
    )


@torch.no_grad()
def apparent_diameter_px(inside_BTHW: Tensor) -> Tensor:
    """Diameter of the disc that has the mask's short axis, (B, T): motion blur lengthens the other one. 0 if empty.

    A disc of diameter d has a standard deviation of d / 4 along every axis.
    """
    inside = inside_BTHW.detach().double()
    _, short = principal_variances(second_moments(inside))
    return torch.where(inside.sum((2, 3)) > 0.5, 4 * short.clamp(min=1 / 12).sqrt(), 0.0).to(inside_BTHW)


def typical_diameter_px(diameter_BT: Tensor, weight_BT: Tensor) -> Tensor:
    """Median over the trusted frames, (B,); 1 where there is none."""
    known = torch.where((weight_BT > 0.1) & (diameter_BT > 0), diameter_BT, torch.nan)
    return torch.nan_to_num(known.nanmedian(dim=1).values, nan=1.0)


@torch.no_grad()
def distance_from_scale(
    camera: Camera,
    *,
    centroid_BT2: Tensor,
    weight_BT: Tensor,
    time_BT: Tensor,
    px_per_m_B: Tensor | None = None,
    diameter_m_B: Tensor | None = None,
    diameter_BT: Tensor | None = None,
    speed_sd_m_s: float = 0.0,
) -> Line:
    """The object's horizontal distance from the camera, detached.

    Args:
        centroid_BT2, weight_BT: the object's track, px.
        px_per_m_B: pixels a metre where the object is on average; it goes before the diameter.
        diameter_m_B: the object's diameter, m.
        diameter_BT: its diameter in the picture, px.
        speed_sd_m_s: as in `fit_distance`; with 0 the distance is constant.
    """
    focal_B = camera.focal_px_B.to(centroid_BT2)
    weight = weight_BT.detach()
    if px_per_m_B is not None:
        total = weight.sum(1).clamp(min=1e-6)
        middle = (weight[..., None] * centroid_BT2).sum(1) / total[:, None]
        depth = (focal_B / px_per_m_B.to(focal_B))[:, None]
        distance = horizontal_distance(camera, middle[:, None], depth)[:, 0].double()
        return Line.constant(distance, relative_sd=SCALE_SD)
    assert diameter_m_B is not None and diameter_BT is not None
    usual = typical_diameter_px(diameter_BT, weight)
    seen = torch.where(diameter_BT > 0, diameter_BT, usual[:, None])
    depth = focal_B[:, None] * diameter_m_B.to(focal_B)[:, None] / seen
    line = fit_distance(
        horizontal_distance(camera, centroid_BT2, depth),
        time_BT,
        weight,
        speed_sd_m_s=speed_sd_m_s,
        bias_sd=SCALE_SD,
    )
    edge = (_EDGE_SD_PX / usual.double()).square()
    return Line(
        distance_B=line.distance_B,
        slope_B=line.slope_B,
        mid_time_B=line.mid_time_B,
        relative_sd_B=(line.relative_sd_B.square() + edge).sqrt(),
        slope_sd_B=line.slope_sd_B,
    )

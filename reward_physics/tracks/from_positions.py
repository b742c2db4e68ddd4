"""From measured positions to the object's track in pixels: a latent probe's, or a point tracker's.

Axes: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.objects.finder import Positions
from reward_physics.tracks.in_image import ImageTrack, depth_of_object


def track_from_positions(
    positions: Positions,
    *,
    window_BTHW: Tensor,
    mask_BTHW: Tensor | None = None,
    depth_BTHW: Tensor | None = None,
    camera: Camera | None = None,
) -> ImageTrack:
    """The track of an object whose positions are measured.

    The frames are weighed by their variance s_t^2 and by how much of the object they show, v_t:

        w_t = clamp((v_t - 0.4) / 0.2, 0, 1) min(1, s^2 / s_t^2),    s^2 = median of s_t^2 where the object is seen

    The noise of a position of weight 1 is s. The track has no flow: the positions are all that is known of the motion.

    Args:
        positions: the object's path.
        window_BTHW: where the object is; empty in frames that do not show it.
        mask_BTHW: its soft mask, for the depth.
        depth_BTHW: metric z-depth, m; needs a mask.
        camera: needed to move depth from the surface to the centre.
    """
    half, visible = positions.half_extent_BT2, positions.visible_BT.clamp(0, 1)
    area = math.pi * half.prod(-1) * visible
    radius = (area.detach().clamp(min=1e-6) / math.pi).sqrt()
    weight, noise_px_B = _trust(visible.detach(), positions.variance_px2_BT.detach())
    surface = centre_depth = None
    if depth_BTHW is not None:
        assert mask_BTHW is not None
        surface, centre_depth = depth_of_object(depth_BTHW, mask_BTHW.detach() * window_BTHW, radius, camera)
    return ImageTrack(
        centroid_BT2=positions.centre_BT2,
        area_BT=area,
        visible_BT=visible,
        weight_BT=weight,
        flow_BS2=None,
        surface_depth_BT=surface,
        centre_depth_BT=centre_depth,
        radius_px_BT=radius,
        window_BTHW=window_BTHW,
        noise_px_B=noise_px_B,
    )


def _trust(visible_BT: Tensor, variance_px2_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, T) in [0, 1], and the noise (B,) of a position of weight 1, px."""
    variance = variance_px2_BT.clamp(min=1e-12)
    usual_B = torch.where(visible_BT > 0.5, variance, torch.nan).nanmedian(1).values
    usual_B = torch.where(usual_B.isnan(), variance.median(1).values, usual_B)
    seen = ((visible_BT - 0.4) / 0.2).clamp(0, 1)
    return seen * (usual_B[:, None] / variance).clamp(max=1), usual_B.sqrt()

"""Flow of a small object, in an enlarged crop that follows it.

RAFT matches cells of 8 x 8 px, so an object of that size is lost at native size. The crop puts the object in the middle
of every frame at a size that RAFT sees well; what remains between two crops is small, and the object's displacement is
that of the crop plus what remains:

    f(s) = c(s + k) - c(s) + side / size * f_crop(s)

Axes: B clips, T frames, S pairs of frames (S = T - stride), C colours, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.estimators.flow import SMALLEST_SIDE_PX, forward_backward_consistency
from reward_physics.grid import pixel_grid
from reward_physics.tracks.in_image import robust_flow

SIDE_IN_RADII = 6.0
"""Side of the crop over the radius of the object's window: the object fills about a third of it."""


def follow_crops(images_BTCHW: Tensor, centre_BT2: Tensor, side_px_B: Tensor, size_px: int) -> Tensor:
    """Square crops around moving centres at one size, (B, T, C, size, size), bilinear; outside counts as the border.

    Args:
        images_BTCHW: frames or masks.
        centre_BT2: (u, v) of the crop's middle, px, taken as it is.
        side_px_B: side of the square in the picture, px.
    """
    batch, frames, channels, height, width = images_BTCHW.shape
    # Several samples a pixel where the crop shrinks the picture, so that nothing is skipped.
    dense = max(1, math.ceil(float(side_px_B.max()) / size_px))
    samples = size_px * dense
    steps = pixel_grid(samples, samples, like=images_BTCHW) / samples - 0.5
    offset = steps * side_px_B.to(images_BTCHW)[:, None, None, None]
    place = centre_BT2.detach().to(images_BTCHW)[:, :, None, None] + offset[:, None]
    grid = place / place.new_tensor([width, height]) * 2 - 1
    crops = F.grid_sample(images_BTCHW.flatten(0, 1), grid.flatten(0, 1), padding_mode="border", align_corners=False)
    return (F.avg_pool2d(crops, dense) if dense > 1 else crops).view(batch, frames, channels, size_px, size_px)


def object_flow(
    frames_BTCHW: Tensor,
    inside_BTHW: Tensor,
    *,
    centre_BT2: Tensor,
    radius_B: Tensor,
    flow: Callable[..., Any],
    stride: int = 1,
    size_px: int = SMALLEST_SIDE_PX,
) -> tuple[Tensor, Tensor]:
    """Displacement of the object over `stride` frames, px, (B, S, 2), and the trust in it (B, S).

    Args:
        inside_BTHW: soft mask of the object.
        centre_BT2, radius_B: where it is and how large, px; detached.
        flow: a FlowEstimator. Where it can look both ways, the trust rises with the share of the object for which
            following the flow forward and back returns to the start, from 0 at a half to 1 at 0.9; else it is 1.
    """
    side = SIDE_IN_RADII * radius_B
    crops = follow_crops(frames_BTCHW, centre_BT2, side, size_px)
    inside = follow_crops(inside_BTHW.detach()[:, :, None], centre_BT2, side, size_px)[:, :-stride, 0]
    if hasattr(flow, "both_ways"):
        forward, backward = flow.both_ways(crops, stride=stride)
        agree = forward_backward_consistency(forward, backward)
        trust = (agree * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1e-6)
    else:
        forward = flow(crops, stride=stride)
        trust = torch.ones_like(inside[:, :, 0, 0])
    remains = robust_flow(forward, inside) * (side / size_px).to(forward)[:, None, None]
    carried = (centre_BT2[:, stride:] - centre_BT2[:, :-stride]).detach().to(remains)
    # A flow that half of the object disagrees with says nothing of the other half.
    return carried + remains, ((trust.detach() - 0.5) / 0.4).clamp(0, 1)

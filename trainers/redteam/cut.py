"""A clip taken apart into its object and its background, and put together again.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """A clip taken apart.

    Args:
        frames_BTCHW, mask_BTHW: the true clip, and the object in it, in [0, 1].
        plate_BTCHW: the frames with the background repaired under the object.
        centroid_BT2: the object's centroid (u, v), px; where it is not seen, the last one known.
    """

    frames_BTCHW: Tensor
    mask_BTHW: Tensor
    plate_BTCHW: Tensor
    centroid_BT2: Tensor


def cut_out(frames_BTCHW: Tensor, mask_BTHW: Tensor) -> Cut:
    """Take clips apart: behind the object stands the median of the frames in which a pixel is free, else its row."""
    mask = mask_BTHW.to(frames_BTCHW)
    near = F.max_pool2d(mask, 5, stride=1, padding=2)[:, :, None] > 0
    free = torch.where(near, torch.nan, frames_BTCHW)
    median = free.nanmedian(dim=1, keepdim=True).values
    row = torch.nan_to_num(median.nanmean(-1, keepdim=True), nan=0.5)
    usual = torch.where(median.isnan(), row, median)
    plate = torch.where(near, usual, frames_BTCHW)
    height, width = mask.shape[2:]
    v, u = torch.arange(height).to(mask) + 0.5, torch.arange(width).to(mask) + 0.5
    area = mask.sum((2, 3))
    centre = torch.stack(((mask.sum(2) * u).sum(-1), (mask.sum(3) * v).sum(-1)), -1) / area.clamp(min=1)[..., None]
    for t in range(1, mask.shape[1]):
        centre[:, t] = torch.where(area[:, t, None] > 0, centre[:, t], centre[:, t - 1])
    return Cut(frames_BTCHW=frames_BTCHW, mask_BTHW=mask, plate_BTCHW=plate, centroid_BT2=centre)


def recompose(
    cut: Cut,
    *,
    source_BT: Tensor | None = None,
    centre_BT2: Tensor | None = None,
    scale_BT2: Tensor | None = None,
    opacity_BT: Tensor | None = None,
    onto_BTCHW: Tensor | None = None,
) -> Tensor:
    """The object of frame `source` put at `centre`, stretched by `scale` and as opaque as `opacity`, on the plate."""
    batch, frames, _, height, width = cut.frames_BTCHW.shape
    like = cut.centroid_BT2
    source = torch.arange(frames).expand(batch, -1) if source_BT is None else source_BT
    index = torch.arange(batch)[:, None]
    own = cut.centroid_BT2[index, source]
    centre = own if centre_BT2 is None else centre_BT2
    scale = like.new_ones(batch, frames, 2) if scale_BT2 is None else scale_BT2
    opacity = like.new_ones(batch, frames) if opacity_BT is None else opacity_BT
    v, u = torch.arange(height).to(like) + 0.5, torch.arange(width).to(like) + 0.5
    grid = torch.stack((u.expand(height, -1), v[:, None].expand(-1, width)), -1)
    from_uv = (grid - centre[:, :, None, None]) / scale[:, :, None, None] + own[:, :, None, None]
    place = (from_uv / like.new_tensor([width, height]) * 2 - 1).flatten(0, 1)
    sprite = torch.cat((cut.frames_BTCHW, cut.mask_BTHW[:, :, None]), 2)[index, source].flatten(0, 1)
    moved = F.grid_sample(sprite, place, padding_mode="zeros", align_corners=False).unflatten(0, (batch, frames))
    # Colours are bled outwards by the mask itself: at the edge both are weighed alike.
    alpha = (moved[:, :, 3:] * opacity[:, :, None, None, None]).clamp(0, 1)
    onto = cut.plate_BTCHW if onto_BTCHW is None else onto_BTCHW
    return onto * (1 - alpha) + moved[:, :, :3] * alpha

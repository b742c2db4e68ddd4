"""Ghosts of a background plate: an object that stood still for most of a clip, and was taken for background there.

A median over the frames shows an object that is released at rest in a short clip where it stood, or one that comes to
rest early where it lies. Where the first or the last frames look otherwise than the plate, one of the two is the
background and the other has the object on it. The background goes on beyond the border of the region, an object ends
there: of the two that is taken whose colours at the border differ less from those around it.

Axes: T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_ENDS_FRAMES = 3
_LEAST_AREA_PX = 9
_LARGEST_SHARE = 0.25
_CLEARLY = 0.7
"""Another look is taken only where its contrast at the border is less than this share of the plate's."""

_NEAR_PX = 3
_AROUND_PX = 4 * _NEAR_PX
_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@torch.no_grad()
def without_ghosts(plate_CHW: Tensor, frames_TCHW: Tensor, *, least_change: float) -> Tensor:
    """The plate with the background of the first or last frames where it shows an object that stood still.

    Args:
        plate_CHW: the median of the frames.
        frames_TCHW: the frames it was taken over, from a camera that stands still.
        least_change: changes of colour (root mean square) under this are noise.
    """
    if len(frames_TCHW) < 2 * _ENDS_FRAMES:
        return plate_CHW
    plate = plate_CHW.cpu().numpy().copy()
    for ends in (frames_TCHW[-_ENDS_FRAMES:], frames_TCHW[:_ENDS_FRAMES]):
        end_plate = ends.median(dim=0).values.cpu().numpy()
        for box, region in _regions(end_plate - plate, least_change):
            part, end_part = plate[(slice(None), *box)], end_plate[(slice(None), *box)]
            if _border_contrast(end_part, region) < _CLEARLY * _border_contrast(part, region):
                part[:, region] = end_part[:, region]
    return torch.from_numpy(plate).to(plate_CHW)


def _regions(change_CHW: np.ndarray, least_change: float) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """Connected regions of change, parted where it goes the other way: an object came or went. Each is a box with its
    surroundings, and its pixels there."""
    size = np.sqrt(np.square(change_CHW).mean(axis=0))
    labels = np.zeros(size.shape, dtype=np.int32)
    count = int(np.asarray(ndimage.label(size > least_change, structure=_NEIGHBOURS, output=labels)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    regions = []
    for label, tight in enumerate(ndimage.find_objects(labels), 1):
        if not _LEAST_AREA_PX <= areas[label - 1] <= _LARGEST_SHARE * labels.size:
            continue
        box = _widened(tight, labels.shape)
        inside = labels[box] == label
        changes = change_CHW[(slice(None), *box)][:, inside]
        way = np.linalg.svd(changes, full_matrices=False)[0][:, 0]
        for sign in (1.0, -1.0):
            part = inside.copy()
            part[inside] = sign * (way @ changes) > 0
            if part.sum() >= _LEAST_AREA_PX:
                regions.append((box, ndimage.binary_dilation(part, _NEIGHBOURS) & ~(inside & ~part)))
    return regions


def _widened(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A box with all that the contrast at its region's border looks at."""
    rows, columns = (
        slice(max(0, side.start - _AROUND_PX), min(length, side.stop + _AROUND_PX))
        for side, length in zip(box, shape, strict=True)
    )
    return rows, columns


def _border_contrast(picture_CHW: np.ndarray, region_HW: np.ndarray) -> float:
    """Mean distance of the colours just inside a region's border to the mean of those just outside, near by."""
    outside = ndimage.binary_dilation(region_HW, _NEIGHBOURS, iterations=_NEAR_PX) & ~region_HW
    inner = np.asarray(ndimage.binary_erosion(region_HW, _NEIGHBOURS, iterations=2, border_value=1), dtype=bool)
    border = region_HW & ~inner
    share = ndimage.uniform_filter(outside.astype(float), 2 * _NEAR_PX + 1)
    border &= share > 0
    if not border.any():
        return np.inf
    around = np.stack([ndimage.uniform_filter(colour * outside, 2 * _NEAR_PX + 1) for colour in picture_CHW])
    away = picture_CHW[:, border] - around[:, border] / share[border]
    return float(np.sqrt(np.square(away).sum(axis=0)).mean())

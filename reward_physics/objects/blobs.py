"""Blobs of change: what differs from the background plate, frame by frame, described by a few numbers each.

All of it is detached: it says where to look, not what is measured.

Axes: T frames, C colours, H rows, W columns, N blobs of a frame.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from reward_physics.objects.ghosts import without_ghosts

LEAST_CHANGE = 0.04
"""Changes of colour under this (ten of 256 levels) are never an object: compression leaves as much."""

PLATE_FRAMES = 41
"""Frames that the background plate is the median of, at most."""

_NOISE_FACTOR = 6.0
_MOST_BLOBS = 24
_LEAST_AREA_PX = 4
_SHADES, _TINT = (0.25, 1.6), 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blobs:
    """The blobs of one frame, strongest first.

    Args:
        centre_N2: centroid (u, v) weighted by the change, px.
        area_N: px^2.
        axes_N2: standard deviations along the short and the long axis, px.
        colour_N3: mean colour.
        change_N: sum of the change over the blob.
        sharpness_N: 90th percentile of the gradient of the change, per px: shadows of wide lights are soft.
        border_N: whether it touches the picture's border.
        box_N4: first and past-last row, first and past-last column.
        shades_N: whether it only dims or lights what lies behind it, as a shadow does, or the place where one was;
            False where the plate is not given.
    """

    centre_N2: np.ndarray
    area_N: np.ndarray
    axes_N2: np.ndarray
    colour_N3: np.ndarray
    change_N: np.ndarray
    sharpness_N: np.ndarray
    border_N: np.ndarray
    box_N4: np.ndarray
    shades_N: np.ndarray

    def __len__(self) -> int:
        return len(self.area_N)


@torch.no_grad()
def background_plate(frames_TCHW: Tensor, *, hidden_THW: Tensor | None = None) -> Tensor:
    """The scene without what moves, (C, H, W): the median over at most 41 frames, less ghosts of what stood still.

    Args:
        hidden_THW: True where the background is known to be hidden by an object. Where it is
            never seen, the nearest pixel at which it is.
    """
    frames = len(frames_TCHW)
    keep = torch.linspace(0, frames - 1, min(frames, PLATE_FRAMES), device=frames_TCHW.device).round().long().unique()
    chosen = frames_TCHW.detach()[keep]
    if hidden_THW is None:
        return without_ghosts(chosen.median(dim=0).values, chosen, least_change=LEAST_CHANGE)
    hidden = hidden_THW[keep]
    plate = torch.where(hidden[:, None], torch.nan, chosen).nanmedian(dim=0).values
    unknown = hidden.all(dim=0).cpu().numpy()
    if unknown.all():
        return chosen.median(dim=0).values
    if unknown.any():
        nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
        rows, columns = torch.from_numpy(np.asarray(nearest)).to(plate.device)
        plate = plate[:, rows, columns]
    return plate


def change_from(frames_TCHW: Tensor, plate_CHW: Tensor) -> Tensor:
    """Root mean square change of colour against the plate, (T, H, W), differentiable in the frames.

        d = |I - s B| / sqrt(C)

    with s the frame's own exposure against the plate: the median of I / B where the plate is not dark.
    """
    with torch.no_grad():
        # Enough pixels for a median of the exposure, whatever the size of the picture.
        step = max(1, min(frames_TCHW.shape[-2:]) // 60)
        grid_THW = frames_TCHW.detach()[..., ::step, ::step].mean(1)
        plate_HW = plate_CHW[..., ::step, ::step].mean(0)
        lit = plate_HW > 0.1
        ratio_T = torch.ones(len(frames_TCHW), device=frames_TCHW.device, dtype=frames_TCHW.dtype)
        if lit.sum() >= 50:
            ratio_T = (grid_THW[:, lit] / plate_HW[lit]).median(dim=1).values
    squared = (frames_TCHW - ratio_T[:, None, None, None] * plate_CHW).square().mean(1)
    return (squared + 1e-12).sqrt()


@torch.no_grad()
def threshold_of(frames_TCHW: Tensor, plate_CHW: Tensor) -> Tensor:
    """Change (H, W) above which a pixel is taken to have changed: six times its usual one, smoothed.

    The usual change is the median over the first or over the second half of the frames, whichever is less: an object
    that stands still for one half is no noise.
    """
    chosen = change_from(frames_TCHW[:: max(1, len(frames_TCHW) // PLATE_FRAMES)], plate_CHW)
    half = (len(chosen) + 1) // 2
    usual = torch.minimum(chosen[:half].median(dim=0).values, chosen[-half:].median(dim=0).values)
    usual = F.avg_pool2d(usual[None], 5, stride=1, padding=2, count_include_pad=False)[0]
    return (_NOISE_FACTOR * usual).clamp(min=LEAST_CHANGE)


@torch.no_grad()
def find_blobs(frame_CHW: Tensor, change_HW: Tensor, threshold_HW: Tensor, plate_CHW: Tensor | None = None) -> Blobs:
    """Connected regions where the change, averaged over 3 x 3 px, exceeds its threshold."""
    smooth = F.avg_pool2d(change_HW[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    changed = smooth > threshold_HW
    labels = np.zeros(changed.shape, dtype=np.int32)
    count = int(np.asarray(ndimage.label(changed.cpu().numpy(), structure=np.ones((3, 3)), output=labels)))
    change, frame = change_HW.cpu().numpy(), frame_CHW.cpu().numpy()
    plate = None if plate_CHW is None else plate_CHW.cpu().numpy()
    total = np.bincount(labels.ravel(), weights=change.ravel(), minlength=count + 1)[1:]
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(float)
    order = [n for n in np.argsort(-total) if area[n] >= _LEAST_AREA_PX][:_MOST_BLOBS]
    boxes = ndimage.find_objects(labels)
    rows = [_describe(frame, change, labels, n + 1, boxes[n], plate) for n in order]
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else _NOTHING
    names = [field.name for field in dataclasses.fields(Blobs)]
    return Blobs(**dict(zip(names, columns, strict=True)))


_NOTHING = [np.zeros((0, *shape)) for shape in ((2,), (), (2,), (3,), (), (), (), (4,), ())]


def _describe(
    frame: np.ndarray, change: np.ndarray, labels: np.ndarray, label: int, box, plate: np.ndarray | None
) -> tuple:
    top, bottom, left, right = box[0].start, box[0].stop, box[1].start, box[1].stop
    inside = labels[box] == label
    weight = change[box] * inside
    v, u = np.nonzero(inside)
    w = weight[inside]
    u, v = u + left + 0.5, v + top + 0.5
    total = w.sum()
    centre = np.array([(w * u).sum(), (w * v).sum()]) / total
    spread = np.cov(np.stack((u, v)), aweights=np.ones_like(w), bias=True) if len(w) > 1 else np.zeros((2, 2))
    axes = np.sqrt(np.linalg.eigvalsh(spread).clip(min=1 / 12))
    colour = frame[(slice(None), *box)][:, inside].mean(axis=1)
    gradient = np.hypot(*np.gradient(change[box])) if min(weight.shape) > 1 else weight
    height, width = change.shape
    border = top == 0 or left == 0 or bottom == height or right == width
    return (
        centre,
        float(inside.sum()),
        axes,
        colour,
        float(total),
        float(np.quantile(gradient[inside], 0.9)),
        border,
        np.array([top, bottom, left, right]),
        plate is not None
        and _only_shades(frame[(slice(None), *box)][:, inside], plate[(slice(None), *box)][:, inside]),
    )


def _only_shades(colour_CM: np.ndarray, behind_CM: np.ndarray) -> bool:
    """Whether colours are those behind them in another light, pixel by pixel: I = s B.

    On simulated clips what is left of the change, |I - s B| / |I - B|, is at most 0.01 for shadows and 0.3 to 0.9 for
    objects; a shade of under a quarter, or of over 1.6, is none in a lit room.
    """
    shade_M = (colour_CM * behind_CM).sum(0) / np.square(behind_CM).sum(0).clip(min=1e-4)
    left = np.sqrt(np.square(colour_CM - shade_M * behind_CM).mean(0)).mean()
    whole = np.sqrt(np.square(colour_CM - behind_CM).mean(0)).mean()
    return bool(_SHADES[0] < shade_M.mean() < _SHADES[1] and left < _TINT * whole)

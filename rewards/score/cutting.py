"""Which part of a long or large clip is measured: a coarse pass finds the flight, and a fine one reads it.

Axes: T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from reward_physics.files.footage import Clock, Cut, Footage, Frames
from reward_physics.objects.survey import Sight, survey

MEASURED_WHOLE = 36_000_000
"""Numbers (frames x 3 x rows x columns) up to which a clip is measured as it is."""

_CUT = 14_000_000
"""Numbers that a cut holds at most."""

_COARSE_SIDE_PX = 448
_COARSE_RATE_HZ = 40.0
_PIECE, _OVERLAP = 320, 64
_MOST_FRAMES, _LEAST_FRAMES = 160, 48
_FLIGHT_FRAMES = 24
_DIAMETER_PX = (14.0, 40.0)
"""The object's diameter in a cut: never made smaller than the first to have more frames, nor left larger than the
second."""


def cut_of(footage: Footage, clock: Clock, first_mask_HW: Tensor | None, saying: Callable[[str], object]) -> Cut:
    """The part of a clip that is measured: the frames in which the thing in flight is seen, and what it crosses.

    Where nothing moves like one, it is the whole picture, made small.

    Args:
        first_mask_HW: the object in the first frame, where that is known; the cut then begins there.
        saying: told what is being done.
    """
    step = max(1, round(clock.fps / _COARSE_RATE_HZ))
    best: tuple[Sight, Frames] | None = None
    saying("reading")
    size, last = (0, 0), footage.first
    for piece in footage.pieces(step=step, length=_PIECE, overlap=_OVERLAP, largest_px=_COARSE_SIDE_PX):
        saying("finding")
        size, last = (piece.height_px, piece.width_px), int(piece.numbers_T[-1])
        if first_mask_HW is None or int(piece.numbers_T[0]) == footage.first:
            mask = None if first_mask_HW is None else _made_small(first_mask_HW, piece.images_THWC.shape[1:3])
            sight = survey(piece.images_THWC, _ticks(clock, piece), mask)
            if sight is not None and (best is None or sight.merit > best[0].merit):
                best = sight, piece
        saying("reading")
    if best is None:
        return _picture(range(footage.first, last + 1), size)
    return _around(*best, size, step, footage.first if first_mask_HW is not None else None)


def _around(sight: Sight, piece: Frames, size: tuple[int, int], step: int, begin: int | None) -> Cut:
    """The cut around what was seen."""
    to_clip = size[1] / piece.images_THWC.shape[2]
    first, last = (int(piece.numbers_T[n]) for n in sight.frames)
    flight = tuple(int(piece.numbers_T[n]) for n in sight.flight)
    diameter = sight.diameter_px * to_clip
    # A flight that would have too few frames among so many is taken with what lies beside it.
    every = math.ceil((last - first + 1) / _MOST_FRAMES)
    if (flight[1] - flight[0] + 1) / every < _FLIGHT_FRAMES:
        beside = (flight[1] - flight[0] + 1) // 2
        first, last = max(first, flight[0] - beside), min(last, flight[1] + beside)
    first = max(int(piece.numbers_T[0]), first - step) if begin is None else begin
    last = min(int(piece.numbers_T[-1]) + step - 1, last + step)
    if not sight.still:
        return _cut(first, last, (0, 0, size[1], size[0]), diameter)
    margin = 1.5 * diameter + 8 * to_clip
    left, top, right, bottom = (side * to_clip for side in sight.box)
    box = (
        max(0, int(left - margin)),
        max(0, int(top - margin)),
        min(size[1], math.ceil(right + margin)),
        min(size[0], math.ceil(bottom + margin)),
    )
    return _cut(first, last, box, diameter)


def _cut(first: int, last: int, box: tuple[int, int, int, int], diameter_px: float) -> Cut:
    """Frames and size so that it holds _CUT numbers at most."""
    width, height = box[2] - box[0], box[3] - box[1]
    least, most = _DIAMETER_PX
    wanted = min(1.0, most / diameter_px)
    # Rather fewer frames than an object of less than so many pixels.
    whole = 3 * width * height * min(1.0, max(wanted, least / diameter_px)) ** 2
    frames = min(_MOST_FRAMES, max(_LEAST_FRAMES, int(_CUT / max(whole, 1))))
    every = math.ceil((last - first + 1) / frames)
    numbers = range(first, last + 1, every)
    scale = min(wanted, math.sqrt(_CUT / (3 * width * height * len(numbers))))
    if scale > 0.9:
        scale = 1.0
    return _sized(numbers, box, scale)


def _sized(numbers: range, box: tuple[int, int, int, int], scale: float) -> Cut:
    return Cut(
        numbers=numbers,
        left=box[0],
        top=box[1],
        height_px=max(16, int((box[3] - box[1]) * scale)),
        width_px=max(16, int((box[2] - box[0]) * scale)),
        scale=scale,
    )


def _picture(numbers: range, size: tuple[int, int]) -> Cut:
    """The whole picture, made small."""
    every = math.ceil(len(numbers) / _MOST_FRAMES)
    kept = numbers[::every]
    scale = min(1.0, math.sqrt(_CUT / (3 * size[0] * size[1] * len(kept))))
    return _sized(kept, (0, 0, size[1], size[0]), scale)


def _ticks(clock: Clock, piece: Frames) -> np.ndarray:
    times = clock.times_of(piece)
    if times is None:
        return np.arange(len(piece.numbers_T), dtype=float)
    return (times / times.diff().median()).numpy()


def _made_small(mask_HW: Tensor, size: tuple[int, ...]) -> Tensor:
    return (F.interpolate(mask_HW[None, None].float(), size=tuple(size), mode="area")[0, 0] > 0.5).float()

"""A clip's frames at a lower frame rate than its own: taken by their times, so that every speed stays as it was.

Axes: T frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SAME = 0.005
"""Rates that differ by less than this share are one: 23.976 and 24. The clip then keeps its own."""

LARGEST_SHIFT = 0.1
"""How far a frame may lie from its time, as a share of the time between two frames."""

NOT_PER_FRAME = ("intrinsics", "world_from_camera", "impact_times_s")
"""Arrays whose first axis is no time, whatever its length."""


def frames_at(count: int, rate: float, wanted: float, *, clip: str) -> list[int] | None:
    """The frames of a clip of `count` at `rate` that lie at the times of one at `wanted` frames a second.

    Args:
        clip: its name, for messages.

    Returns:
        Their numbers, or None where the clip is at that rate already.

    Raises:
        ValueError: the wanted rate is above the clip's, or no frame lies near enough to a time.
    """
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"clip {clip}: fps must be > 0, got {rate:g}: give its frames a second")
    if abs(rate / wanted - 1) < SAME:
        return None
    lower = [rate / n for n in range(1, 6)]
    advice = f"take one of {', '.join(f'{value:g}' for value in lower)}, or leave fps out for the clip's own"
    if wanted > rate:
        raise ValueError(f"fps {wanted:g} is above the {rate:g} frames a second of clip {clip}: {advice}")
    times = np.arange(int((count - 1) * wanted / rate + 1 + 1e-9)) * rate / wanted
    indices = np.floor(times + 0.5 + 1e-9).astype(int).clip(max=count - 1)
    shift = float(np.abs(indices - times).max()) * wanted / rate
    if shift > LARGEST_SHIFT:
        raise ValueError(
            f"fps {wanted:g} does not fit the {rate:g} frames a second of clip {clip}: a frame would be {shift:.0%} of "
            f"the time between two frames off, at most {LARGEST_SHIFT:.0%} is taken: {advice}"
        )
    return indices.tolist()


def at_rate(row: Mapping[str, Any], fps: float | None, num_frames: int | None = None) -> dict[str, Any]:
    """A row of a clip with its frames at that rate, and all that it has of each frame with them.

    Columns of each frame are arrays with as many entries as the clip has frames. Those of neighbouring frames, as flow,
    have one less: they are left out, since no column knows what lies between frames that are further apart.

    Args:
        fps: None leaves the row as it is.
        num_frames: how many of the taken frames are kept at most; by default all.

    Raises:
        ValueError: as of `frames_at`.
    """
    kept = dict(row)
    count = len(np.asarray(row["frames"]))
    indices = None if fps is None else frames_at(count, float(row["fps"]), fps, clip=str(row["id"]))
    if indices is None or fps is None:
        return kept
    indices = indices[:num_frames]
    for name, value in row.items():
        length = len(value) if isinstance(value, (np.ndarray, list)) and np.ndim(value) else -1
        if name in NOT_PER_FRAME:
            continue
        if length == count:
            kept[name] = np.asarray(value)[indices]
        elif length == count - 1 and np.ndim(value) > 1:
            del kept[name]
    return kept | {"fps": np.float32(fps)}

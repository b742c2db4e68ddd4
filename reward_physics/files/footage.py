"""A clip read for measuring: whole where it is small, else a cut of it, and the times of its frames.

Axes: T frames, C colours (RGB), H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reward_physics.files.shots import Shot, container_rate, shots_of

LEAST_FRAMES = 5
_UNEVEN = 0.1
_CLOCK_S = {".gif": 0.0105}
_OTHER_CLOCK_S = 0.0011
"""A gif counts in hundredths of a second, the coarsest of the other containers in thousandths."""

_OWN_TIMES = 1.5
"""A rate within this factor of a file's own says that the clip was not slowed down."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """Some frames of a clip, and a part of their picture at a size.

    Args:
        numbers: the frames, by their numbers in the file, rising.
        left, top: corner of the part, px of the clip.
        height_px, width_px: size that the part is brought to.
        scale: pixels of it per pixel of the clip, at most 1.
    """

    numbers: range
    left: int
    top: int
    height_px: int
    width_px: int
    scale: float

    def of(self, image_HWC: np.ndarray) -> np.ndarray:
        """The part of a picture; where it is made smaller, averaged over the pixels that become one."""
        from PIL import Image

        if self.scale == 1:
            return image_HWC[self.top : self.top + self.height_px, self.left : self.left + self.width_px]
        box = (self.left, self.top, self.left + self.width_px / self.scale, self.top + self.height_px / self.scale)
        size = (self.width_px, self.height_px)
        return np.asarray(Image.fromarray(image_HWC).resize(size, Image.Resampling.BILINEAR, box=box))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a clip in memory.

    Args:
        images_THWC: 256 levels.
        numbers_T: their numbers in the file.
        times_T: their times in the file, s; empty where it says none.
        height_px, width_px: size of the clip itself.
    """

    images_THWC: np.ndarray
    numbers_T: np.ndarray
    times_T: np.ndarray
    height_px: int
    width_px: int

    @property
    def frames_TCHW(self) -> Tensor:
        """Colours in [0, 1]."""
        return torch.from_numpy(np.ascontiguousarray(self.images_THWC)).permute(0, 3, 1, 2).float().div_(255)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footage:
    """A clip that is read from its beginning as often as is needed; nothing of it is kept.

    Args:
        path: a video file that FFmpeg reads, or a folder of frames.
        first, last: first and past-last frame, None for the end.
        tick: called at every frame that is read.
    """

    path: Path
    first: int = 0
    last: int | None = None
    tick: Callable[[], object] = lambda: None

    def shots(self) -> Iterator[Shot]:
        """The frames in the order of their times; a repeated time is left out, as a player does."""
        latest, size = -np.inf, None
        for shot in shots_of(self.path, self.first, self.last):
            self.tick()
            now = shot.height_px, shot.width_px
            size = size or now
            if now != size:
                raise ValueError(
                    f"{self.path}: all frames must have one size, got {size[1]} x {size[0]} px and then "
                    f"{now[1]} x {now[0]} px"
                )
            if min(size) < 16:
                raise ValueError(f"{self.path}: frames of {size[1]} x {size[0]} px are too small to measure in")
            if shot.time_s is not None:
                if shot.time_s <= latest:
                    continue
                latest = shot.time_s
            yield shot

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of its first frame."""
        shot = next(self.shots(), None)
        if shot is None:
            raise ValueError(f"no frames in {self.path}: check the file, or --frames")
        return shot.height_px, shot.width_px

    def whole(self, *, most: int) -> Frames | None:
        """All frames, or None where they hold more than `most` numbers."""
        shots: list[Shot] = []
        images: list[np.ndarray] = []
        for shot in self.shots():
            if (len(images) + 1) * shot.height_px * shot.width_px * 3 > most:
                return None
            images.append(shot.picture(None))
            shots.append(dataclasses.replace(shot, picture=_gone))
        return self._together(shots, images)

    def cut(self, cut: Cut) -> Frames:
        """The frames of a cut."""
        shots: list[Shot] = []
        images: list[np.ndarray] = []
        for shot in self.shots():
            if shot.number > cut.numbers[-1]:
                break
            if shot.number in cut.numbers:
                images.append(cut.of(shot.picture(None)))
                shots.append(dataclasses.replace(shot, picture=_gone))
        return self._together(shots, images)

    def pieces(self, *, step: int, length: int, overlap: int, largest_px: int) -> Iterator[Frames]:
        """Every `step`-th frame made small, in pieces of so many that share the last ones with the next piece."""
        shots: list[Shot] = []
        images: list[np.ndarray] = []
        fresh = 0
        for shot in self.shots():
            if (shot.number - self.first) % step:
                continue
            images.append(shot.picture(largest_px))
            shots.append(dataclasses.replace(shot, picture=_gone))
            fresh += 1
            if len(images) == length:
                yield self._together(shots, images)
                shots, images, fresh = shots[-overlap:], images[-overlap:], 0
        if fresh:
            yield self._together(shots, images)

    def _together(self, shots: list[Shot], images: list[np.ndarray]) -> Frames:
        if not shots:
            raise ValueError(f"no frames in {self.path}: check the file, or --frames")
        return Frames(
            images_THWC=np.stack(images),
            numbers_T=np.array([shot.number for shot in shots]),
            times_T=np.array([shot.time_s for shot in shots if shot.time_s is not None]),
            height_px=shots[0].height_px,
            width_px=shots[0].width_px,
        )


def _gone(largest_px: int | None) -> np.ndarray:
    raise AssertionError("the picture was read already")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """When the frames of a clip were taken.

    Args:
        fps: frames in a second, of the file's frames.
        container_fps: what the file says of itself, or None; it is often not the rate of capture.
        uneven: whether the frames' own times count, each by itself.
        slower: seconds of the file in one second of the capture.
    """

    fps: float
    container_fps: float | None
    uneven: bool
    slower: float

    def times_of(self, frames: Frames) -> Tensor | None:
        """Times (T,) of frames, s; None where they follow from their rate."""
        if not self.uneven:
            return None
        return torch.from_numpy((frames.times_T - frames.times_T[0]) / self.slower)

    @property
    def note(self) -> str | None:
        """What the reader should know of it."""
        if not self.uneven:
            return None
        slowed = f", taken {self.slower:.3g} times faster than they play" if self.slower != 1 else ""
        return f"the frames come at uneven times: each counts at its own time in the file{slowed}"


def clock_of(footage: Footage, fps: float | Literal["container"] | None) -> Clock:
    """The clock of a clip, before any picture of it is made.

    Args:
        fps: frames a second of the capture, or `container` to take the file's own word. Of a file with uneven times it
            is how many the camera took on average; within a factor of 1.5 of the file's own rate the clip was not
            slowed down, and its times count as they are.

    Raises:
        ValueError: missing or unreadable; no rate; less than LEAST_FRAMES frames.
    """
    path = footage.path
    if not path.exists():
        raise ValueError(f"no clip at {path}: give a video file or a folder of frames")
    if isinstance(fps, float | int) and not 0 < fps < float("inf"):
        raise ValueError(f"fps must be > 0, got {fps:g}: say at how many frames a second the clip was captured")
    container_fps = None if path.is_dir() else container_rate(path)
    if fps is None:
        claim = "states no rate" if container_fps is None else f"says {container_fps:g}, often not the rate of capture"
        raise ValueError(f"fps is not given and never guessed: give --fps (the container {claim}), or --fps container")
    shots = list(_times(footage))
    if len(shots) < LEAST_FRAMES:
        raise ValueError(f"{path} has {len(shots)} frame(s) to measure: an acceleration needs at least {LEAST_FRAMES}")
    times = np.array([time for time in shots if time is not None])
    steps = np.diff(times) if len(times) == len(shots) else np.zeros(0)
    rounding = _CLOCK_S.get(path.suffix.lower(), _OTHER_CLOCK_S)
    uneven = len(steps) > 0 and steps.max() - steps.min() > max(_UNEVEN * np.median(steps), rounding)
    own = 1 / float(np.mean(steps)) if len(steps) else container_fps
    if fps == "container":
        rate = own if uneven else container_fps or own
        if rate is None:
            raise ValueError(f"{path} does not state its frame rate: give --fps as a number")
        return Clock(fps=rate, container_fps=container_fps or rate, uneven=uneven, slower=1.0)
    slower = 1.0
    if uneven and own is not None and not 1 / _OWN_TIMES < fps / own < _OWN_TIMES:
        slower = fps / own
    rate = own * slower if uneven and own is not None else float(fps)
    return Clock(fps=rate, container_fps=container_fps, uneven=uneven, slower=slower)


def _times(footage: Footage) -> Iterator[float | None]:
    for shot in footage.shots():
        yield shot.time_s

"""Reading whole clips from anywhere for measuring: what is wrong with a file is said before it costs memory.

Axes: T frames, C colours (RGB), H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import numpy as np
from torch import Tensor

from reward_physics.files.footage import Footage, clock_of
from reward_physics.files.shots import said, shots_of, video_stream

LARGEST_CLIP = 600_000_000
"""Numbers (frames x 3 x rows x columns) that a clip read whole may hold: 2.4 GB in memory."""

LARGEST_CLIP_BYTES = 4 << 30
"""Of any clip's pixels, unpacked to bytes: a file of kilobytes can claim far more."""

_UNEVEN = 0.25
_GIF_CLOCK_S = 0.0105
"""A gif counts in hundredths of a second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip as it was read.

    Args:
        frames_TCHW: colours in [0, 1].
        fps: frames a second, as the caller said.
        container_fps: what the file says of itself, or None; it is often not the rate of capture.
        first_frame: number of the first frame in the file.
        times_T: each frame's own time, s, where they come at uneven times, else None.
    """

    frames_TCHW: Tensor
    fps: float
    container_fps: float | None
    first_frame: int
    times_T: Tensor | None = None


def read_clip(
    path: str | Path, *, fps: float | Literal["container"] | None, frames: tuple[int, int] | None = None
) -> Clip:
    """Read one clip whole.

    Args:
        path: a video file that FFmpeg reads, or a folder of frames in the order of their names.
        fps: frames a second of the capture, or `container` to take the file's own word; see `footage.clock_of`.
        frames: first and past-last frame to read.

    Raises:
        ValueError: anything wrong, in one line.
    """
    first, last = frames or (0, None)
    footage = Footage(path=Path(path), first=first, last=last)
    clock = clock_of(footage, fps)
    whole = footage.whole(most=LARGEST_CLIP)
    if whole is None:
        raise ValueError(f"{path}: its frames do not fit in memory: cut it, or choose some with --frames")
    return Clip(
        frames_TCHW=whole.frames_TCHW,
        fps=clock.fps,
        container_fps=clock.container_fps,
        first_frame=first,
        times_T=clock.times_of(whole),
    )


def read_whole(path: Path, *, even: bool) -> np.ndarray:
    """All frames of a video file or of a folder of frames, (T, H, W, 3) in 256 levels.

    Args:
        even: refuse a file whose frames lie at uneven times.

    Raises:
        ValueError: unreadable; frames of two sizes; more than LARGEST_CLIP_BYTES, which a file's header is asked for
            before anything is unpacked.
    """
    if path.is_dir():
        return np.stack(_stacked(path, (shot.picture(None) for shot in shots_of(path)), most=LARGEST_CLIP_BYTES))
    _check_claim(path)
    return np.stack(_stacked(path, _frames_of(path, even=even), most=LARGEST_CLIP_BYTES))


def _check_claim(path: Path) -> None:
    """Raise ValueError where a file's header claims more pixels than are unpacked here; no frame is read."""
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, path)
            width, height = stream.codec_context.width, stream.codec_context.height
            seconds = float((container.duration or 0) / av.time_base)
            frames = stream.frames or round(seconds * float(stream.average_rate or 0)) or 1
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot read {path} as a video: {said(error)}") from error
    if frames * width * height * 3 > LARGEST_CLIP_BYTES:
        raise ValueError(
            f"{path}: {frames} frames of {width} x {height} px are more than {LARGEST_CLIP_BYTES / 1e9:.0f} GB: cut it"
        )


def _stacked(path: Path, images: Iterator[np.ndarray], *, most: int) -> list[np.ndarray]:
    """The images, which must have one size and hold at most so many numbers."""
    stack: list[np.ndarray] = []
    for image in images:
        height, width = image.shape[:2]
        if stack and image.shape != stack[0].shape:
            raise ValueError(
                f"{path}: all frames must have one size, got {stack[0].shape[1]} x {stack[0].shape[0]} px and then "
                f"{width} x {height} px"
            )
        if (len(stack) + 1) * image.size > most:
            raise ValueError(
                f"{path}: more than {len(stack)} frames of {width} x {height} px do not fit: cut it, or choose some "
                "with --frames"
            )
        stack.append(image)
    if not stack:
        raise ValueError(f"no frames in {path}: check the file, or --frames")
    return stack


def _frames_of(path: Path, *, even: bool) -> Iterator[np.ndarray]:
    times: list[float] = []
    for shot in shots_of(path):
        if shot.time_s is not None:
            times.append(shot.time_s)
        yield shot.picture(None)
    steps = np.diff(times)
    if even and len(steps) > 1 and steps.max() - steps.min() > max(_UNEVEN * np.median(steps), _GIF_CLOCK_S):
        raise ValueError(
            f"the frames of {path} are {steps.min():.4f} to {steps.max():.4f} s apart: convert it to a constant frame "
            "rate, or choose an even part with --frames"
        )

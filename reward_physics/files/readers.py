"""Reading clips from anywhere for measuring: what is wrong with a file is said before it costs memory.

Axes: T frames, C colours (RGB), H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch
from torch import Tensor

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LARGEST_SIDE_PX = 4096
LARGEST_CLIP = 600_000_000
"""Numbers (frames x 3 x rows x columns) that a clip to be scored may hold: 2.4 GB in memory."""

LARGEST_CLIP_BYTES = 4 << 30
"""Of any clip's pixels, unpacked to bytes: a file of kilobytes can claim far more."""

_LEAST_FRAMES = 5
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
    """

    frames_TCHW: Tensor
    fps: float
    container_fps: float | None
    first_frame: int


def read_clip(
    path: str | Path, *, fps: float | Literal["container"] | None, frames: tuple[int, int] | None = None
) -> Clip:
    """Read one clip.

    Args:
        path: a video file that FFmpeg reads, or a folder of frames in the order of their names.
        fps: frames a second of the capture, or `container` to take the file's own word.
        frames: first and past-last frame to read.

    Raises:
        ValueError: anything wrong, in one line.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"no clip at {path}: give a video file or a folder of frames")
    if isinstance(fps, float | int) and not 0 < fps < float("inf"):
        raise ValueError(f"fps must be > 0, got {fps:g}: say at how many frames a second the clip was captured")
    first, last = frames or (0, None)
    if path.is_dir():
        container_fps, images = None, _images_of(path, first, last)
    else:
        container_fps = container_rate(path)
        images = _frames_of(path, first, last)
    if fps is None:
        claim = "states no rate" if container_fps is None else f"says {container_fps:g}, often not the rate of capture"
        raise ValueError(f"fps is not given and never guessed: give --fps (the container {claim}), or --fps container")
    if fps == "container" and container_fps is None:
        raise ValueError(f"{path} does not state its frame rate: give --fps as a number")
    stack = _stacked(path, images, most=LARGEST_CLIP)
    if len(stack) < _LEAST_FRAMES:
        raise ValueError(f"{path} has {len(stack)} frame(s) to measure: an acceleration needs at least {_LEAST_FRAMES}")
    if min(stack[0].shape[:2]) < 16:
        raise ValueError(f"{path}: frames of {stack[0].shape[1]} x {stack[0].shape[0]} px are too small to measure in")
    return Clip(
        frames_TCHW=torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).float().div_(255),
        fps=float(container_fps if fps == "container" and container_fps is not None else fps),
        container_fps=container_fps,
        first_frame=first,
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
        return np.stack(_stacked(path, _images_of(path, 0, None), most=LARGEST_CLIP_BYTES))
    _check_claim(path)
    return np.stack(_stacked(path, _frames_of(path, 0, None, even=even), most=LARGEST_CLIP_BYTES))


def _check_claim(path: Path) -> None:
    """Raise ValueError where a file's header claims more pixels than are unpacked here; no frame is read."""
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, path)
            width, height = stream.codec_context.width, stream.codec_context.height
            seconds = float((container.duration or 0) / av.time_base)
            frames = stream.frames or round(seconds * float(stream.average_rate or 0)) or 1
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot read {path} as a video: {_said(error)}") from error
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


def video_stream(container: Any, path: Path) -> Any:
    """The first video stream of an opened file, by its header alone.

    Raises:
        ValueError: there is none, no codec here reads it, or its frames are larger than LARGEST_SIDE_PX.
    """
    if not container.streams.video:
        raise ValueError(f"{path} holds no video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ValueError(f"{path} holds no video that a known codec can read")
    _check_size(path, stream.codec_context.width, stream.codec_context.height)
    return stream


def _check_size(name: object, width: int, height: int) -> None:
    if max(width, height) > LARGEST_SIDE_PX:
        raise ValueError(
            f"{name}: {width} x {height} px is larger than {LARGEST_SIDE_PX} px a side: make it smaller first"
        )


def container_rate(path: Path) -> float | None:
    """Frames a second by a video file's own word, or None. Raises ValueError where it is no video."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, path)
            rate = stream.average_rate or stream.guessed_rate
            return float(rate) if rate else None
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot read {path} as a video: {_said(error)}") from error


def _frames_of(path: Path, first: int, last: int | None, *, even: bool = True) -> Iterator[np.ndarray]:
    times: list[float] = []
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, path)
            for number, frame in enumerate(container.decode(stream)):
                if last is not None and number >= last:
                    break
                if number < first:
                    continue
                if frame.time is not None:
                    times.append(float(frame.time))
                yield _upright(frame)
    except (av.FFmpegError, OSError, MemoryError) as error:
        raise ValueError(f"cannot read {path} after {len(times)} frames: {_said(error)}") from error
    steps = np.diff(times)
    if even and len(steps) > 1 and steps.max() - steps.min() > max(_UNEVEN * np.median(steps), _GIF_CLOCK_S):
        raise ValueError(
            f"the frames of {path} are {steps.min():.4f} to {steps.max():.4f} s apart: convert it to a constant frame "
            "rate, or choose an even part with --frames"
        )


def _upright(frame: Any) -> np.ndarray:
    """RGB as a player shows it: turned by what the file's metadata says."""
    image = frame.to_ndarray(format="rgb24")
    quarter_turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns))


def _images_of(folder: Path, first: int, last: int | None) -> Iterator[np.ndarray]:
    from PIL import Image

    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
    if not files:
        raise ValueError(f"no frames in {folder}: expected files ending in {', '.join(FRAME_SUFFIXES)}")
    for file in files[first:last]:
        try:
            # Sizes are checked here, in our own words.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                opened = Image.open(file)
            with opened as image:
                _check_size(file, *image.size)
                yield _as_rgb(image)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the frame {file}: {_said(error)}") from error


def _as_rgb(image: Any) -> np.ndarray:
    """Eight bits a colour; sixteen are scaled down, not cut off; what is transparent shows white."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float64)
        largest = 65535.0 if image.mode.startswith("I") else max(1.0, float(np.nanmax(grey)))
        grey = np.round(np.nan_to_num(grey).clip(0, largest) / largest * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]

"""The frames of a file or folder one after another: each says when it was taken, and is turned into a picture only
when it is asked for, at the size that is asked for.

Axes: H rows, W columns, C colours (RGB).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
LARGEST_SIDE_PX = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """One frame.

    Args:
        number: its number in the file, in the order in which it is shown.
        time_s: its own time in the file, s, or None.
        height_px, width_px: its size as a player shows it.
        picture: the longest side in px, or None for the frame's own size -> (H, W, C) in 256 levels.
    """

    number: int
    time_s: float | None
    height_px: int
    width_px: int
    picture: Callable[[int | None], np.ndarray]


def shots_of(path: Path, first: int = 0, last: int | None = None) -> Iterator[Shot]:
    """The frames of a video file or of a folder of frames.

    Args:
        first, last: first and past-last frame, None for the end.

    Raises:
        ValueError: no video, unreadable, too large.
    """
    return _shots_of_folder(path, first, last) if path.is_dir() else _shots_of_file(path, first, last)


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
    check_size(path, stream.codec_context.width, stream.codec_context.height)
    return stream


def check_size(name: object, width: int, height: int) -> None:
    """Raise ValueError where a picture is larger than LARGEST_SIDE_PX a side."""
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
        raise ValueError(f"cannot read {path} as a video: {said(error)}") from error


def _shots_of_file(path: Path, first: int, last: int | None) -> Iterator[Shot]:
    read = 0
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, path)
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if last is not None and number >= last:
                    break
                if number < first:
                    continue
                read += 1
                turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
                height, width = (frame.height, frame.width) if turns % 2 == 0 else (frame.width, frame.height)
                yield Shot(
                    number=number,
                    time_s=None if frame.time is None else float(frame.time),
                    height_px=height,
                    width_px=width,
                    picture=lambda largest_px, frame=frame, turns=turns: _upright(frame, turns, largest_px),
                )
    except (av.FFmpegError, OSError, MemoryError) as error:
        raise ValueError(f"cannot read {path} after {read} frames: {said(error)}") from error


def _upright(frame: Any, quarter_turns: int, largest_px: int | None) -> np.ndarray:
    """RGB as a player shows it: turned by what the file's metadata says."""
    scale = 1.0 if largest_px is None else min(1.0, largest_px / max(frame.height, frame.width))
    if scale < 1:
        size = {"width": max(16, round(frame.width * scale)), "height": max(16, round(frame.height * scale))}
        image = frame.reformat(**size, format="rgb24", interpolation="AREA").to_ndarray()
    else:
        image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, quarter_turns))


def _shots_of_folder(folder: Path, first: int, last: int | None) -> Iterator[Shot]:
    from PIL import Image

    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in FRAME_SUFFIXES)
    if not files:
        raise ValueError(f"no frames in {folder}: expected files ending in {', '.join(FRAME_SUFFIXES)}")
    for number, file in enumerate(files[first:last], first):
        try:
            # Sizes are checked here, in our own words.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                opened = Image.open(file)
            with opened as image:
                check_size(file, *image.size)
                pixels = _as_rgb(image)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the frame {file}: {said(error)}") from error
        height, width = pixels.shape[:2]
        yield Shot(
            number=number,
            time_s=None,
            height_px=height,
            width_px=width,
            picture=lambda largest_px, pixels=pixels: _at_most(pixels, largest_px),
        )


def _at_most(pixels: np.ndarray, largest_px: int | None) -> np.ndarray:
    from PIL import Image

    height, width = pixels.shape[:2]
    if largest_px is None or max(height, width) <= largest_px:
        return pixels
    scale = largest_px / max(height, width)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


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


def said(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:160]

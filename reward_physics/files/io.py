"""Reading and writing clips with PyAV: mp4, gif, folders of frames.

Axes: B clips, T frames, C channels (RGB), H W pixels. Pixels are numbers in [0, 1]. A file appears under its name only
when it is whole.
"""

from __future__ import annotations

import math
import os
import uuid
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from torch import Tensor

from reward_physics.files.readers import read_whole
from reward_physics.files.shots import container_rate
from reward_physics.video import Video

VIDEO_SUFFIXES = (".mp4", ".gif")


def to_uint8(frames: Tensor) -> Tensor:
    """Pixels in [0, 1] to the nearest of 256 levels; values outside are clamped."""
    return (frames.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def upscale_factor(height_px: int, width_px: int, *, min_side_px: int) -> int:
    """The smallest whole factor that brings the shorter side to `min_side_px`."""
    return max(1, math.ceil(min_side_px / min(height_px, width_px)))


def enlarge(frames: Tensor, factor: int) -> Tensor:
    """Nearest-neighbour enlargement of the last two axes by a whole factor: pixels stay visible as they are."""
    return frames.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def write_video(path: str | Path, frames_TCHW: Tensor, *, fps: float, min_side_px: int = 256) -> Path:
    """Write one clip as .mp4 (H.264, yuv420p: plays everywhere) or .gif.

    Args:
        frames_TCHW: RGB in [0, 1].
        fps: > 0; a gif keeps it to a hundredth of a second a frame.
        min_side_px: smaller clips are enlarged by a whole factor, nearest neighbour, so that people can look at them;
            0 keeps the size.
    Returns:
        The path.
    Raises:
        ValueError: another suffix, fps <= 0, not T x 3 x H x W.
    """
    path = Path(path)
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"a video file must end in {' or '.join(VIDEO_SUFFIXES)}, got {path.name}")
    if not fps > 0:
        raise ValueError(f"fps must be > 0, got {fps}: say at how many frames a second the clip plays")
    frames_THWC = _prepared(frames_TCHW, min_side_px)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(partial, frames_THWC, fps)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_video(path: str | Path, *, fps: float | None = None) -> Video:
    """Read one clip (B = 1).

    Args:
        path: a video file that FFmpeg reads, or a folder of frames in the order of their names.
        fps: frames a second. A folder needs it; a file states its own, and a number given here overrides that.
    Raises:
        ValueError: missing, unreadable, empty; frames of unequal spacing or size; no fps; more pixels than
            `readers.LARGEST_CLIP_BYTES`.
    """
    path = Path(path)
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be > 0, got {fps}: say at how many frames a second {path.name} plays")
    if not path.exists():
        raise ValueError(f"no clip at {path}: give a video file or a folder of frames")
    rate = fps
    if rate is None:
        if path.is_dir():
            raise ValueError(f"the frames in {path} have no clock: give fps")
        rate = container_rate(path)
        if rate is None:
            raise ValueError(f"{path} does not state its frame rate: give fps")
    frames_THWC = read_whole(path, even=fps is None)
    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() / 255
    return Video(frames_BTCHW=frames_TCHW[None], fps_B=torch.tensor([rate], dtype=torch.float32))


def _prepared(frames_TCHW: Tensor, min_side_px: int, *, even: bool = True) -> np.ndarray:
    """uint8 [T, H, W, 3], enlarged, and padded by its own border to even sides (yuv420p halves the colour)."""
    if frames_TCHW.ndim != 4 or frames_TCHW.shape[1] != 3 or not len(frames_TCHW):
        raise ValueError(f"a clip to write must be T x 3 x H x W with T > 0, got {tuple(frames_TCHW.shape)}")
    height, width = frames_TCHW.shape[-2:]
    big = enlarge(to_uint8(frames_TCHW), upscale_factor(height, width, min_side_px=min_side_px)).cpu()
    if even:
        for axis in (-2, -1):
            if big.shape[axis] % 2:
                big = torch.cat([big, big.narrow(axis, big.shape[axis] - 1, 1)], axis)
    return np.ascontiguousarray(big.permute(0, 2, 3, 1).numpy())


def _write_mp4(path: Path, frames_THWC: np.ndarray, fps: float) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = cast(Any, container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"}))
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames_THWC: np.ndarray, fps: float) -> None:
    from PIL import Image

    first, *rest = [Image.fromarray(frame_HWC) for frame_HWC in frames_THWC]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)

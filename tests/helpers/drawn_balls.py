"""Drawn clips of one ball on a plain wall, on any path and at any times, and video files of them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from torch import Tensor


def balls(
    times_s: Sequence[float],
    path: Callable[[float], tuple[float, float]],
    *,
    size: tuple[int, int] = (120, 160),
    radius: float = 5.0,
) -> Tensor:
    """Frames (T, 3, H, W) of a dark ball whose centre is path(t) = (u, v), px."""
    v, u = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    wall = 0.7 + 0.05 * torch.sin(u / 9) * torch.cos(v / 7)
    colour = torch.tensor([0.25, 0.1, 0.1]).view(3, 1, 1)
    frames = []
    for time in times_s:
        x, y = path(time)
        ball = (radius + 0.5 - torch.hypot(u - x, v - y)).clamp(0, 1)
        frames.append(wall * (1 - ball) + colour * ball)
    return torch.stack(frames)


def write_timed(path: Path, frames_TCHW: Tensor, times_s: Sequence[float], *, fps: int = 30) -> str:
    """A video file whose frames are shown at their own times (to a ten-thousandth of a second)."""
    clock = Fraction(1, 10_000)
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream("libx264", rate=fps, options={"crf": "12"}))
        stream.height, stream.width = frames_TCHW.shape[-2:]
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = "yuv420p", clock, clock
        images = (frames_TCHW.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        for image, time in zip(images, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def uneven_times(span_s: float, *, seed: int = 0) -> list[float]:
    """Times from 0 on that are 0.010 to 0.050 s apart, as phones record."""
    steps = np.random.default_rng(seed).uniform(0.010, 0.050, 1000).round(4)
    times = np.concatenate(([0.0], steps.cumsum()))
    return times[times <= span_s].tolist()

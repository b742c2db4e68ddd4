"""Clips that are known by their latents: the frames are decoded when something first asks for pixels.

Axes: B clips, T frames, C colours (3), H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reward_physics.once import once
from reward_physics.video import Video


class Latents:
    """Latents, the way to their frames, and the frames once they are decoded.

    Whether the frames carry a gradient is fixed by the latents, and not by the grad mode of the first reading.

    Args:
        latents_B: what a video model makes of B clips; the first axis is the clips', the others are the model's own.
        decode: latents_B -> frames_BTCHW in [0, 1], for any number of clips.
        num_frames: T, frames of the decoded clip.
        height_px, width_px: size of the decoded frames.
    """

    def __init__(
        self, latents_B: Tensor, decode: Callable[[Tensor], Tensor], *, num_frames: int, height_px: int, width_px: int
    ) -> None:
        self.latents_B, self.decode = latents_B, decode
        self.num_frames, self.height_px, self.width_px = num_frames, height_px, width_px

    @property
    def grad(self) -> bool:
        """Whether the frames carry a gradient."""
        return self.latents_B.requires_grad

    @once
    def frames_BTCHW(self) -> Tensor:
        """The decoded frames.

        Raises:
            ValueError: `decode` gave something other than frames of the announced size.
        """
        frames = self.decode(self.latents_B)
        expected = (len(self.latents_B), self.num_frames, 3, self.height_px, self.width_px)
        if tuple(frames.shape) != expected or not frames.is_floating_point():
            raise ValueError(
                f"decode must give floating-point frames of shape {expected}, got {frames.dtype} of shape "
                f"{tuple(frames.shape)}: let decode return (B, T, 3, H, W), or correct the announced size"
            )
        return frames

    @once
    def detached(self) -> Latents:
        """The same latents cut from the graph that made them; every caller shares what is decoded of them."""
        return self.changed(Tensor.detach) if self.grad else self

    def changed(self, change: Callable[[Tensor], Tensor]) -> Latents:
        """Latents with a change that decoding commutes with: other clips, another device, no graph."""
        size = {"num_frames": self.num_frames, "height_px": self.height_px, "width_px": self.width_px}
        latents = Latents(change(self.latents_B), self.decode, **size)
        if "frames_BTCHW" in self.__dict__:
            latents.__dict__["frames_BTCHW"] = change(self.frames_BTCHW)
        return latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentVideo(Video):
    """A batch of clips known by their latents; all else is as in `Video`.

    `frames_BTCHW` is decoded at its first reading and kept, however many copies of the video share the latents.

    Args:
        latents: the latents and the way to the frames.
    """

    frames_BTCHW: Tensor = dataclasses.field(init=False, repr=False, compare=False)
    latents: Latents

    def __getattr__(self, name: str) -> Any:
        # Reached where the instance has no such attribute: the frames are never set, so that they stay lazy.
        if name == "frames_BTCHW":
            return self.latents.frames_BTCHW
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _check_frames(self) -> None:
        """Decoding checks them."""

    @property
    def source(self) -> tuple[str, Tensor]:
        return "latents", self.latents.latents_B

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.latents.latents_B.dtype, torch.float32)

    @property
    def num_frames(self) -> int:
        return self.latents.num_frames

    @property
    def height_px(self) -> int:
        return self.latents.height_px

    @property
    def width_px(self) -> int:
        return self.latents.width_px

    def detached(self) -> LatentVideo:
        return dataclasses.replace(self, latents=self.latents.detached)

    def with_frames(self, frames_BTCHW: Tensor) -> Video:
        return Video(frames_BTCHW=frames_BTCHW, **self._scene())

    def _changed(self, change: Callable[[Any], Any]) -> LatentVideo:
        return LatentVideo(latents=self.latents.changed(change), **self._scene(change))

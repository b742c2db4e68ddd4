"""The contract of a latent probe: an estimator that reads positions off the latents of a video model.

A probe spares the decoder. Its reading fills an Observation as flow and depth do from frames, and every reward of
motion then works on latents. Training a probe is not part of this package.

Axes: B clips, N objects, T frames of the decoded clip, 2 = (u, v), right and down, in px of the decoded frames.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeReading:
    """Where a probe sees the objects of a batch of clips.

    The first object is the one that rewards of one object follow. Where the clips have `Video.object_masks_BNHW`, the
    objects stand in the order of those masks. An object that a clip lacks has a visibility of 0.

    Args:
        position_px_BNT2: centre (u, v) of the object, px, also of what the picture's border or another object hides;
            the centre of the first pixel is (0.5, 0.5). Differentiable in the latents.
        half_extent_px_BNT2: half the object's size along u and along v, px, > 0. Differentiable.
        visible_BNT: share of the object that is seen, in [0, 1]. Differentiable.
        variance_px2_BNT: variance of the error of either coordinate of the centre, px^2, > 0. It weighs the frames
            and sets the noise that a fit expects; no gradient passes through it.

    Raises:
        ValueError: shapes that do not fit each other.
    """

    position_px_BNT2: Tensor
    half_extent_px_BNT2: Tensor
    visible_BNT: Tensor
    variance_px2_BNT: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.position_px_BNT2.shape)
        if len(shape) != 4 or shape[-1] != 2:
            raise ValueError(f"probe: position_px_BNT2 must have shape (B, N, T, 2), got {shape}: move the axes first")
        expected = {"half_extent_px_BNT2": shape, "visible_BNT": shape[:3], "variance_px2_BNT": shape[:3]}
        for name, form in expected.items():
            got = tuple(getattr(self, name).shape)
            if got != form:
                raise ValueError(f"probe: {name} must have shape {form} like the positions, got {got}")


class LatentProbe(Protocol):
    """An estimator that reads latents: a callable, most often a frozen `torch.nn.Module`."""

    def __call__(self, latents_B: Tensor, *, num_frames: int, height_px: int, width_px: int) -> ProbeReading:
        """Read latents.

        Args:
            latents_B: the latents of B clips, in the axes of the video model that made them.
            num_frames: T, frames of the decoded clip.
            height_px, width_px: size of the decoded frames.
        """
        ...

"""Optical flow of clips by RAFT, with every frame encoded once.

Axes: B clips, T frames, S = T - stride pairs, N = B S pairs of a batch, C colours (3), H rows, W columns,
2 = (right, down) in pixels of the input.

Reference: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow.raft import RAFT, raft_large, raft_small

from reward_physics import beside
from reward_physics.estimators.raft import RaftShape, encode, match
from reward_physics.estimators.raft_keys import from_original, is_original
from reward_physics.estimators.weights import (
    EMBEDDED,
    freeze,
    load_into,
    read_config,
    read_weights,
    shape_from_config,
)
from reward_physics.grid import pixel_grid

SMALLEST_SIDE_PX = 128
"""RAFT's correlation pyramid of four levels needs this many pixels a side; smaller frames are enlarged."""

SHIPPED = {"embedded": EMBEDDED / "flow", "judge": EMBEDDED / "judge_flow"}
_PUBLISHED = {"torchvision/raft_small": raft_small, "torchvision/raft_large": raft_large}

STRIDE_PX = 8
"""Sides must be multiples of this: RAFT matches on a grid of 8 x 8 px cells."""


class FlowEstimator(nn.Module):
    """A frozen RAFT for clips.

    Frames whose shorter side is below 128 px are enlarged by a whole factor, and sides that are no multiple of 8 px
    are stretched to the next; the flow comes back at the input's size and in its pixels. Gradients flow to the
    frames.

    Args:
        raft: the network.
        updates: number of refinements, >= 1: fewer are faster and less exact.
        autocast: run the convolutions in bfloat16; the correlation and the flow stay in float32.
    """

    def __init__(self, raft: RAFT, *, updates: int = 6, autocast: bool = False) -> None:
        super().__init__()
        if updates < 1:
            raise ValueError(f"flow updates must be >= 1, got {updates}: 4 to 12 are usual")
        self.raft = raft
        self.updates = updates
        self.autocast = autocast
        freeze(self)

    def train(self, mode: bool = True) -> FlowEstimator:
        """Stays in evaluation mode whatever is asked."""
        return super().train(False)

    def forward(self, frames_BTCHW: Tensor, *, stride: int = 1) -> Tensor:
        """Flow from every frame t to frame t + stride of the same clip.

        Args:
            frames_BTCHW: colours in [0, 1].
            stride: frames between the two images of a pair, 1 to T - 1.

        Returns: flow_BSHW2 in pixels of the input.

        Raises:
            ValueError: a wrong shape or a stride that leaves no pair.
        """
        return self._flow(frames_BTCHW, stride, backward=False)[0]

    def both_ways(self, frames_BTCHW: Tensor, *, stride: int = 1) -> tuple[Tensor, Tensor]:
        """Flow from t to t + stride, and from t + stride back to t, with every frame encoded once."""
        forward, backward = self._flow(frames_BTCHW, stride, backward=True)
        return forward, backward

    def _flow(self, frames_BTCHW: Tensor, stride: int, *, backward: bool) -> list[Tensor]:
        check_frames(frames_BTCHW, "flow")
        batch, frames, _, height, width = frames_BTCHW.shape
        if not 1 <= stride < frames:
            raise ValueError(f"flow stride must be 1 to {frames - 1} for {frames} frames, got {stride}")
        images = enlarged(frames_BTCHW.flatten(0, 1)) * 2 - 1
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            features, context = (e.unflatten(0, (batch, frames)) for e in encode(self.raft, images))
            here, there = slice(0, frames - stride), slice(stride, frames)
            ways = [(here, there), (there, here)] if backward else [(here, there)]
            flows = [
                match(
                    self.raft,
                    features[:, a].flatten(0, 1),
                    features[:, b].flatten(0, 1),
                    context[:, a].flatten(0, 1),
                    self.updates,
                )[0]
                for a, b in ways
            ]
        return [reduced(flow, height, width).unflatten(0, (batch, -1)) for flow in flows]


def check_frames(frames_BTCHW: Tensor, thing: str) -> None:
    """Raise ValueError unless the frames are (B, T, 3, H, W) floating point."""
    if frames_BTCHW.ndim != 5 or frames_BTCHW.shape[2] != 3:
        raise ValueError(
            f"{thing}: frames must be (B, T, 3, H, W), got {tuple(frames_BTCHW.shape)}: move the axes first"
        )
    if not frames_BTCHW.is_floating_point():
        raise ValueError(f"{thing}: frames must be floating point in [0, 1], got {frames_BTCHW.dtype}: divide by 255")


def working_size(height_px: int, width_px: int) -> tuple[int, int]:
    """The size at which RAFT sees an image: enlarged by a whole factor to 128 px, then stretched to multiples of 8."""
    factor = max(1, math.ceil(SMALLEST_SIDE_PX / min(height_px, width_px)))
    rows, columns = (math.ceil(factor * side / STRIDE_PX) * STRIDE_PX for side in (height_px, width_px))
    return rows, columns


def enlarged(images_NCHW: Tensor) -> Tensor:
    """The images at their working size, bilinear; unchanged where they have it."""
    height, width = images_NCHW.shape[-2:]
    size = working_size(height, width)
    if size == (height, width):
        return images_NCHW
    return F.interpolate(images_NCHW, size=size, mode="bilinear", align_corners=False)


def reduced(flow_N2HW: Tensor, height_px: int, width_px: int) -> Tensor:
    """A flow at working size brought back to (N, H, W, 2) in pixels of a `height_px` x `width_px` image.

    Every pixel is the mean of the area it covers.
    """
    rows, columns = flow_N2HW.shape[-2:]
    if (rows, columns) != (height_px, width_px):
        flow_N2HW = F.interpolate(flow_N2HW, size=(height_px, width_px), mode="area")
        flow_N2HW = flow_N2HW * flow_N2HW.new_tensor([width_px / columns, height_px / rows]).view(1, 2, 1, 1)
    return flow_N2HW.permute(0, 2, 3, 1)


def load_flow(name: str, *, updates: int = 6, autocast: bool = False, base: Path | None = None) -> FlowEstimator:
    """A flow estimator by name.

    Args:
        name: `embedded` or `judge`, which ship with the toolkit; `torchvision/raft_small` or
        `torchvision/raft_large`, whose published
            weights torchvision downloads; or a path: a folder with config.json and model.safetensors, or a file of
            weights of RAFT small or large, in torchvision's key names or in those of RAFT's authors.
        updates: number of refinements.
        autocast: run the convolutions in bfloat16.
        base: folder where a path is looked for first, before the working directory (a recipe's own).

    Raises:
        ValueError: no such estimator, or its weights are missing, corrupt or another network's.
    """
    where = find_flow(name, base)
    if isinstance(where, str):
        return FlowEstimator(_PUBLISHED[where](weights="DEFAULT"), updates=updates, autocast=autocast)
    raft = _load_file(where) if where.is_file() else _load_folder(where)
    return FlowEstimator(raft, updates=updates, autocast=autocast)


def find_flow(name: str, base: Path | None = None) -> Path | str:
    """The weights that `load_flow` reads, or the name of published ones. Raises ValueError where there are none."""
    if name in SHIPPED:
        return SHIPPED[name]
    if name in _PUBLISHED:
        return name
    path = beside.found(name, base)
    if path is None:
        raise ValueError(
            f"flow: unknown estimator {name!r}: expected {', '.join((*SHIPPED, *_PUBLISHED))}, or the path of a folder "
            f"or file of weights; {beside.looked_for(name, base)}"
        )
    return path


def _load_folder(folder: Path) -> RAFT:
    config = read_config(folder, "flow")
    raft = shape_from_config(RaftShape, "raft", config, "flow", folder / "config.json").build()
    path = folder / "model.safetensors"
    load_into(raft, read_weights(path, "flow"), "flow", path)
    return raft


def _load_file(path: Path) -> RAFT:
    state = read_weights(path, "flow")
    if is_original(state):
        state = from_original(state)
    large = any(key.startswith("mask_predictor.") for key in state)
    raft = raft_large(weights=None) if large else raft_small(weights=None)
    load_into(raft, state, "flow", path)
    return raft


def forward_backward_consistency(forward_BSHW2: Tensor, backward_BSHW2: Tensor) -> Tensor:
    """Where following the flow forward and the other flow back returns to the start.

    |f(x) + b(x + f(x))|^2 < 0.01 (|f(x)|^2 + |b(x + f(x))|^2) + 0.5

    Args:
        forward_BSHW2: flow from the first to the second images, px.
        backward_BSHW2: flow from the second to the first images, px.

    Returns: consistent_BSHW, 1 or 0, without gradient. Pixels that leave the image are not consistent.

    Reference: Sundaram, Brox and Keutzer, "Dense Point Trajectories by GPU-accelerated Large Displacement Optical
    Flow", ECCV 2010, eq. 5.
    """
    if forward_BSHW2.shape != backward_BSHW2.shape:
        raise ValueError(
            f"forward and backward flow must have one shape, got {tuple(forward_BSHW2.shape)} and "
            f"{tuple(backward_BSHW2.shape)}: give the same pairs both ways"
        )
    batch, pairs, height, width, _ = forward_BSHW2.shape
    forward, backward = (flow.detach().flatten(0, 1) for flow in (forward_BSHW2, backward_BSHW2))
    target = pixel_grid(height, width, like=forward) + forward
    size = target.new_tensor([width, height])
    there = F.grid_sample(
        backward.permute(0, 3, 1, 2), target / size * 2 - 1, padding_mode="border", align_corners=False
    ).permute(0, 2, 3, 1)
    gap = (forward + there).square().sum(dim=-1)
    bound = 0.01 * (forward.square().sum(dim=-1) + there.square().sum(dim=-1)) + 0.5
    inside = ((target >= 0) & (target <= size)).all(dim=-1)
    return ((gap < bound) & inside).to(forward_BSHW2.dtype).view(batch, pairs, height, width)

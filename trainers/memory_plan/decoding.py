"""What decoding costs, found once for each clip and setting: a plan of memory decodes the same clips many times."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from trainers.learning.decode import carry_back
from trainers.memory_plan.meter import MemoryMeter, Workspace
from trainers.models.base import Condition, VideoModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeCost:
    """Bytes of the way from latents to pixels and, where there is a graph, back.

    Args:
        frames: the pixels, without data and without graph.
        forward: the most that is alive on the way there, the pixels among it.
        graph: what stays for the way back beside the pixels.
        backward: the most that comes to pixels, their gradient and the graph on the way back.
    """

    frames: Tensor
    forward: int
    graph: int = 0
    backward: int = 0

    @property
    def peak_bytes(self) -> int:
        frames = self.frames.untyped_storage().nbytes()
        return max(self.forward, 2 * frames + self.graph + self.backward)


def decode_cost(
    model: VideoModel, latents: Tensor, condition: Condition, *, checkpointing: bool, workspace: Workspace
) -> DecodeCost:
    """Decode latents, and go back with no gradient in particular where they have a graph, under a meter of its own."""
    meter, with_graph = MemoryMeter(workspace), latents.requires_grad and torch.is_grad_enabled()
    leaf = latents.detach().requires_grad_(with_graph)
    with meter:
        frames = model.decode(leaf, condition, checkpointing=checkpointing)
        forward = meter.take_peak()
        if not with_graph:
            return DecodeCost(frames=frames, forward=forward)
        graph = meter.bytes - frames.untyped_storage().nbytes()
        pixel_grad = torch.zeros_like(frames.detach())
        before = meter.bytes
        meter.take_peak()
        carry_back(frames, leaf, pixel_grad)
        backward = meter.take_peak() - before
    return DecodeCost(frames=frames.detach(), forward=forward, graph=max(0, graph), backward=backward)


class _Decoded(torch.autograd.Function):
    """Pixels that keep as much as a decoder's graph, and cost as much on the way there and back."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, cost: DecodeCost, meter: MemoryMeter) -> Tensor:
        ctx.cost, ctx.meter = cost, meter
        meter.spike(cost.forward)
        ctx.save_for_backward(latents, latents.new_empty(cost.graph, dtype=torch.uint8))
        return torch.empty_like(cost.frames)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.meter.spike(ctx.cost.backward)
        return torch.zeros_like(ctx.saved_tensors[0]), None, None


def remember_decoding(model: VideoModel, meter: MemoryMeter, costs: dict[Any, DecodeCost]) -> None:
    """From now on the model decodes each clip and setting once, and counts the same for it ever after.

    Args:
        costs: by what decides them; kept for other models of the same autoencoder.
    """
    decode = type(model).decode

    def decoded(latents: Tensor, condition: Condition, *, checkpointing: bool = False) -> Tensor:
        with_graph = latents.requires_grad and torch.is_grad_enabled()
        clip = (latents.shape, condition.num_frames, condition.height_px, condition.width_px)
        key = (*clip, model.decode_tile_px, latents.dtype, model.vae.dtype, checkpointing, with_graph)
        if key not in costs:
            own = latents.detach().requires_grad_(with_graph)
            with meter.paused():
                model.decode = functools.partial(decode, model)
                workspace = meter.workspace
                costs[key] = decode_cost(model, own, condition, checkpointing=checkpointing, workspace=workspace)
                model.decode = decoded
        frames = _Decoded.apply(latents, costs[key], meter)
        assert isinstance(frames, Tensor)
        return frames

    model.decode = decoded

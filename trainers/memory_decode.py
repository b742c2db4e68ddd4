"""What decoding under gradient needs in memory, found once on tensors without data and then counted as one operator."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from trainers.decode import decode_clips
from trainers.memory_meter import MemoryMeter, Workspace
from trainers.models.base import Condition


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeCost:
    """Bytes beside the latents: at the most in each direction, and between the two; and the frames' shape and type."""

    forward: int
    kept: int
    backward: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def decode_cost(
    model: Any,
    condition: Condition,
    latents: Tensor,
    *,
    chunk_size: int,
    checkpointing: bool,
    workspace: Workspace,
) -> DecodeCost:
    """Decode and go back, all of the clips."""
    given = torch.empty_like(latents, requires_grad=True)
    with MemoryMeter(workspace) as meter:
        frames = decode_clips(model, given, condition, chunk_size=chunk_size, checkpointing=checkpointing)
        forward, kept = meter.take_peak(), meter.bytes
        backward = 0
        if frames.requires_grad:
            gradient = torch.empty_like(frames)
            before = meter.bytes
            meter.take_peak()
            frames.backward(gradient)
            backward = meter.take_peak() - before
    size = frames.numel() * frames.element_size()
    return DecodeCost(
        forward=forward, kept=kept - size, backward=backward, shape=tuple(frames.shape), dtype=frames.dtype
    )


class _Decoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, meter: MemoryMeter, cost: DecodeCost, latents: Tensor) -> Tensor:
        meter.spike(cost.forward)
        ctx.meter, ctx.cost, ctx.like = meter, cost, latents
        ctx.kept = torch.empty(cost.kept, dtype=torch.uint8, device="meta")
        return torch.empty(cost.shape, dtype=cost.dtype, device=latents.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.meter.spike(ctx.cost.backward)
        ctx.kept = None
        return None, None, torch.empty_like(ctx.like)


def decoded(meter: MemoryMeter, cost: DecodeCost, latents: Tensor) -> Tensor:
    """Frames of no content, for what `decode_cost` found."""
    return _Decoded.apply(meter, cost, latents)  # pyright: ignore[reportReturnType]

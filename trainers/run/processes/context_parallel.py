"""Long clips: several processes share one clip's tokens by diffusers' own context parallelism (Ulysses), with gradient.

Each process evaluates the network on its part of the sequence, and attention on all of it with a part of the heads.
What comes out is gathered, so that every process of a group holds the same clips, pixels and rewards, and backward of
the gathering keeps its own part. So a weight's gradient on one process is the part of its own tokens, and the whole is
the sum over the group; and the gradient at the network's input, which a rollout carries on to the step before, has to
be summed there:

    x' = x forward,   dL/dx = sum over the group of dL/dx'   backward
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from trainers.models.base import VideoModel
from trainers.run.processes.parallel import is_sharded

HOLDS = ("WanTransformer3DModel",)
"""Networks that it holds for with gradient. LTX sends cross-attention through Ulysses too, whose backward takes the
keys for as many as the queries, and its mask has a row for every head; diffusers 0.42."""


class _Summed(torch.autograd.Function):
    """The identity, whose gradient is summed over a group of processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


def check(accelerator: Accelerator, model: VideoModel, size: int) -> None:
    """Raise ValueError where `size` processes cannot share a clip of this model."""
    if is_sharded(accelerator):
        raise ValueError("context_parallel_size must be 1 under DeepSpeed: launch with multi_gpu.yaml instead")
    network: Any = model.transformer
    name = type(network).__name__
    if name not in HOLDS:
        raise ValueError(f"context_parallel_size must be 1 for {name}: with gradient it holds for {', '.join(HOLDS)}")
    if accelerator.num_processes % size:
        raise ValueError(
            f"context_parallel_size must divide the {accelerator.num_processes} processes, got {size}: launch a "
            "multiple of it with --num_processes"
        )
    heads = network.config.num_attention_heads
    if heads % size:
        raise ValueError(f"context_parallel_size must divide the {heads} attention heads of {name}, got {size}")


def share_sequence(accelerator: Accelerator, model: VideoModel, size: int) -> None:
    """Let each `size` processes in a row share their clips' tokens; all processes call this.

    Raises:
        ValueError: a model, a number of processes or of heads for which it does not hold.
    """
    check(accelerator, model, size)
    from diffusers import ContextParallelConfig
    from torch.distributed.device_mesh import init_device_mesh

    shape = (accelerator.num_processes // size, 1, size)
    mesh = init_device_mesh(accelerator.device.type, shape, mesh_dim_names=("clips", "ring", "ulysses"))
    for network in model.networks.values():
        network.set_attention_backend("native")
        network.enable_parallelism(config=ContextParallelConfig(ulysses_degree=size, mesh=mesh["ring", "ulysses"]))
    predict, group = model.predict, mesh["ulysses"].get_group()

    def shared(latents: Tensor, *arguments: Any, **named: Any) -> Tensor:
        try:
            return predict(_Summed.apply(latents, group), *arguments, **named)  # pyright: ignore[reportArgumentType]
        except AssertionError as error:
            raise ValueError(
                f"context_parallel_size must divide the tokens of a clip, got {size}: choose another size or "
                f"num_frames ({error})"
            ) from error

    model.predict = shared

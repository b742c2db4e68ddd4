"""Several processes: what is wrapped, and how gradients meet."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from trainers.models.base import VideoModel, lora_parameters


def make_accelerator() -> Accelerator:
    """An Accelerator; without a GPU several processes talk through gloo.

    Asked for `cpu=True` accelerate ignores DeepSpeed; left alone it takes several gloo processes for one, so that
    they neither gather nor wait for each other.
    """
    if torch.cuda.is_available():
        return Accelerator()
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
    return Accelerator(cpu=True)


def use_threads(asked: int | None) -> None:
    """Set torch's CPU threads. `accelerate launch` leaves one a process; without a wish the cores are shared out."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if asked is None and launched and not torch.cuda.is_available():
        asked = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if asked is not None:
        torch.set_num_threads(asked)


def is_sharded(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def wrap(accelerator: Accelerator, model: VideoModel, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let all processes start from the same LoRA; under DeepSpeed, sample through its engine.

    DDP is not used: its reducer expects one forward a backward, and a rollout has many, evaluated again in backward.
    `average_gradients` does its work in one call: a LoRA's gradient is small.
    """
    if is_sharded(accelerator):
        model.denoiser, optimizer = accelerator.prepare(model.transformer, optimizer)
    elif accelerator.num_processes > 1:
        for weight in lora_parameters(model.transformer).values():
            torch.distributed.broadcast(weight.data, src=0)
    return optimizer


def average_gradients(accelerator: Accelerator, weights: list[torch.nn.Parameter]) -> None:
    """Give every process the mean gradient over all of them; DeepSpeed does so by itself."""
    if accelerator.num_processes == 1 or is_sharded(accelerator):
        return
    flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in weights])
    torch.distributed.all_reduce(flat)
    flat /= accelerator.num_processes
    for weight, piece in zip(weights, flat.split([one.numel() for one in weights]), strict=True):
        weight.grad = piece.view_as(weight).clone()

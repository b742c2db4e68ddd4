"""Several processes: what is wrapped, how gradients meet, and who holds which weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from trainers.models.base import VideoModel, lora_parameters


def make_accelerator() -> Accelerator:
    """An Accelerator; without a GPU several processes talk through gloo.

    Asked for `cpu=True` accelerate ignores DeepSpeed; left alone it takes several gloo processes for one, so that
    they neither gather nor wait for each other. Under ZeRO-3 transformers would load every network in shards, the text
    encoder and the reward's estimators too: it is asked not to, the transformer is sharded afterwards.
    """
    if torch.cuda.is_available():
        accelerator = Accelerator()
    elif os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
    else:
        accelerator = Accelerator(cpu=True)
    if is_sharded(accelerator):
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    return accelerator


def use_threads(asked: int | None) -> None:
    """Set torch's CPU threads. `accelerate launch` leaves one per process; without a wish the cores are shared out."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if asked is None and launched and not torch.cuda.is_available():
        asked = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if asked is not None:
        torch.set_num_threads(asked)


def is_sharded(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def engine_of(accelerator: Accelerator) -> Any:
    """DeepSpeed's engine, which owns the optimizer's sharded state; None without DeepSpeed."""
    wrapped = getattr(accelerator, "deepspeed_engine_wrapped", None)
    return None if wrapped is None else wrapped.engine


def wrap(
    accelerator: Accelerator,
    model: VideoModel,
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    max_grad_norm: float,
) -> torch.optim.Optimizer:
    """Let all processes start from the same LoRA; under DeepSpeed, sample through its engine.

    DDP is not used: its reducer expects one forward a backward, and a rollout has many, evaluated again in backward.
    `average_gradients` does its work in one call: a LoRA's gradient is small.
    """
    if is_sharded(accelerator):
        settings: Any = accelerator.state.deepspeed_plugin.deepspeed_config  # pyright: ignore[reportOptionalMemberAccess]
        settings["train_micro_batch_size_per_gpu"] = batch_size
        settings["gradient_accumulation_steps"] = 1  # `backward` says which micro-batch is the last
        settings["gradient_clipping"] = max_grad_norm
        model.denoiser, optimizer = accelerator.prepare(model.transformer, optimizer)
    elif accelerator.num_processes > 1:
        for weight in lora_parameters(model.transformer).values():
            torch.distributed.broadcast(weight.data, src=0)
    return optimizer


def backward(accelerator: Accelerator, loss: torch.Tensor, *, last: bool) -> None:
    """Add the loss's gradient; `last` on a step's last micro-batch, where DeepSpeed reduces, clips and steps."""
    if is_sharded(accelerator):
        wrapped: Any = accelerator.deepspeed_engine_wrapped
        wrapped.backward(loss, sync_gradients=last)
    else:
        accelerator.backward(loss)


def reduce_and_clip(accelerator: Accelerator, weights: list[torch.nn.Parameter], max_grad_norm: float) -> float:
    """Average the gradient over the processes and scale it down to `max_grad_norm`; returns its norm before that."""
    if is_sharded(accelerator):
        return float(engine_of(accelerator).get_global_grad_norm() or 0.0)
    average_gradients(accelerator, weights)
    return torch.nn.utils.clip_grad_norm_(weights, max_grad_norm).item()


def size_of(weight: torch.Tensor) -> int:
    """How many numbers a weight has, under ZeRO-3 those on other processes too."""
    return getattr(weight, "ds_numel", weight.numel())


@contextlib.contextmanager
def gathered(weights: Iterable[torch.nn.Parameter], *, write: bool = False) -> Iterator[None]:
    """Inside the block every process holds the weights whole, under ZeRO-3 too; all processes must enter.

    Args:
        write: keep what process 0 leaves in them.
    """
    parts = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts, modifier_rank=0 if write else None):
        yield


def average_gradients(accelerator: Accelerator, weights: list[torch.nn.Parameter]) -> None:
    """Give every process the mean gradient over all of them; DeepSpeed does so by itself.

    A weight that has no gradient on any process keeps none, as it does under one process: zeros in their place would
    let AdamW move it by its momentum and its decay.
    """
    if accelerator.num_processes == 1 or is_sharded(accelerator):
        return
    flat = torch.cat(
        [(torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten() for weight in weights]
        + [torch.tensor([float(weight.grad is not None) for weight in weights]).to(weights[0])]
    )
    torch.distributed.all_reduce(flat)
    *pieces, holders = flat.split([*(weight.numel() for weight in weights), len(weights)])
    for weight, piece, holder in zip(weights, pieces, holders.tolist(), strict=True):
        weight.grad = (piece / accelerator.num_processes).view_as(weight) if holder else None

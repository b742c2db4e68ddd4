"""Several processes: what is wrapped, how gradients meet, and who holds which weights."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from trainers.models.base import VideoModel, lora_parameters

PATIENT = datetime.timedelta(days=30)
"""How long processes wait for one that works alone. One that has died is seen by the launcher, not by a clock."""


def make_accelerator(reward_timeout_s: float = 0.0) -> Accelerator:
    """An Accelerator; without a GPU several processes talk through gloo.

    Asked for `cpu=True` accelerate ignores DeepSpeed; left alone it takes several gloo processes for one, so that
    they neither gather nor wait for each other. Under ZeRO-3 transformers would load every network in shards, the text
    encoder and the reward's estimators too: it is asked not to, the transformer is sharded afterwards.

    Args:
        reward_timeout_s: how long a reward may take, 0 for ever. A gradient waits longer than that for the slowest
            process, where torch gives NCCL ten minutes. See `wait_for_all` for what may take any time.
    """
    longest_s = max(1800.0, reward_timeout_s + 600.0)
    timeout = datetime.timedelta(seconds=longest_s) if reward_timeout_s > 0 else PATIENT
    on_gpu = torch.cuda.is_available() and not _asked_for("ACCELERATE_USE_CPU")
    talk = InitProcessGroupKwargs(backend="nccl" if on_gpu else "gloo", timeout=timeout)
    cpu = not on_gpu and not _asked_for("ACCELERATE_USE_DEEPSPEED")
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[talk] if "LOCAL_RANK" in os.environ else None)
    if is_sharded(accelerator):
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    patient_group()
    return accelerator


def _asked_for(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


def patient_group() -> Any:
    """All processes in a group of their own that waits for `PATIENT` and carries plain values; None of one process.

    The first call makes it, and all processes must make that.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return _patient(torch.distributed.group.WORLD) if distributed and torch.distributed.get_world_size() > 1 else None


@functools.lru_cache(maxsize=1)
def _patient(world: Any) -> Any:
    return torch.distributed.new_group(backend="gloo", timeout=PATIENT)


def wait_for_all(accelerator: Accelerator) -> None:
    """Wait for the slowest process, however long it takes: what one does alone ends before this and not in a
    collective of the training, which gives up after minutes."""
    group = patient_group()
    if group is None:
        accelerator.wait_for_everyone()
    else:
        torch.distributed.barrier(group=group)


def gathered_by_all(value: Any) -> list[Any]:
    """One value of every process, in their order, on process 0; an empty list on the others. Tensors lie on the CPU."""
    group = patient_group()
    if group is None:
        return [value]
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    values: list[Any] | None = [None] * count if rank == 0 else None
    torch.distributed.gather_object(value, values, dst=0, group=group)
    return values or []


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
    wait_for_all(accelerator)  # one may have downloaded the model for all
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

"""What a training step needs in memory, found by running it on tensors without data.

    python -m trainers.memory_plan --size wan2.1-1.3b --num_frames 81 --height 480 --width 832
    accelerate launch trainers/oro.py --config configs/oro_wan_24gb.yaml --dry_run

No weights are needed: the networks are built from their configs on PyTorch's meta device, and the trainer's own
rollout, decode and losses run there, forward and backward, while `trainers.memory_plan.meter` counts what is alive.
Attention counts as the fused kernels do. Not counted: the reward's instruments (their graph is freed before the
decoder's backward), a GPU's workspaces inside an operator, and the allocator's fragments. A plan is that of one process
without sharding.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import torch

from trainers.memory_plan.meter import MemoryMeter, Workspace, fused_attention
from trainers.memory_plan.steps import Peaks, step_of
from trainers.models import FAMILIES, family_of, lora_parameters
from trainers.models.offload import AT_HAND, blocks_of
from trainers.models.sizes import Size

GIB = 2**30
FEW = 2
"""Rollouts of more steps and networks of more blocks are planned from those of `FEW` and one more: what a further one
adds is always the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes: what stays, and the most that is alive beside it in each phase.

    Args:
        weights: how many numbers the networks and the LoRA have.
    """

    weights: dict[str, int]
    held: dict[str, int]
    phases: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return sum(self.held.values()) + max(self.phases.values())


def build(size: Size, dtype: torch.dtype, device: str = "meta") -> Any:
    """The adapter over random networks, without data on `meta`; one expert stands for all.

    Types are those that loading at `dtype` gives: what a class keeps in float32 stays so.
    """

    def component(made: tuple[str, dict[str, Any]]) -> Any:
        kind = getattr(diffusers, made[0])
        known = inspect.signature(kind.__init__).parameters
        return kind(**{name: value for name, value in made[1].items() if name in known})

    def network(made: tuple[str, dict[str, Any]]) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                built = component(made)
        finally:
            torch.set_default_dtype(before)
        kept = set(built._keep_in_fp32_modules or ())
        for name, weight in built.named_parameters():
            weight.data = weight.data.to(torch.float32 if kept & set(name.split(".")) else dtype)
        return built

    parts: dict[str, Any] = {name: network(getattr(size, name)) for name in ("transformer", "vae")}
    parts["scheduler"] = component(size.scheduler)
    pipeline_class = getattr(diffusers, size.pipeline)
    needed = inspect.signature(pipeline_class.__init__).parameters.values()
    parts |= {one.name: None for one in needed if one.name not in (*parts, "self") and one.default is one.empty}
    return family_of(FAMILIES[size.pipeline])(pipeline_class(**parts, **size.options))


def plan(size: Size, config: Any, *, workspace: Workspace | None = None, decodes: dict[Any, int] | None = None) -> Plan:
    """The plan of one step; also for sizes of your own.

    Args:
        config: settings of a trainer; num_frames, height and width given.
        workspace: what operators need beside their operands, as `trainers.memory_plan.meter.cpu_workspace` tells.
        decodes: what decoding costs, found by plans of the same size and kept for others.
    """
    decodes = {} if decodes is None else decodes
    steps = getattr(config, "num_inference_steps", 0)
    if steps > FEW + 1 and getattr(config, "grad_steps", "full") == "full":

        def of_steps(count: int) -> Plan:
            return plan(
                size, dataclasses.replace(config, num_inference_steps=count), workspace=workspace, decodes=decodes
            )

        return _extrapolated(of_steps, steps)
    for name, layers in _layers(size).items():
        if layers > FEW + 1:

            def of_layers(count: int, name: str = name) -> Plan:
                cut = (size.transformer[0], size.transformer[1] | {name: count})
                few = dataclasses.replace(size, transformer=cut)
                return plan(few, config, workspace=workspace, decodes=decodes)

            return _extrapolated(of_layers, layers)
    model = build(size, torch.bfloat16 if config.bf16 else torch.float32)
    parts = {"transformer": model.pipeline.transformer, "autoencoder": model.vae}
    times = {"transformer": size.experts, "autoencoder": 1}
    weights = {name: times[name] * _count(part.parameters()) for name, part in parts.items()}
    held = {name: times[name] * _bytes(part.parameters()) for name, part in parts.items()}
    weights["encoders"] = size.text_weights
    text = size.text_weights * (2 if config.bf16 else 4)
    if config.offload_transformer:
        blocks = [_bytes(block.parameters()) for block in blocks_of(model.pipeline.transformer)]
        held["transformer"] -= size.experts * sum(blocks) - AT_HAND * size.experts * max(blocks)
    held["encoders"] = 0 if config.offload_text_encoder else text
    if getattr(config, "full", False):
        model.transformer.requires_grad_(True)
        trained = list(model.transformer.parameters())
    else:
        model.add_lora(r=config.lora_r, alpha=config.lora_r, targets=config.lora_target_modules)
        trained = list(lora_parameters(model.transformer).values())
        weights["LoRA"] = _count(trained) * size.experts
        held["LoRA"] = _bytes(trained) * size.experts
    held["moments, average"] = (2 + (config.ema_decay > 0)) * _bytes(trained) * size.experts
    if size.experts > 1:
        held["gradients of the other expert"] = _bytes(trained)
    model.decode_in_tiles(config.decode_tile_px)
    if config.block_checkpointing:
        model.checkpoint_blocks()
    model._read_image = lambda frames: torch.zeros(
        len(frames), 257, model.pipeline.transformer.config["image_dim"], device=model.device
    )
    peaks = Peaks(MemoryMeter(workspace) if workspace else MemoryMeter(), decodes)
    with fused_attention():
        step_of(config)(model, config, peaks)
    prompts = {"prompts, encoders at hand": text} if config.offload_text_encoder else {}
    return Plan(weights=weights, held=held, phases=prompts | peaks.phases)


def _layers(size: Size) -> dict[str, int]:
    """How many blocks the transformer has of each kind."""
    known = inspect.signature(getattr(diffusers, size.transformer[0]).__init__).parameters
    several = [name for name in ("num_layers", "num_single_layers") if name in known]
    return {name: size.transformer[1].get(name, known[name].default) for name in several}


def _extrapolated(plan_of: Callable[[int], Plan], count: int) -> Plan:
    low, high = plan_of(FEW), plan_of(FEW + 1)

    def further(name: str) -> dict[str, int]:
        less, more = getattr(low, name), getattr(high, name)
        return {key: value + (count - FEW - 1) * max(0, value - less[key]) for key, value in more.items()}

    return Plan(weights=further("weights"), held=further("held"), phases=further("phases"))


def _count(tensors: Any) -> int:
    return sum(one.numel() for one in tensors)


def _bytes(tensors: Any) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def cheaper(config: Any) -> list[tuple[str, Any]]:
    """Settings that lower the peak, with the config that has them."""
    candidates: list[dict[str, Any]] = [
        {"bf16": True},
        {"offload_text_encoder": True},
        {"block_checkpointing": True},
        {"offload_transformer": True, "block_checkpointing": True},
        {"gradient_checkpointing": True},
        {"decode_checkpointing": True},
        {"per_device_train_batch_size": 1},
        {"sampling_batch_size": 1},
        {"reference_steps": 1},
        {"detach_negative": True},
        {"grad_steps": "last", "grad_steps_k": 1},
    ]
    found = []
    for one in candidates:
        known = all(hasattr(config, name) for name in one)
        if known and any(getattr(config, name) != value for name, value in one.items()):
            words = ", ".join(f"{name} {value}" for name, value in one.items())
            found.append((words, dataclasses.replace(config, **one)))
    return found


def report(size: Size, config: Any, memory_gib: float, *, workspace: Workspace | None = None) -> str:
    """The plan in lines, and what each cheaper setting would make of its peak.

    Raises:
        ValueError: frames or sizes that the autoencoder does not take, a mode that the model has not.
    """
    decodes: dict[Any, int] = {}
    found = plan(size, config, workspace=workspace, decodes=decodes)
    lines = [
        f"{name:29} {value / GIB:8.2f} GiB" + (f", {found.weights[name]:,} weights" if found.weights.get(name) else "")
        for name, value in found.held.items()
    ]
    lines += [f"{'peak of ' + name:29} {value / GIB:8.2f} GiB beside them" for name, value in found.phases.items()]
    fits = found.peak_bytes < memory_gib * GIB
    verdict = "fits in" if fits else "does not fit in"
    lines.append(f"{'peak':29} {found.peak_bytes / GIB:8.2f} GiB: {verdict} {memory_gib:.4g} GiB")
    for words, other in cheaper(config):
        try:
            peak = plan(size, other, workspace=workspace, decodes=decodes).peak_bytes
        except ValueError:  # not every number of frames is one that the autoencoder takes
            continue
        if peak < 0.99 * found.peak_bytes:
            lines.append(f"  with {words}: {peak / GIB:.2f} GiB")
    return "\n".join(lines)

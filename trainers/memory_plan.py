"""What a step of ORO needs in memory, found by running it on tensors without data.

    python -m trainers.memory_plan --size wan2.1-1.3b --num_frames 81 --height 480 --width 832 --bf16

No weights are needed: the networks are built from their configs on PyTorch's meta device, and the trainer's own rollout
and decode run there, forward and backward, while `trainers.memory_meter` counts what is alive. Attention counts as the
fused kernels do: queries, keys, values, output and one number a row. Not counted: the reward's instruments (their graph
is freed before the decoder's backward), workspaces inside an operator, and the allocator's fragments.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, cast

import diffusers
import torch
from torch import Tensor

from trainers.config import Count, Positive, exit_with_one_line, option, parse_config, strict, suggestion
from trainers.decode import decode_clips
from trainers.memory_meter import MemoryMeter
from trainers.models import FAMILIES, VideoModel, family_of, lora_parameters
from trainers.models.base import Condition
from trainers.models.sizes import SIZES, Size
from trainers.rollout import choose_grad_steps, rollout

GIB = 2**30


@strict
class PlanConfig:
    """Memory of one ORO step of a published model, before anything is downloaded."""

    size: str = option("wan2.1-1.3b", f"one of {', '.join(SIZES)}")
    num_frames: Positive = option(81, "frames a clip")
    height: Positive = option(480, "rows of a clip in px")
    width: Positive = option(832, "columns of a clip in px")
    per_device_train_batch_size: Positive = option(1, "clips a process and micro-batch")
    num_inference_steps: Positive = option(8, "denoising steps of a rollout")
    guidance_scale: float = option(1.0, "classifier-free guidance; 1 is none")
    detach_negative: bool = option(False, "no gradient through the unguided branch")
    grad_steps: Literal["full", "last", "random", "early", "one_step"] = option("full", "steps that carry gradient")
    grad_steps_k: Positive = option(1, "how many steps for last, random and early")
    gradient_checkpointing: bool = option(True, "evaluate each rollout step again in backward")
    block_checkpointing: bool = option(True, "evaluate each block of the network again in backward")
    offload_text_encoder: bool = option(True, "keep the text encoder on the CPU while it is not asked")
    decode_checkpointing: bool = option(True, "evaluate the decoder again in backward, in pieces")
    decode_chunk_size: Count = option(0, "clips decoded at a time; 0 is all")
    bf16: bool = option(True, "keep the frozen networks in bfloat16")
    lora_r: Positive = option(16, "rank of the LoRA")
    memory_gib: float = option(80.0, "memory of a device, to compare with")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes: what stays, and the most that is alive beside it in each phase."""

    held: dict[str, int]
    phases: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return sum(self.held.values()) + max(self.phases.values())


def build(size: Size, dtype: torch.dtype) -> VideoModel:
    """The adapter over networks without data."""

    def component(made: tuple[str, dict[str, Any]]) -> Any:
        return getattr(diffusers, made[0])(**made[1])

    with torch.device("meta"):
        networks = {"transformer": component(size.transformer).to(dtype), "vae": component(size.vae).to(dtype)}
    parts = {"scheduler": component(size.scheduler), "tokenizer": None, "text_encoder": None}
    if size.pipeline.startswith("Hunyuan"):
        parts |= {"tokenizer_2": None, "text_encoder_2": None}
    pipeline = getattr(diffusers, size.pipeline)(**networks, **parts, **size.options)
    return cast(VideoModel, family_of(FAMILIES[size.pipeline])(pipeline))


def blank_condition(model: VideoModel, size: Size, config: Any, *, device: str = "meta") -> Condition:
    """Prompts of no content."""
    batch, dtype = config.per_device_train_batch_size, next(model.transformer.parameters()).dtype
    text = torch.zeros(batch, size.text_length, size.text_width, dtype=dtype, device=device)
    mask = torch.ones(batch, size.text_length, dtype=torch.bool, device=device)
    pooled = torch.zeros(
        batch, getattr(model.transformer.config, "pooled_projection_dim", 768), dtype=dtype, device=device
    )
    guided = config.guidance_scale > 1 and getattr(model, "has_negative_branch", True)
    return Condition(
        num_frames=config.num_frames,
        height_px=config.height,
        width_px=config.width,
        fps_B=torch.full((batch,), 16.0, device=device),
        prompt_BLD=text,
        prompt_mask_BL=mask,
        pooled_BD=pooled,
        negative_BLD=text if guided else None,
        negative_mask_BL=mask if guided else None,
        guidance_scale=config.guidance_scale,
        detach_negative=config.detach_negative,
    )


def one_step(model: VideoModel, condition: Condition, config: Any, meter: MemoryMeter | None = None) -> dict[str, int]:
    """Run rollout, decode and backward as the trainer does; the peak of each in bytes, where there is a meter."""
    generator = torch.Generator().manual_seed(0)
    schedule = model.schedule(config.num_inference_steps, condition)
    grad_steps = choose_grad_steps(config.grad_steps, schedule.num_steps, config.grad_steps_k, generator)
    phases: dict[str, int] = {}
    peak = meter.take_peak if meter else int
    with meter or contextlib.nullcontext():
        noise = model.initial_latents(condition, None)
        done = rollout(
            model,
            condition,
            schedule,
            noise,
            grad_steps=grad_steps,
            one_step=config.grad_steps == "one_step",
            checkpointing=config.gradient_checkpointing,
        )
        phases["rollout"] = peak()
        frames = decode_clips(
            model,
            done.latents,
            condition,
            chunk_size=config.decode_chunk_size,
            checkpointing=config.decode_checkpointing,
        )
        phases["decode"] = peak()
        frames.backward(torch.empty_like(frames))
        phases["backward"] = peak()
    return phases


def plan(size: Size, config: Any) -> Plan:
    """The plan of one step; also for sizes of your own."""
    model = build(size, torch.bfloat16 if config.bf16 else torch.float32)
    model.check_size(config.num_frames, config.height, config.width)
    networks = {name: _bytes(getattr(model.pipeline, name).parameters()) for name in ("transformer", "vae")}  # pyright: ignore
    model.add_lora(r=config.lora_r, alpha=config.lora_r)
    lora = _bytes(lora_parameters(model.transformer).values())
    if config.block_checkpointing:
        model.checkpoint_blocks()
    held = {
        "transformer": networks["transformer"] * size.experts,
        "autoencoder": networks["vae"],
        "text encoder": 0 if config.offload_text_encoder else size.text_weights * (2 if config.bf16 else 4),
        "LoRA and its two moments": 3 * lora * size.experts,
    }
    with fused_attention():
        phases = one_step(model, blank_condition(model, size, config), config, MemoryMeter())
    return Plan(held=held, phases=phases)


def _bytes(tensors: Any) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """On meta tensors, scaled_dot_product_attention otherwise takes the form that keeps every score."""
    functional = torch.nn.functional
    kept = functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        return _Fused.apply(query, key, value)

    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = kept


def cheaper(config: Any) -> list[tuple[str, Any]]:
    """Settings that lower the peak, with the config that has them."""
    candidates: list[dict[str, Any]] = [
        {"bf16": True},
        {"offload_text_encoder": True},
        {"block_checkpointing": True},
        {"gradient_checkpointing": True},
        {"decode_checkpointing": True},
        {"per_device_train_batch_size": 1},
        {"detach_negative": True},
        {"grad_steps": "last", "grad_steps_k": 1},
        {"num_frames": (config.num_frames - 1) // 16 * 8 + 1},
    ]
    found = []
    for one in candidates:
        if any(getattr(config, name) != value for name, value in one.items()):
            words = ", ".join(f"{name} {value}" for name, value in one.items())
            found.append((words, dataclasses.replace(config, **one)))
    return found


def report(config: PlanConfig) -> str:
    """The plan in lines, and what each cheaper setting would make of its peak."""
    if config.size not in SIZES:
        raise ValueError(
            f"size must be one of {', '.join(SIZES)}, got {config.size}{suggestion(config.size, list(SIZES))}"
        )
    size = SIZES[config.size]
    found = plan(size, config)
    lines = [f"{name:26} {value / GIB:8.2f} GiB" for name, value in found.held.items()]
    lines += [f"{'peak of ' + name:26} {value / GIB:8.2f} GiB beside them" for name, value in found.phases.items()]
    verdict = "fits in" if found.peak_bytes < config.memory_gib * GIB else "does not fit in"
    lines.append(f"{'peak':26} {found.peak_bytes / GIB:8.2f} GiB: {verdict} {config.memory_gib:g} GiB")
    for words, other in cheaper(config):
        saved = found.peak_bytes - plan(size, other).peak_bytes
        if saved > 0.01 * found.peak_bytes:
            lines.append(f"  {words}: {(found.peak_bytes - saved) / GIB:.2f} GiB")
    return "\n".join(lines)


def main() -> None:
    diffusers.utils.logging.set_verbosity_error()  # casting networks without data loses nothing
    print(report(parse_config(PlanConfig)))


if __name__ == "__main__":
    exit_with_one_line(main)

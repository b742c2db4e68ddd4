"""The trainers' steps as a plan of memory runs them: their own rollout, decode and losses, on inputs of no content.

Axes: B clips, L text tokens, D features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from trainers.learning.decode import carry_back
from trainers.learning.losses import masked_mean, reference_distance
from trainers.learning.rollout import choose_grad_steps, evaluated_again, in_range, predicted, rollout
from trainers.memory_plan.meter import MemoryMeter, Workspace
from trainers.models.base import Condition
from trainers.settings.regression import PSFTConfig, RWRConfig


def blank_condition(model: Any, config: Any, *, batch: int | None = None, guided: bool = True) -> Condition:
    """Prompts and first frames of no content, on the model's device."""
    count, dtype, device = batch or config.per_device_train_batch_size, model._anchor.dtype, model.device
    model.check_size(config.num_frames, config.height, config.width)
    model.check_mode(config.image_conditioning)
    length, width = model.text_shape
    text = torch.zeros(count, length, width, dtype=dtype, device=device)
    mask = torch.ones(count, length, dtype=torch.bool, device=device)
    pooled_width = model.pipeline.transformer.config.get("pooled_projection_dim")
    both = guided and config.guidance_scale > 1 and model.has_negative_branch
    first: dict[str, Any] = {}
    if config.image_conditioning:
        frames = torch.zeros(count, 3, config.height, config.width, device=device)
        first = model._encode_first(frames, config.num_frames, None)
    return Condition(
        num_frames=config.num_frames,
        height_px=config.height,
        width_px=config.width,
        fps_B=torch.full((count,), 16.0, device=device),
        prompt_BLD=text,
        prompt_mask_BL=mask,
        pooled_BD=None if pooled_width is None else torch.zeros(count, pooled_width, dtype=dtype, device=device),
        negative_BLD=text if both else None,
        negative_mask_BL=mask if both else None,
        guidance_scale=config.guidance_scale if guided else 1.0,
        detach_negative=config.detach_negative,
        **first,
    )


class Peaks:
    """The peak of each phase, where there is a meter.

    Args:
        decodes: what decoding costs, found once for each clip and setting.
    """

    def __init__(self, meter: MemoryMeter | None, decodes: dict[Any, int] | None = None) -> None:
        self.meter = meter
        self.phases: dict[str, int] = {}
        self._decodes = {} if decodes is None else decodes

    def decode(
        self,
        model: Any,
        latents: Tensor,
        condition: Condition,
        *,
        num_frames: int | None = None,
        chunk_size: int = 0,
        checkpointing: bool = False,
    ) -> None:
        """The way to the pixels and, where the latents have a graph, back: a phase of its own."""
        size = chunk_size or len(latents)
        if num_frames is not None and num_frames < condition.num_frames:
            latents, condition = model.first_latents(latents, condition, num_frames)
        if self.meter is None:
            for start in range(0, len(latents), size):
                clips = slice(start, start + size)
                there_and_back(model, latents[clips], condition[clips], checkpointing=checkpointing)
            return
        some = latents[:size]
        clip = (*some.shape, condition.num_frames, condition.height_px, condition.width_px)
        key = (*clip, model.decode_tile_px, some.dtype, model.vae.dtype, checkpointing, some.requires_grad)
        if key not in self._decodes:
            workspace = self.meter.workspace
            self._decodes[key] = decode_peak(
                model, some, condition[:size], checkpointing=checkpointing, workspace=workspace
            )
        with self("decode"):
            self.meter.spike(self._decodes[key])

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with self.meter or contextlib.nullcontext():
            yield
        self.phases[name] = self.meter.take_peak() if self.meter else 0


def oro_step(model: Any, config: Any, peaks: Peaks) -> None:
    """One micro-batch of ORO as the trainer makes it, with no gradient in particular at the pixels."""
    with peaks("encode"):
        condition = blank_condition(model, config)
    schedule = model.schedule(config.num_inference_steps, condition)
    generator = torch.Generator().manual_seed(0)
    grad_steps = choose_grad_steps(config.grad_steps, schedule.num_steps, config.grad_steps_k, generator)
    with peaks("rollout"):
        done = rollout(
            model,
            condition,
            schedule,
            model.initial_latents(condition, None),
            grad_steps=grad_steps,
            adapter_sigma_range=config.adapter_sigma_range,
            detach_input=config.detach_input,
            one_step=config.grad_steps == "one_step",
            checkpointing=config.gradient_checkpointing,
        )
    peaks.decode(
        model,
        done.latents,
        condition,
        num_frames=config.reward_num_frames,
        chunk_size=config.decode_chunk_size,
        checkpointing=config.decode_checkpointing,
    )
    loss = _of_reward(done.latents)
    near = [i for i in range(len(done.visited)) if in_range(done.sigmas_S[i], config.reference_sigma_range)]
    near = near or [len(done.visited) - 1]  # a short rollout stands for a long one, which has such a step
    if config.reference_weight > 0:
        drawn = (near * config.reference_steps)[: config.reference_steps]
        with peaks("reference distance"):
            for i, again in zip(drawn, evaluated_again(config, len(drawn)), strict=True):
                sigma_B = done.sigmas_S[i].expand(len(done.latents))
                loss = loss + reference_distance(model, done.visited[i], sigma_B, condition, checkpointing=again)
    if config.denoising_weight > 0:
        with peaks("denoising"):
            loss = loss + _denoising(model, config, condition)
    del done
    with peaks("backward"):
        loss.backward()


def rwr_step(model: Any, config: Any, peaks: Peaks) -> None:
    """A batch of a round's samples, and one micro-batch of the regression on them."""
    with peaks("sample"), torch.no_grad():
        condition = blank_condition(model, config, batch=config.sampling_batch_size)
        schedule = model.schedule(config.num_inference_steps, condition)
        done = rollout(model, condition, schedule, model.initial_latents(condition, None))
    with torch.no_grad():
        peaks.decode(model, done.latents, condition)
    del done, condition
    with peaks("encode"):
        condition = blank_condition(model, config, guided=False)
    with peaks("denoising"):
        loss = _denoising(model, config, condition)
    if config.reference_weight > 0:
        with peaks("reference distance"):
            latents, sigma_B = _half_noisy(model, condition)
            loss = loss + reference_distance(model, latents, sigma_B, condition)
    with peaks("backward"):
        loss.backward()


def psft_step(model: Any, config: Any, peaks: Peaks) -> None:
    """One micro-batch of supervised fine-tuning, with the physics loss where it is on."""
    with peaks("encode"):
        condition = blank_condition(model, config, guided=False)
    with peaks("denoising"):
        loss = _denoising(model, config, condition)
    if config.physics_weight > 0:
        with peaks("prediction"):
            latents, sigma_B = _half_noisy(model, condition)
            clean = model.predicted_clean(latents, model.predict(latents, sigma_B, condition), sigma_B)
            clean = model.pin(clean, condition)
        peaks.decode(model, clean, condition)
        loss = loss + _of_reward(clean)
    with peaks("backward"):
        loss.backward()


def _of_reward(latents: Tensor) -> Tensor:
    return (latents * torch.zeros_like(latents)).sum()


def _half_noisy(model: Any, condition: Condition) -> tuple[Tensor, Tensor]:
    latents = model.initial_latents(condition, None)
    return latents, torch.full((len(latents),), 0.5)


def _denoising(model: Any, config: Any, condition: Condition) -> Tensor:
    shape = (condition.batch_size, condition.num_frames, 3, condition.height_px, condition.width_px)
    clean = model.encode_clip(torch.zeros(shape, device=model.device))
    sigma_B = torch.full((len(clean),), 0.5)
    noisy = model.add_noise(clean, torch.zeros_like(clean), sigma_B)
    error = (predicted(model, noisy, sigma_B, condition) - clean) ** 2
    return masked_mean(error, model.free_mask(condition))


def step_of(config: Any) -> Callable[[Any, Any, Peaks], None]:
    """The step of the trainer that the settings are of."""
    if isinstance(config, RWRConfig):
        return rwr_step
    return psft_step if isinstance(config, PSFTConfig) else oro_step


def there_and_back(model: Any, latents: Tensor, condition: Condition, *, checkpointing: bool) -> None:
    """Decode as `learning.decode` does, and go back with no gradient in particular where the latents have a graph."""
    with torch.set_grad_enabled(latents.requires_grad):
        leaf = latents.detach().requires_grad_(latents.requires_grad)
        frames = model.decode(leaf, condition, checkpointing=checkpointing)
    pixel_grad = torch.zeros_like(frames.detach().clamp(0, 1))
    carry_back(frames, leaf, pixel_grad)


def decode_peak(model: Any, latents: Tensor, condition: Condition, *, checkpointing: bool, workspace: Workspace) -> int:
    """Bytes beside the latents at the most."""
    with MemoryMeter(workspace) as meter:
        there_and_back(model, latents, condition, checkpointing=checkpointing)
    return meter.peak_bytes

"""ORO: teach a video model physics by the gradient of a differentiable reward through its own rollout.

    accelerate launch trainers/oro.py --config configs/oro_drops.yaml

One step, for clips x_0 = decode(z_0), z_0 = rollout(noise, condition; LoRA), and a reward R on their pixels:

    g = dR/dz_0 = (dx_0/dz_0)^T dR/dx_0          at the latents z_0; the graphs of reward and decoder are freed here
    loss = -w <g, z_0> / B + beta |v_on - v_off|^2 + lambda |v_on - target|^2
    one backward through the rollout, clip, AdamW step

Axes: B clips.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rewards.recipe.recipe import load_recipe
from trainers.learning.batches import Batch, Scenes, condition_on
from trainers.learning.clocks import Phases
from trainers.learning.decode import score_latents
from trainers.learning.figures import gather, reward_metrics
from trainers.learning.losses import denoising_loss, reference_distance
from trainers.learning.rollout import choose_grad_steps, evaluated_again, in_range, rollout
from trainers.learning.scoring import Judge, check_recipe
from trainers.learning.streams import Stream, clip_generators
from trainers.models import VideoModel
from trainers.run.build import held_out_judges, make_session, start, watched
from trainers.run.faults import warn_not_finite
from trainers.run.finish import print_plan, print_sigmas
from trainers.run.folder import check_disk
from trainers.run.session import mean_of
from trainers.settings.options import exit_with_one_line, parse_config
from trainers.settings.oro import OROConfig


def train(config: OROConfig, *, recipe: Judge | None = None, model: VideoModel | None = None) -> dict[str, float]:
    """Run the whole training; `recipe` and `model` replace those that the config names.

    Raises:
        ValueError: anything that a user can mend, before the first step where it can be known.
    """
    accelerator, resume = start(config)
    recipe = recipe or load_recipe(config.recipe, for_gradient=True)
    judges = held_out_judges(config, recipe)
    scenes = Scenes(config, config.split, seed=config.seed)
    recipe = watched(config, accelerator, recipe)
    run = make_session(config, accelerator, judges, scenes, model)
    model, state = run.model, run.state
    check_first_batch(config, recipe, model, scenes)
    check_disk(config.output_dir, run.disk_bytes())
    size = config.per_device_train_batch_size
    if run.is_main:
        per_step = size * config.gradient_accumulation_steps * run.places
        rewards = f"{config.recipe}, weight {config.reward_weight:g}"
        print_plan(config, model, scenes, state.weights, per_step, resume, {"rewards": rewards})
        print_sigmas(config, model, scenes)
    if config.dry_run:
        return {}
    metrics = run.open(resume, title="ORO")
    while state.step < config.max_steps:
        started, several = time.perf_counter(), []
        for micro in range(config.gradient_accumulation_steps):
            first = state.clips + run.place * size
            batch = scenes.batch(list(range(first, first + size)))
            loss, figures = oro_loss(config, model, recipe, batch, accelerator, state.step, run.phases)
            several.append(figures)
            run.backward(loss, micro)
            state.clips += size * run.places
        metrics = mean_of(several) | run.update()
        shown = {"reward": f"{metrics['reward']:.3f}", "measurable": f"{metrics['measurable']:.0%}"}
        metrics = run.after_step(metrics, started, shown)
    run.close(metrics, method="ORO, the gradient of a differentiable reward through the rollout")
    return metrics


def oro_loss(
    config: OROConfig,
    model: VideoModel,
    recipe: Judge,
    batch: Batch,
    accelerator: Accelerator,
    step: int,
    phase: Phases,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one micro-batch and its figures. Its gradient is that of the rewards and both regularisers."""
    choices = clip_generators(config.seed, [step], Stream.CHOICES)[0]  # the same on every process
    generators = clip_generators(config.seed, batch.numbers, Stream.NOISE)
    condition = condition_on(model, batch, config, generators)
    schedule = model.schedule(config.num_inference_steps, condition)
    noise = model.initial_latents(condition, generators)
    grad_steps = choose_grad_steps(config.grad_steps, schedule.num_steps, config.grad_steps_k, choices)

    with phase("sample"), torch.set_grad_enabled(config.reward_weight > 0):
        done = rollout(
            model,
            condition,
            schedule,
            noise,
            grad_steps=grad_steps,
            adapter_sigma_range=config.adapter_sigma_range,
            detach_input=config.detach_input,
            one_step=config.grad_steps == "one_step",
            checkpointing=config.gradient_checkpointing,
        )
    scored = score_latents(
        model,
        done.latents,
        condition,
        recipe,
        batch.video,
        batch.columns,
        num_frames=config.reward_num_frames,
        chunk_size=config.decode_chunk_size,
        checkpointing=config.decode_checkpointing,
        max_ratio=config.max_pixel_grad_ratio,
        skip_first=config.image_conditioning,
        each_reward=config.log_reward_gradients,
        everywhere=lambda value_B: gather(accelerator, value_B),
        phase=phase,
    )
    with phase("wait"):
        metrics = reward_metrics(accelerator, scored)
    assert scored.dropped_B is not None and scored.latent_grad is not None
    warn_not_finite("pixel gradient", scored.dropped_B, batch.ids, accelerator.process_index)
    loss = torch.zeros((), device=done.latents.device)
    if config.reward_weight > 0:
        # Backward of this sum is d reward / d latents carried on through the rollout.
        loss = loss - config.reward_weight * (done.latents * scored.latent_grad).sum() / len(done.latents)

    near = [i for i in range(len(done.visited)) if in_range(done.sigmas_S[i], config.reference_sigma_range)]
    if config.reference_weight > 0 and near:
        drawn = [near[i] for i in torch.randperm(len(near), generator=choices)[: config.reference_steps].tolist()]
        sigmas = [done.sigmas_S[i].expand(len(done.latents)) for i in drawn]
        with phase("regularisers"):
            distances = [
                reference_distance(model, done.visited[i], sigma_B, condition, checkpointing=again)
                for i, sigma_B, again in zip(drawn, sigmas, evaluated_again(config, len(drawn)), strict=True)
            ]
        distance = torch.stack(distances).mean()
        loss = loss + config.reference_weight * distance
        metrics["reference_distance"] = distance.item()
    if config.denoising_weight > 0:
        data = batch.video.frames_BTCHW[:, : condition.num_frames].to(done.latents.device)
        fresh, levels = clip_generators(config.seed, batch.numbers, Stream.DATA_NOISE), config.denoising_sigma_range
        with phase("regularisers"):
            clean = model.pin(model.encode_clip(data), condition)
            denoising = denoising_loss(model, clean, condition, sigma_range=levels, generators=fresh)
        loss = loss + config.denoising_weight * denoising
        metrics["denoising_loss"] = denoising.item()
    warn_not_finite("loss", ~loss.detach().isfinite(), batch.ids, accelerator.process_index)
    return loss, metrics


def check_first_batch(config: OROConfig, recipe: Judge, model: VideoModel, scenes: Scenes) -> None:
    """Meet bad sizes, frame rates and rewards on the data's own first clips, before anything is generated."""
    batch = scenes.batch([0, 1])
    condition = condition_on(model, batch, config, clip_generators(config.seed, batch.numbers))
    if config.denoising_weight > 0 and condition.num_frames > batch.video.num_frames:
        raise ValueError(
            f"num_frames {condition.num_frames} is more than the {batch.video.num_frames} frames of the data's clips: "
            "lower num_frames, or set denoising_weight to 0"
        )
    num_frames = min(condition.num_frames, config.reward_num_frames or condition.num_frames)
    video = batch.video.with_frames(batch.video.frames_BTCHW[:, :num_frames]).to(model.device)
    check_recipe(recipe, video, batch.columns, num_frames=num_frames)


def main(config: Any = None) -> None:
    train(config or parse_config(OROConfig))


if __name__ == "__main__":
    exit_with_one_line(main)

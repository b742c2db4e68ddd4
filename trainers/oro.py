"""ORO: teach a video model physics by the gradient of a differentiable reward through its own rollout.

    accelerate launch trainers/oro.py --config configs/oro_drops.yaml

One step, for clips x_0 = decode(z_0), z_0 = rollout(noise, condition; LoRA), and a reward R on their pixels:

    g = dR/dz_0 = (dx_0/dz_0)^T dR/dx_0          at the latents z_0; the graphs of reward and decoder are freed here
    loss = -w <g, z_0> / B + beta |v_on - v_off|^2 + lambda |v_on - target|^2
    one backward through the rollout, clip, AdamW step

Axes: B clips.
"""

from __future__ import annotations

import dataclasses
import time

import torch
from torch import Tensor

from rewards.recipe.recipe import load_recipe
from trainers.learning.batches import Batch, Scenes, check_not_given, condition_on, lasting
from trainers.learning.clocks import Phases
from trainers.learning.decode import score_latents
from trainers.learning.figures import Processes, reward_metrics
from trainers.learning.levels import (
    about_experts,
    oro_experts_left_out,
    oro_shortfalls,
    reference_steps,
    why_oro_cannot_learn,
)
from trainers.learning.losses import denoising_loss, reference_distance
from trainers.learning.rollout import Rollout, choose_grad_steps, recomputed, rollout
from trainers.learning.scoring import Scorer, check_recipe, score
from trainers.learning.streams import Stream, clip_generators
from trainers.memory_plan.blank import FEW, Blank, Step
from trainers.models import Condition, VideoModel
from trainers.run.build import held_out_judges, make_session, start, watched
from trainers.run.faults import warn, warn_not_finite
from trainers.run.finish import plan_sigmas, print_outline, print_sigmas
from trainers.run.folder import check_disk
from trainers.run.session import Session
from trainers.run.standstill import check_first_step, why_reward_is_silent
from trainers.run.tracking import mean_of
from trainers.settings.options import exit_with_one_line, parse_config, shared_levels
from trainers.settings.oro import OROConfig


def train(config: OROConfig, *, recipe: Scorer | None = None, model: VideoModel | None = None) -> dict[str, float]:
    """Run the whole training; `recipe` and `model` replace those that the config names.

    Raises:
        ValueError: anything that a user can mend, before the first step where it can be known.
    """
    accelerator, resume = start(config, STEP)
    recipe = recipe or load_recipe(config.recipe, for_gradient=True)
    judges = held_out_judges(config, recipe)
    scenes = Scenes(config, config.split, seed=config.seed)
    recipe = watched(config, accelerator, recipe)
    session = make_session(config, accelerator, judges, scenes, model, recipe=config.recipe)
    model, state = session.model, session.state
    check_first_batch(config, recipe, model, scenes)
    check_disk(config.output_dir, session.disk_bytes())
    size = config.per_device_train_batch_size
    sigmas = plan_sigmas(model, config, scenes)
    refusal = check_levels(config, session, sigmas)
    if session.is_main:
        per_step = size * config.gradient_accumulation_steps * session.places
        rewards = f"{config.recipe}, weight {config.reward_weight:g}"
        print_outline(config, model, scenes, state.weights, per_step, resume, {"rewards": rewards})
        print_sigmas(config, sigmas)
    if config.dry_run:
        if refusal is not None:
            raise ValueError(refusal)
        return {}
    processes = Processes.of(accelerator)
    metrics = session.open(resume, title="ORO", refusal=refusal)
    while state.step < config.max_steps:
        started, records = time.perf_counter(), []
        for micro in range(config.gradient_accumulation_steps):
            first = state.clips + session.place * size
            batch = scenes.batch(list(range(first, first + size)))
            loss, figures = oro_loss(config, model, recipe, batch, processes, state.step, session.phases)
            records.append(figures)
            session.backward(loss, micro)
            state.clips += size * session.places
        figures = mean_of(records)
        if config.reward_weight > 0:
            session.learning.silent = why_reward_is_silent(figures, given_first=config.image_conditioning)
            if state.step == 0:
                check_first_step(session.learning.silent, figures)
        metrics = figures | session.update()
        shown = {"reward": f"{metrics['reward']:.3f}", "measurable": f"{metrics['measurable']:.0%}"}
        metrics = session.after_step(metrics, started, shown)
    session.close(metrics, method="ORO, the gradient of a differentiable reward through the rollout")
    return metrics


def check_levels(config: OROConfig, session: Session, sigmas: list[float]) -> str | None:
    """Say what the levels of gradient and adapter leave out; why nothing can be learned, None where something can."""
    session.untrained = oro_experts_left_out(config, session.model, sigmas)
    refusal = why_oro_cannot_learn(config, sigmas)
    if refusal is None:
        warn([*oro_shortfalls(config, sigmas), *about_experts(session.untrained)], session.is_main)
    return refusal


def oro_loss(
    config: OROConfig, model: VideoModel, recipe: Scorer, batch: Batch, processes: Processes, step: int, phase: Phases
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one micro-batch and its figures. Its gradient is that of the rewards and both regularisers."""
    choices = clip_generators(config.seed, [step], Stream.CHOICES)[0]  # the same on every process
    trajectory, condition = sampled(config, model, batch, choices, phase)
    scored = score_latents(
        model,
        trajectory.latents,
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
        processes=processes,
        phase=phase,
    )
    with phase("wait"):
        metrics = reward_metrics(processes, scored)
    assert scored.dropped_B is not None and scored.latent_grad is not None
    warn_not_finite("pixel gradient", scored.dropped_B, batch.ids, processes.index)
    loss = torch.zeros((), device=trajectory.latents.device)
    if config.reward_weight > 0:
        # Backward of this sum is d reward / d latents carried on through the rollout.
        loss = loss - config.reward_weight * (trajectory.latents * scored.latent_grad).sum() / len(trajectory.latents)
    distance = distance_to_reference(config, model, trajectory, condition, choices, phase)
    if distance is not None:
        loss = loss + config.reference_weight * distance
        metrics["reference_distance"] = distance.item()
    if config.denoising_weight > 0:
        denoising = denoising_on_data(config, model, batch, condition, phase)
        loss = loss + config.denoising_weight * denoising
        metrics["denoising_loss"] = denoising.item()
    warn_not_finite("loss", ~loss.detach().isfinite(), batch.ids, processes.index)
    return loss, metrics


def sampled(
    config: OROConfig, model: VideoModel, batch: Batch, choices: torch.Generator, phase: Phases
) -> tuple[Rollout, Condition]:
    """The batch's clips, with the graph of the steps that carry one, and what they were generated from."""
    generators = clip_generators(config.seed, batch.numbers, Stream.NOISE)
    with phase.part("encode"):
        condition = condition_on(model, batch, config, generators)
    schedule = model.schedule(config.num_inference_steps, condition)
    noise = model.initial_latents(condition, generators)
    grad_steps = choose_grad_steps(config.grad_steps, schedule.num_steps, config.grad_steps_k, choices)
    with phase("sample"), torch.set_grad_enabled(config.reward_weight > 0):
        trajectory = rollout(
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
    return trajectory, condition


def distance_to_reference(
    config: OROConfig,
    model: VideoModel,
    trajectory: Rollout,
    condition: Condition,
    choices: torch.Generator,
    phase: Phases,
) -> Tensor | None:
    """The mean of |v_on - v_off|^2 at some steps of the rollout in which the adapter acts.

    None where its weight is 0 or no step is in range.
    """
    near = reference_steps(config, trajectory.sigmas_S.tolist())
    if config.reference_weight == 0 or not near:
        return None
    drawn = [near[i] for i in torch.randperm(len(near), generator=choices)[: config.reference_steps].tolist()]
    sigmas = [trajectory.sigmas_S[i].expand(len(trajectory.latents)) for i in drawn]
    with phase("regularisers"), phase.part("reference distance"):
        distances = [
            reference_distance(model, trajectory.visited[i], sigma_B, condition, checkpointing=again)
            for i, sigma_B, again in zip(drawn, sigmas, recomputed(config, len(drawn)), strict=True)
        ]
    return torch.stack(distances).mean()


def denoising_on_data(
    config: OROConfig, model: VideoModel, batch: Batch, condition: Condition, phase: Phases
) -> Tensor:
    """The family's own training loss on the data's clips."""
    data = batch.video.frames_BTCHW[:, : condition.num_frames].to(model.device)
    fresh = clip_generators(config.seed, batch.numbers, Stream.DATA_NOISE)
    levels = shared_levels(config.denoising_sigma_range, config.adapter_sigma_range)
    assert levels is not None
    with phase("regularisers"), phase.part("denoising"):
        clean = model.pin(model.encode_clip(data), condition)
        return denoising_loss(model, clean, condition, sigma_range=levels, generators=fresh)


def shortest(config: OROConfig) -> OROConfig:
    """A rollout of few steps that stands for a longer one in the plan of memory: some step is near the reference."""
    if config.grad_steps != "full":
        return config
    few = max(FEW, config.grad_steps_k, config.reference_steps)
    if config.num_inference_steps <= few + 1:
        return config
    return dataclasses.replace(config, num_inference_steps=few, reference_sigma_range=[0.0, 1.0])


def blank_loss(config: OROConfig, blank: Blank) -> Tensor:
    """The loss of one micro-batch of clips without content."""
    batch = blank.scenes.batch(list(range(config.per_device_train_batch_size)))
    return oro_loss(config, blank.model, blank.recipe, batch, blank.processes, 0, blank.phase)[0]


STEP = Step(settings=OROConfig, loss=blank_loss, shortest=shortest, names={"sample": "rollout"})
"""The step, as the plan of memory runs it."""


def check_first_batch(config: OROConfig, recipe: Scorer, model: VideoModel, scenes: Scenes) -> None:
    """Meet bad sizes, frame rates and rewards on the data's own first clips, before anything is generated."""
    batch = scenes.batch([0, 1])
    condition = condition_on(model, batch, config, clip_generators(config.seed, batch.numbers))
    if config.denoising_weight > 0 and condition.num_frames > batch.video.num_frames:
        raise ValueError(
            f"num_frames {condition.num_frames} is more than the {batch.video.num_frames} frames of the data's clips: "
            "lower num_frames, or set denoising_weight to 0"
        )
    if config.denoising_weight > 0 and not batch.has_clips:
        raise ValueError(f"denoising_weight needs clips, and {config.dataset} holds prompts alone: set it to 0")
    num_frames = min(condition.num_frames, config.reward_num_frames or condition.num_frames)
    if config.reward_weight > 0:
        check_not_given(num_frames, config)
    video = batch.video.to(model.device)
    if batch.has_clips:
        true = video.with_frames(video.frames_BTCHW[:, :num_frames])
        check_recipe(recipe, true, batch.columns, num_frames=num_frames)
    if num_frames > batch.video.num_frames or not batch.has_clips:
        score(recipe, video.with_frames(lasting(video.frames_BTCHW, num_frames)), batch.columns)


def main(config: OROConfig | None = None) -> None:
    train(config or parse_config(OROConfig))


if __name__ == "__main__":
    exit_with_one_line(main)

"""PSFT: supervised fine-tuning of a video model on simulated clips, with an explicit physics loss where wanted.

    python -m data.write --split train --g_m_s2 9.81 --clips 600
    accelerate launch trainers/psft.py --config configs/psft_drops.yaml

One step, for encoded clips x_0 and their prediction x_hat from x_sigma = add_noise(x_0):

    loss = |v(x_sigma, c) - target|^2 + lambda |F(decode(x_hat))|^2

|F|^2 is minus the reward of a differentiable recipe. As in ORO the graph is cut at the pixels: the reward's gradient
there is carried on through the decoder by one backward.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from rewards.recipe.recipe import load_recipe
from trainers.learning.batches import Batch, Scenes, check_not_given, condition_on
from trainers.learning.clocks import Phases
from trainers.learning.decode import score_latents
from trainers.learning.figures import Processes, reward_metrics
from trainers.learning.levels import about_experts, check_adapter_acts, experts_left_out
from trainers.learning.losses import denoising_loss, noised, told
from trainers.learning.scoring import Scored, Scorer, check_recipe
from trainers.learning.streams import Stream, clip_generators
from trainers.memory_plan.blank import Blank, Step
from trainers.models import Condition, VideoModel
from trainers.run.build import held_out_judges, make_session, start, watched
from trainers.run.faults import warn, warn_not_finite
from trainers.run.finish import plan_sigmas, print_outline
from trainers.run.folder import check_disk
from trainers.run.standstill import why_reward_is_silent
from trainers.run.tracking import mean_of
from trainers.settings.options import exit_with_one_line, parse_config, shared_levels
from trainers.settings.regression import PSFTConfig


def train(config: PSFTConfig, *, recipe: Scorer | None = None, model: VideoModel | None = None) -> dict[str, float]:
    """Run the whole training; `recipe` and `model` replace those that the config names.

    Raises:
        ValueError: anything that a user can mend, before the first step where it can be known.
    """
    accelerator, resume = start(config, STEP)
    if recipe is None and (config.physics_weight > 0 or config.eval_steps):
        recipe = load_recipe(config.recipe, for_gradient=config.physics_weight > 0)
    scenes = Scenes(config, config.split, seed=config.seed, own_clips=True)
    recipe = recipe and watched(config, accelerator, recipe)
    judges = held_out_judges(config, recipe, own_clips=True)
    session = make_session(config, accelerator, judges, scenes, model, recipe=config.recipe, full=config.full)
    model, state = session.model, session.state
    check_first_batch(config, recipe, model, scenes)
    if not config.full:
        check_adapter_acts(config, plan_sigmas(model, config, scenes))
    session.untrained = left_out(config, model)
    warn(about_experts(session.untrained), session.is_main)
    check_disk(config.output_dir, session.disk_bytes())
    size, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    if session.is_main:
        per_step = size * accumulation * session.places
        print_outline(config, model, scenes, state.weights, per_step, resume, outline(config, scenes))
    if config.dry_run:
        return {}
    processes = Processes.of(accelerator)
    metrics = session.open(resume, title="PSFT")
    while state.step < config.max_steps:
        started, records = time.perf_counter(), []
        for micro in range(accumulation):
            first = state.clips + session.place * size
            batch = scenes.batch(list(range(first, first + size)))
            loss, figures = psft_loss(config, model, recipe, batch, processes, session.phases)
            records.append(figures)
            session.backward(loss, micro)
            state.clips += size * session.places
        figures = mean_of(records)
        if config.physics_weight > 0:
            session.learning.silent = why_reward_is_silent(figures, given_first=config.image_conditioning)
        metrics = figures | session.update()
        metrics = session.after_step(metrics, started, {"denoising_loss": f"{metrics['denoising_loss']:.3f}"})
    session.close(metrics, method="PSFT, supervised fine-tuning on simulated clips")
    return metrics


def psft_loss(
    config: PSFTConfig, model: VideoModel, recipe: Scorer | None, batch: Batch, processes: Processes, phase: Phases
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one micro-batch and its figures."""
    with phase("encode"):
        condition = condition_on(model, batch, config, clip_generators(config.seed, batch.numbers, Stream.NOISE))
        condition = told(condition)
        data = batch.video.frames_BTCHW[:, : condition.num_frames].to(model.device)
        clean = model.pin(model.encode_clip(data), condition)
    fresh = clip_generators(config.seed, batch.numbers, Stream.DATA_NOISE)
    with phase("denoising"):
        loss = denoising_loss(model, clean, condition, sigma_range=config.denoising_sigma_range, generators=fresh)
    metrics = {"denoising_loss": loss.item()}
    if config.physics_weight > 0:
        assert recipe is not None
        physics, scored = physics_loss(config, model, recipe, batch, clean, condition, processes, phase)
        loss = loss + physics
        with phase("wait"):
            metrics |= reward_metrics(processes, scored)
    warn_not_finite("loss", ~loss.detach().isfinite(), batch.ids, processes.index)
    return loss, metrics


def physics_loss(
    config: PSFTConfig,
    model: VideoModel,
    recipe: Scorer,
    batch: Batch,
    clean: Tensor,
    condition: Condition,
    processes: Processes,
    phase: Phases,
) -> tuple[Tensor, Scored]:
    """A sum with the gradient of minus the weighted reward of the predicted clean clips, and their scores."""
    drawn = clip_generators(config.seed, batch.numbers, Stream.PHYSICS_NOISE)
    levels = physics_levels(config)
    assert levels is not None
    noisy, _, sigma_B = noised(model, clean, condition, sigma_range=levels, generators=drawn)
    with phase("predict"):
        prediction = model.predict(noisy, sigma_B, condition)
        predicted = model.pin(model.predicted_clean(noisy, prediction, sigma_B), condition)
    scored = score_latents(
        model,
        predicted,
        condition,
        recipe,
        batch.video,
        batch.columns,
        max_ratio=config.max_pixel_grad_ratio,
        skip_first=config.image_conditioning,
        processes=processes,
        phase=phase,
    )
    assert scored.latent_grad is not None and scored.dropped_B is not None
    warn_not_finite("pixel gradient", scored.dropped_B, batch.ids, processes.index)
    # Backward of this sum is d reward / d latents carried on through the network.
    return -config.physics_weight * (predicted * scored.latent_grad).sum() / len(predicted), scored


def physics_levels(config: PSFTConfig) -> list[float] | None:
    """The noise levels at which the clean clip is predicted: where the adapter acts."""
    active = [0.0, 1.0] if config.full else config.adapter_sigma_range
    return shared_levels(config.physics_sigma_range, active)


def left_out(config: PSFTConfig, model: VideoModel) -> list[str]:
    """Files of the networks that neither loss teaches."""
    physics = physics_levels(config) if config.physics_weight > 0 else None
    return experts_left_out(model, ranges=[config.denoising_sigma_range, *([physics] if physics else [])])


def blank_loss(config: PSFTConfig, blank: Blank) -> Tensor:
    """The loss of one micro-batch of clips without content."""
    batch = blank.scenes.batch(list(range(config.per_device_train_batch_size)))
    return psft_loss(config, blank.model, blank.recipe, batch, blank.processes, blank.phase)[0]


STEP = Step(settings=PSFTConfig, loss=blank_loss, full=lambda config: config.full)
"""The step, as the plan of memory runs it."""


def check_first_batch(config: PSFTConfig, recipe: Scorer | None, model: VideoModel, scenes: Scenes) -> None:
    """Meet bad sizes and rewards on the first clips, before the first step."""
    batch = scenes.batch([0, 1])
    if not batch.has_clips:
        raise ValueError(f"supervised fine-tuning learns from clips, and {config.dataset} holds prompts alone: use ORO")
    condition = condition_on(model, batch, config, clip_generators(config.seed, batch.numbers))
    if condition.num_frames > batch.video.num_frames:
        raise ValueError(
            f"num_frames {condition.num_frames} is more than the {batch.video.num_frames} frames of the data's clips: "
            "lower num_frames"
        )
    if config.physics_weight > 0:
        assert recipe is not None
        check_not_given(condition.num_frames, config)
        video = batch.video.with_frames(batch.video.frames_BTCHW[:, : condition.num_frames]).to(model.device)
        check_recipe(recipe, video, batch.columns, num_frames=condition.num_frames)


def outline(config: PSFTConfig, scenes: Scenes) -> dict[str, str]:
    """The trainer's own lines of the plan. What the clips fall at is what the model will learn."""
    physics = f"{config.recipe}, weight {config.physics_weight:g}" if config.physics_weight > 0 else "none"
    if "g_m_s2" not in scenes.table.column_names:
        return {"physics": physics}
    g = torch.as_tensor(scenes.table["g_m_s2"], dtype=torch.float32)
    falls = f"{config.split}: g {g.median():.2f} m/s^2, from {g.min():.2f} to {g.max():.2f}"
    return {"falls": falls, "physics": physics}


def main(config: PSFTConfig | None = None) -> None:
    train(config or parse_config(PSFTConfig))


if __name__ == "__main__":
    exit_with_one_line(main)

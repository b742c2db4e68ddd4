"""ORO: teach a video model physics by the gradient of a differentiable reward through its own rollout.

    accelerate launch trainers/oro.py --config configs/oro_drops.yaml

One step, for clips x_0 = decode(rollout(noise, condition; LoRA)) and a reward R on their pixels:

    g = dR/dx_0                                  the estimators' graph is freed here
    loss = -w <g, x_0> / B + beta |v_on - v_off|^2 + lambda |v_on - target|^2
    one backward through decode and rollout, clip, AdamW step

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from tqdm import tqdm
from transformers import get_scheduler

from rewards.recipe import load_recipe
from trainers import checkpoint as ckpt
from trainers.batches import Batch, Scenes, clip_generators, condition_on
from trainers.config import OROConfig, exit_with_one_line, parse_config
from trainers.decode import decode_clips, saturated_fraction, straight_through_clamp
from trainers.finish import finish, print_plan, write_config
from trainers.held_out import evaluate
from trainers.losses import denoising_loss, reference_distance
from trainers.models import VideoModel, load_video_model, lora_parameters
from trainers.parallel import (
    backward,
    engine_of,
    gathered,
    is_sharded,
    make_accelerator,
    reduce_and_clip,
    use_threads,
    wrap,
)
from trainers.rollout import choose_grad_steps, in_range, rollout
from trainers.scoring import Judge, check_recipe, reward_metrics, score_with_gradient
from trainers.tracking import check_trackers, open_trackers

NOISE, CHOICES, DATA_NOISE = 0, 1, 2  # streams of random numbers


def train(config: OROConfig, *, recipe: Judge | None = None, model: VideoModel | None = None) -> dict[str, float]:
    """Run the whole training; `recipe` and `model` replace those that the config names.

    Raises:
        ValueError: anything that a user can mend, before the first step where it can be known.
    """
    resuming = config.resume_from_checkpoint is not None
    ckpt.check_output_dir(config.output_dir, overwrite=config.overwrite_output_dir, resume=resuming)
    check_trackers(config.report_to)
    resume = ckpt.find_resume(config.output_dir, config.resume_from_checkpoint)
    use_threads(config.num_threads)
    accelerator = make_accelerator()
    is_main = accelerator.is_main_process
    set_seed(config.seed)
    run, model, recipe, judges, scenes, held_out = build(config, accelerator, recipe, model)
    check_first_batch(config, recipe, model, scenes)
    ckpt.check_disk(config.output_dir, disk_bytes(config, run))
    if is_main:
        per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
        print_plan(config, model, scenes, per_step, resume)
    if config.dry_run:
        return {}
    if is_main:
        ckpt.make_output_dir(config.output_dir, resume=resuming)
        write_config(config)
    accelerator.wait_for_everyone()
    rank = {"process": accelerator.process_index, "num_processes": accelerator.num_processes}
    settings = dataclasses.asdict(config)  # pyright: ignore[reportArgumentType]
    if resume is not None:
        changed = ckpt.load_checkpoint(resume, run, config=settings, **rank)
        accelerator.print(f"resumed from {resume}" + "".join(f"\n  changed: {line}" for line in changed))
    trackers = None
    if is_main:
        trackers = open_trackers(config.report_to, config.output_dir, config.run_name, settings, resumed_step=run.step)

    def save() -> None:
        ckpt.save_checkpoint(
            config.output_dir,
            run,
            config=settings,
            save_lora=model.save_lora,
            recipe=config.recipe if Path(config.recipe).is_file() else None,
            keep=config.save_total_limit,
            barrier=accelerator.wait_for_everyone,
            **rank,
        )

    def evaluate_now() -> dict[str, float]:
        figures: dict[str, float] = {}
        if is_main or is_sharded(accelerator):  # under ZeRO-3 no process can sample without the others' weights
            with ckpt.averaged(run):
                folder = Path(config.output_dir) / "eval" / f"step_{run.step}" if is_main else None
                figures = evaluate(model, held_out, judges, config, step=run.step, folder=folder, trackers=trackers)
        accelerator.wait_for_everyone()
        return figures if is_main else {}

    metrics: dict[str, float] = {}
    if config.eval_steps and run.step == 0:
        metrics |= evaluate_now()
    weights = list(run.weights.values())
    quiet = config.disable_tqdm or not is_main
    progress = tqdm(total=config.max_steps, initial=run.step, desc="ORO", unit="step", disable=quiet)
    while run.step < config.max_steps:
        started, several = time.perf_counter(), []
        for micro in range(config.gradient_accumulation_steps):
            size = config.per_device_train_batch_size
            first = run.clips + accelerator.process_index * size
            batch = scenes.batch(list(range(first, first + size)))
            loss, figures = oro_loss(config, model, recipe, batch, accelerator, run.step)
            several.append(figures)
            last = micro + 1 == config.gradient_accumulation_steps
            backward(accelerator, loss / config.gradient_accumulation_steps, last=last)
            run.clips += size * accelerator.num_processes
        metrics = mean_of(several)
        metrics["grad_norm"] = reduce_and_clip(accelerator, weights, config.max_grad_norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.scheduler.step()
        run.step += 1
        ckpt.update_ema(run.ema, run.weights, config.ema_decay, run.step)

        metrics["learning_rate"] = run.scheduler.get_last_lr()[0]
        metrics["seconds"] = time.perf_counter() - started
        if trackers is not None and run.step % config.logging_steps == 0:
            trackers.metrics(metrics, run.step)
        progress.update()
        progress.set_postfix(reward=f"{metrics['reward']:.3f}", measurable=f"{metrics['measurable']:.0%}")
        if config.eval_steps and run.step % config.eval_steps == 0:
            metrics |= evaluate_now()
        if run.step == config.max_steps or (config.save_steps and run.step % config.save_steps == 0):
            save()
    progress.close()
    with ckpt.averaged(run), gathered(weights):
        if trackers is not None:
            finish(config, model, metrics, trackers)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return metrics


def oro_loss(
    config: OROConfig, model: VideoModel, recipe: Judge, batch: Batch, accelerator: Accelerator, step: int
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one micro-batch and its figures. Its gradient is that of the rewards and both regularisers."""
    choices = clip_generators(config.seed, [step], CHOICES)[0]  # the same on every process
    generators = clip_generators(config.seed, batch.numbers, NOISE)
    condition = condition_on(model, batch, config, generators)
    schedule = model.schedule(config.num_inference_steps, condition)
    noise = model.initial_latents(condition, generators)
    grad_steps = choose_grad_steps(config.grad_steps, schedule.num_steps, config.grad_steps_k, choices)

    with torch.set_grad_enabled(config.reward_weight > 0):
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
        frames = decode_clips(
            model,
            done.latents,
            condition,
            chunk_size=config.decode_chunk_size,
            checkpointing=config.decode_checkpointing,
        )
    video = batch.video.to(frames.device).with_frames(straight_through_clamp(frames).detach())
    scored = score_with_gradient(
        recipe, video, batch.columns, max_ratio=config.max_pixel_grad_ratio, skip_first=config.image_conditioning
    )
    metrics = reward_metrics(accelerator, scored) | {"saturated": saturated_fraction(frames)}
    loss = torch.zeros((), device=frames.device)
    if config.reward_weight > 0:
        # Backward of this sum is d reward / d pixels carried on through decode and rollout.
        assert scored.pixel_grad_BTCHW is not None
        loss = loss - config.reward_weight * (frames * scored.pixel_grad_BTCHW).sum() / len(frames)

    near = [i for i in range(len(done.visited)) if in_range(done.sigmas_S[i], config.reference_sigma_range)]
    if config.reference_weight > 0 and near:
        drawn = [near[i] for i in torch.randperm(len(near), generator=choices)[: config.reference_steps].tolist()]
        sigmas = [done.sigmas_S[i].expand(len(frames)) for i in drawn]
        distances = [
            reference_distance(model, done.visited[i], s, condition) for i, s in zip(drawn, sigmas, strict=True)
        ]
        distance = torch.stack(distances).mean()
        loss = loss + config.reference_weight * distance
        metrics["reference_distance"] = distance.item()
    if config.denoising_weight > 0:
        data = batch.video.frames_BTCHW[:, : condition.num_frames].to(frames.device)
        clean = model.pin(model.encode_clip(data), condition)
        fresh = clip_generators(config.seed, batch.numbers, DATA_NOISE)
        denoising = denoising_loss(model, clean, condition, sigma_range=config.denoising_sigma_range, generators=fresh)
        loss = loss + config.denoising_weight * denoising
        metrics["denoising_loss"] = denoising.item()
    return loss, metrics


def mean_of(several: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the micro-batches that have it."""
    names = dict.fromkeys(name for one in several for name in one)
    return {name: statistics.fmean(one[name] for one in several if name in one) for name in names}


def build(
    config: OROConfig, accelerator: Accelerator, recipe: Judge | None, model: VideoModel | None
) -> tuple[ckpt.TrainState, VideoModel, Judge, dict[str, Judge], Scenes, Scenes]:
    """Everything that a run needs: state, model with LoRA, recipe, held-out judges, scenes."""
    recipe = recipe or load_recipe(config.recipe, for_gradient=True)
    judges = {"eval": recipe}
    if config.eval_steps and config.eval_recipe:
        judges["judge"] = load_recipe(config.eval_recipe)
    scenes = Scenes(config, config.split, seed=config.seed)
    held_out = Scenes(config, config.eval_split, shuffle=False) if config.eval_steps else scenes
    model = model or load_video_model(
        config.model_name_or_path, torch_dtype=torch.bfloat16 if config.bf16 else torch.float32
    ).to(accelerator.device)
    if config.lora_path:
        model.load_lora(config.lora_path, trainable=True)
    else:
        model.add_lora(r=config.lora_r, alpha=config.lora_alpha, targets=config.lora_target_modules)
    weights = lora_parameters(model.transformer)
    optimizer = torch.optim.AdamW(
        list(weights.values()),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    per_device, norm = config.per_device_train_batch_size, config.max_grad_norm
    optimizer = wrap(accelerator, model, optimizer, batch_size=per_device, max_grad_norm=norm)
    scheduler = get_scheduler(
        "constant_with_warmup" if config.lr_scheduler_type == "constant" else config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=config.max_steps,
    )
    ema = ckpt.start_ema(weights) if config.ema_decay > 0 else {}
    engine = engine_of(accelerator)
    run = ckpt.TrainState(weights=weights, optimizer=optimizer, scheduler=scheduler, ema=ema, engine=engine)
    return run, model, recipe, judges, scenes, held_out


def check_first_batch(config: OROConfig, recipe: Judge, model: VideoModel, scenes: Scenes) -> None:
    """Meet bad sizes, frame rates and rewards on the data's own first clips, before anything is generated."""
    batch = scenes.batch([0, 1])
    condition = condition_on(model, batch, config, clip_generators(config.seed, batch.numbers))
    if config.denoising_weight > 0 and condition.num_frames > batch.video.num_frames:
        raise ValueError(
            f"num_frames {condition.num_frames} is more than the {batch.video.num_frames} frames of the data's clips: "
            "lower num_frames, or set denoising_weight to 0"
        )
    video = batch.video.with_frames(batch.video.frames_BTCHW[:, : condition.num_frames]).to(model.device)
    check_recipe(recipe, video, batch.columns, num_frames=condition.num_frames)


def disk_bytes(config: OROConfig, run: ckpt.TrainState) -> int:
    """What the run will write at most: per checkpoint the LoRA twice, two moments and the average; videos and logs."""
    lora = sum(weight.numel() * weight.element_size() for weight in run.weights.values())
    evaluations = config.max_steps // config.eval_steps + 1 if config.eval_steps else 0
    return 5 * lora * (config.save_total_limit + 1) + evaluations * config.eval_scenes * 1_000_000 + 20_000_000


def main(config: Any = None) -> None:
    train(config or parse_config(OROConfig))


if __name__ == "__main__":
    exit_with_one_line(main)

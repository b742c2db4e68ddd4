"""A run built from its config: processes, judges, model, optimizer and schedule."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import get_scheduler

from rewards.recipe.recipe import load_recipe
from trainers.learning.batches import Scenes
from trainers.learning.of_text import check_without_scene
from trainers.learning.scoring import Scorer
from trainers.memory_plan.blank import C, Step
from trainers.memory_plan.of_run import print_memory
from trainers.models import VideoModel, load_video_model, lora_parameters
from trainers.run import averages
from trainers.run import checkpoint as ckpt
from trainers.run.faults import Watched
from trainers.run.folder import check_output_dir, goes_on_in
from trainers.run.held_out import check_held_out
from trainers.run.processes.context_parallel import share_sequence
from trainers.run.processes.launch import settle_deepspeed, settle_launch
from trainers.run.processes.parallel import (
    engine_of,
    is_sharded,
    make_accelerator,
    use_threads,
    wrap,
)
from trainers.run.resumed import changes
from trainers.run.session import Session
from trainers.run.tracking import check_trackers
from trainers.settings.common import ModelConfig, RunConfig, TrainerConfig


def start(config: C, step: Step[C]) -> tuple[Accelerator, Path | None]:
    """The processes, seeded, and the checkpoint to resume from. A dry run prints the step's plan of memory first.

    Raises:
        ValueError: an output folder that must not be written to, a tracker that is missing, no such checkpoint, a
            setting that cannot change on resume.
    """
    resuming = goes_on_in(config.output_dir, config.resume_from_checkpoint)
    check_output_dir(config.output_dir, overwrite=config.overwrite_output_dir, resume=resuming)
    check_trackers(config.report_to)
    resume = ckpt.find_resume(config.output_dir, config.resume_from_checkpoint)
    settle_launch(
        bf16=config.bf16,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_grad_norm=config.max_grad_norm,
    )
    if resume is not None:
        changes(resume, ckpt.read_manifest(resume), dataclasses.asdict(config))
    use_threads(config.num_threads)
    accelerator = make_accelerator(config.reward_timeout_s)
    if (plugin := accelerator.state.deepspeed_plugin) is not None:
        settle_deepspeed(
            plugin.deepspeed_config,
            bf16=config.bf16,
            accumulation=config.gradient_accumulation_steps,
            max_grad_norm=config.max_grad_norm,
        )
    set_seed(config.seed)
    if config.dry_run and not print_memory(config, step, quiet=not accelerator.is_main_process):
        raise SystemExit(0)
    return accelerator, resume


def watched(config: RunConfig, accelerator: Accelerator, recipe: Scorer) -> Scorer:
    """The recipe under a watchdog of `reward_timeout_s`."""
    return Watched(recipe, config.reward_timeout_s, accelerator.process_index)


def held_out_judges(config: TrainerConfig, recipe: Scorer | None, *, own_clips: bool = False) -> dict[str, Scorer]:
    """The recipes of the evaluations during training, by the name their figures get.

    Args:
        own_clips: the training recipe judges clips of the data's own scenes, and generated ones in evaluations alone.

    Raises:
        ValueError: a recipe that needs the row's scene, of a model that is given text alone.
    """
    judges = {} if recipe is None else {"eval": recipe}
    if config.eval_steps and config.eval_recipe:
        judges["judge"] = load_recipe(config.eval_recipe)
    if not config.image_conditioning:
        names = {"eval": f"recipe {getattr(config, 'recipe', '')}", "judge": f"eval_recipe {config.eval_recipe}"}
        for name, judge in judges.items():
            if config.eval_steps or not own_clips:
                check_without_scene(judge, names[name])
    return judges


def make_session(
    config: TrainerConfig,
    accelerator: Accelerator,
    judges: dict[str, Scorer],
    scenes: Scenes | None,
    model: VideoModel | None,
    *,
    recipe: str,
    full: bool = False,
) -> Session:
    """Load the model, put the LoRA on it (or free all its weights), and make optimizer, schedule and average.

    Args:
        scenes: those that are trained on, which stand in for the held-out ones where nothing is evaluated.
        model: replaces the one that the config names.
        recipe: file of the rewards.
        full: train every weight of the transformer.

    Raises:
        ValueError: anything that the first evaluation would meet.
    """
    needed = config.eval_steps or scenes is None
    held_out = Scenes(config, config.eval_split, shuffle=False) if needed else scenes
    assert held_out is not None
    model = load(config, accelerator) if model is None else model
    weights = free(config, model, full=full)
    optimizer: torch.optim.Optimizer = adamw(config, weights)
    per_device, norm = config.per_device_train_batch_size, config.max_grad_norm
    optimizer = wrap(accelerator, model, optimizer, batch_size=per_device, max_grad_norm=norm)
    if config.eval_steps:
        check_held_out(model, held_out, judges, config)
    if is_sharded(accelerator) and len(model.networks) > 1:
        accelerator.print(
            "warning: under DeepSpeed an expert that has no gradient in a step goes on by its momentum and decay; "
            "without DeepSpeed it stays"
        )
    if config.context_parallel_size > 1:
        share_sequence(accelerator, model, config.context_parallel_size)
    state = ckpt.TrainState(
        weights=weights,
        optimizer=optimizer,
        scheduler=schedule_of(config, optimizer),
        ema=averages.start_ema(weights) if config.ema_decay > 0 else {},
        engine=engine_of(accelerator),
    )
    return Session(
        config=config,
        accelerator=accelerator,
        model=model,
        state=state,
        judges=judges,
        held_out=held_out,
        recipe=recipe,
        full=full,
    )


def load(config: TrainerConfig, accelerator: Accelerator) -> VideoModel:
    """The model that the config names, on the process's device."""
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    model = load_video_model(config.model_name_or_path, torch_dtype=dtype)
    model.offload_text = config.offload_text_encoder
    model.offload_blocks = config.offload_transformer
    return model.to(accelerator.device)


def free(config: ModelConfig, model: VideoModel, *, full: bool) -> dict[str, nn.Parameter]:
    """Set how the model runs and put a LoRA on it, or free all its weights; those that are trained, by name."""
    model.decode_in_tiles(config.decode_tile_px)
    if config.block_checkpointing:
        model.checkpoint_blocks()
    if config.torch_compile:
        model.compile_blocks()
    if full:
        model.transformer.requires_grad_(True)
        return dict(model.transformer.named_parameters())
    if config.lora_path:
        model.load_lora(config.lora_path, trainable=True)
    else:
        model.add_lora(r=config.lora_r, alpha=config.lora_alpha, targets=config.lora_target_modules)
    return lora_parameters(model.transformer)


def adamw(config: RunConfig, weights: dict[str, nn.Parameter]) -> torch.optim.AdamW:
    """The optimizer of the weights that are trained."""
    return torch.optim.AdamW(
        list(weights.values()),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )


def schedule_of(config: RunConfig, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """How the learning rate rises and falls."""
    name = config.lr_scheduler_type
    return get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=config.max_steps,
    )

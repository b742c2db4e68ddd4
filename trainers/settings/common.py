"""Settings of a run: frozen pydantic dataclasses, read from flags and one flat YAML file through TRL's TrlParser."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import warnings
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from trainers.settings.options import Count, Fraction, Positive, Rate, Weight, check_range, option, strict, suggestion


def check_offload(config: "ModelConfig") -> None:
    """Raise ValueError where a backward pass would not find a block's weights."""
    if config.offload_transformer and not config.block_checkpointing:
        raise ValueError("offload_transformer needs each block evaluated again: set block_checkpointing to true")


def check_report_to(report_to: Sequence[str]) -> None:
    """Raise ValueError where a tracker is not known."""
    known = ("tensorboard", "trackio", "wandb", "all", "none")
    for name in report_to:
        if name not in known:
            raise ValueError(f"report_to must name {', '.join(known)}, got {name}{suggestion(name, known)}")


@strict
class ModelConfig:
    """The video model, its LoRA and how it samples; the same in training and afterwards."""

    model_name_or_path: str = option("data/drops/model", "diffusers pipeline: a folder or a hub name")
    lora_path: str | None = option(
        None, "LoRA to start from, in the stock format; then lora_r and the rest are its own"
    )
    lora_r: Positive = option(16, "rank of the LoRA")
    lora_alpha: Rate = option(16.0, "scale of the LoRA; its weight is alpha / r")
    lora_target_modules: list[str] | None = option(None, "layers that get a LoRA; by default the family's attention")
    adapter_sigma_range: list[float] = option(
        [0.0, 1.0], "noise levels at which the adapter is active, low then high; the base model samples the others"
    )
    bf16: bool = option(False, "keep the frozen networks in bfloat16; the LoRA stays in float32")
    block_checkpointing: bool = option(
        False, "evaluate each block of the network again in backward: a step's activations shrink to one block's"
    )
    offload_text_encoder: bool = option(False, "keep text and image encoders on the CPU while they are not asked")
    offload_transformer: bool = option(
        False, "keep the blocks' frozen weights on the CPU while the block does not run; needs block_checkpointing"
    )
    torch_compile: bool = option(False, "compile the network's blocks: faster after the first steps, which are slower")
    decode_tile_px: Count = option(0, "decode overlapping squares of this side: less memory, not exact; 0 is the whole")
    num_inference_steps: Positive = option(8, "denoising steps of a rollout, in training as in evaluation")
    guidance_scale: Annotated[float, Field(ge=1)] = option(1.0, "classifier-free guidance; 1 is none, at half the cost")
    detach_negative: bool = option(
        False, "let no gradient through the unguided branch: half the memory of a guided step, and another gradient"
    )
    negative_prompt: str = option("", "prompt of the unguided branch where guidance_scale > 1")

    @pydantic.model_validator(mode="after")
    def _check_adapter(self) -> Self:
        check_range("adapter_sigma_range", self.adapter_sigma_range)
        return self


@strict
class DataConfig:
    """The scenes that clips are generated for."""

    dataset: str = option(
        "drops",
        "`drops`, the shipped clips, a folder with one sub-folder of Parquet files a split, or a file of clips or "
        "prompts",
    )
    split: str = option("train", "split whose scenes are trained on; several joined by +")
    eval_split: str = option("validation", "split whose first scenes are evaluated on now and then; never trained on")
    kinds: list[str] | None = option(None, "kinds of scene to keep, such as drop or throw; by default all")
    at_rest: bool = option(False, "keep only scenes whose object is at rest in the first frame")
    image_conditioning: bool = option(True, "give the model the first frame; otherwise only the caption")
    num_frames: Positive | None = option(None, "frames a clip; by default as many as the data's clips have")
    height: Positive | None = option(None, "rows of a clip in px; by default the data's")
    width: Positive | None = option(None, "columns of a clip in px; by default the data's")
    fps: Rate | None = option(None, "take the clips' frames at so many a second; by default all of them")


@strict
class RunConfig:
    """What every trainer has in common, under the names that TRL's users know."""

    output_dir: str = option("outputs/oro", "folder of checkpoints, logs, videos and the final LoRA")
    overwrite_output_dir: bool = option(False, "throw away what output_dir holds")
    resume_from_checkpoint: str | None = option(None, "`auto` for the latest checkpoint in output_dir, or its path")
    seed: Count = option(0, "seed of scenes, noise and LoRA")
    max_steps: Positive = option(60, "optimizer steps")
    context_parallel_size: Positive = option(
        1, "processes that share each clip's tokens, for long clips: Wan, and ORO or PSFT without DeepSpeed"
    )
    per_device_train_batch_size: Positive = option(6, "clips a process and micro-batch")
    gradient_accumulation_steps: Positive = option(1, "micro-batches a step")
    learning_rate: Rate = option(1e-3, "peak learning rate of AdamW")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = option("constant", "fall of the learning rate")
    warmup_steps: Count = option(0, "steps over which the learning rate rises")
    adam_beta1: Fraction = option(0.9, "AdamW's mean of the gradient")
    adam_beta2: Fraction = option(0.99, "AdamW's mean of its square")
    adam_epsilon: Rate = option(1e-8, "AdamW's guard of the division")
    weight_decay: Weight = option(0.0, "AdamW's decay of the LoRA")
    max_grad_norm: Rate = option(1.0, "the gradient is scaled down to this norm")
    max_skipped_steps: Count = option(
        3, "stop after more steps in a row than this without a finite gradient, or without any; in RWR rounds too"
    )
    reward_timeout_s: Weight = option(
        1800.0, "end the run where scoring one batch takes longer: a reward that hangs; 0 waits for ever"
    )
    ema_decay: Fraction = option(0.0, "decay of the moving average of the LoRA that is evaluated and saved; 0 is none")
    logging_steps: Positive = option(1, "log every so many steps")
    save_steps: Count = option(50, "write a checkpoint every so many steps; 0 is only the end")
    save_total_limit: Positive = option(2, "checkpoints to keep")
    eval_steps: Count = option(0, "evaluate every so many steps, and before the first; 0 is never")
    eval_scenes: Positive = option(6, "scenes of eval_split to evaluate on, with fixed noise")
    eval_recipe: str | None = option(None, "recipe of the held-out judge; by default the training recipe")
    report_to: list[str] = option(["tensorboard"], "trackers: tensorboard, trackio, wandb; or all, or none")
    run_name: str | None = option(None, "name of the run for the trackers; by default that of output_dir")
    push_to_hub: bool = option(False, "upload the final LoRA and its card")
    hub_model_id: str | None = option(None, "repository to upload to; by default the name of output_dir")
    num_threads: Positive | None = option(
        None, "CPU threads of a process; by default torch's, and under accelerate launch the cores shared out"
    )
    dry_run: bool = option(False, "print the plan of memory, build everything, print the plan and stop")
    memory_gib: Rate | None = option(None, "memory of a device that the plan is compared with; by default this one's")
    disable_tqdm: bool = option(False, "no progress bar")

    @pydantic.model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.max_steps == 1 and self.warmup_steps > 0:
            warnings.warn(
                f"nothing is learned: warmup_steps {self.warmup_steps} gives the only step a learning rate of 0",
                stacklevel=2,
            )
        return self


@strict
class GenerationConfig(ModelConfig, DataConfig):
    """The model and the scenes: all that generated clips depend on, apart from the seed."""


@strict
class TrainerConfig(GenerationConfig, RunConfig):
    """The settings that every trainer has."""

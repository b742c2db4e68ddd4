"""Settings of a run: frozen pydantic dataclasses, read from flags and one flat YAML file through TRL's TrlParser."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import dataclasses
import difflib
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

import pydantic
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def option(default: Any, help: str) -> Any:
    """A field with its documentation; `--help` shows it with the default."""
    metadata = {"help": help.replace("%", "%%")}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_range(name: str, sigma_range: list[float]) -> None:
    """Raise ValueError unless `sigma_range` is [low, high] within [0, 1]."""
    if len(sigma_range) != 2 or not 0 <= sigma_range[0] <= sigma_range[1] <= 1:
        raise ValueError(f"{name} must be two noise levels, 0 <= low <= high <= 1, got {sigma_range}")


def check_offload(config: Any) -> None:
    """Raise ValueError where a backward pass would not find a block's weights."""
    if config.offload_transformer and not config.block_checkpointing:
        raise ValueError("offload_transformer needs each block evaluated again: set block_checkpointing to true")


def check_report_to(report_to: Sequence[str]) -> None:
    """Raise ValueError where a tracker is not known."""
    known = ("tensorboard", "trackio", "wandb", "none")
    for name in report_to:
        if name not in known:
            raise ValueError(f"report_to must name {', '.join(known)}, got {name}{suggestion(name, known)}")


C = TypeVar("C")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def strict(config_class: type[C]) -> type[C]:
    """A frozen, keyword-only pydantic dataclass that refuses unknown fields."""
    settings = pydantic.ConfigDict(extra="forbid")
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=settings)(config_class)
    return made


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
        "drops", "`drops`, the shipped clips, or a folder with one sub-folder of Parquet files a split"
    )
    split: str = option("train", "split whose scenes are trained on; several joined by +")
    eval_split: str = option("validation", "split whose first scenes are evaluated on now and then; never trained on")
    kinds: list[str] | None = option(None, "kinds of scene to keep, such as drop or throw; by default all")
    at_rest: bool = option(False, "keep only scenes whose object is at rest in the first frame")
    image_conditioning: bool = option(True, "give the model the first frame; otherwise only the caption")
    num_frames: Positive | None = option(None, "frames a clip; by default as many as the data's clips have")
    height: Positive | None = option(None, "rows of a clip in px; by default the data's")
    width: Positive | None = option(None, "columns of a clip in px; by default the data's")
    fps: Rate | None = option(None, "frames a second; by default the data's")


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
        3, "stop after more steps in a row than this without a finite gradient; such a step changes nothing"
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
    report_to: list[str] = option(["tensorboard"], "trackers: tensorboard, trackio, wandb, none")
    run_name: str | None = option(None, "name of the run for the trackers; by default that of output_dir")
    push_to_hub: bool = option(False, "upload the final LoRA and its card")
    hub_model_id: str | None = option(None, "repository to upload to; by default the name of output_dir")
    num_threads: Positive | None = option(
        None, "CPU threads of a process; by default torch's, and under accelerate launch the cores shared out"
    )
    dry_run: bool = option(False, "print the plan of memory, build everything, print the plan and stop")
    memory_gib: Rate | None = option(None, "memory of a device that the plan is compared with; by default this one's")
    disable_tqdm: bool = option(False, "no progress bar")


@strict
class OROConfig(ModelConfig, DataConfig, RunConfig):
    """Optimisation of a differentiable reward through the rollout."""

    recipe: str = option("configs/recipes/gravity.yaml", "YAML recipe of rewards")
    reward_weight: Weight = option(1.0, "weight of the reward; 0 is the control that learns from the rest alone")
    max_pixel_grad_ratio: Rate = option(
        4.0, "a clip's pixel gradient is scaled down to this many times the median norm of its batch"
    )
    log_reward_gradients: bool = option(
        False,
        "log the norm of each reward's own pixel gradient and the cosine of every two; one more backward a reward",
    )
    grad_steps: Literal["full", "last", "random", "early", "one_step"] = option(
        "full", "denoising steps that carry gradient; one_step decodes the clean clip that one step predicts"
    )
    grad_steps_k: Positive = option(1, "how many steps for last, random and early")
    detach_input: bool = option(False, "cut the gradient at the network's input: each step learns on its own")
    reference_weight: Weight = option(1.0, "weight of |adapter-on minus adapter-off prediction|^2")
    reference_sigma_range: list[float] = option(
        [0.0, 0.6], "noise levels of that distance: below those at which motion is decided (`trainers.commitment`)"
    )
    reference_steps: Positive = option(2, "rollout steps of that range drawn each step to estimate the distance")
    denoising_weight: Weight = option(0.0, "weight of the denoising loss on the data's clips")
    denoising_sigma_range: list[float] = option([0.0, 1.0], "noise levels of the denoising loss")
    gradient_checkpointing: bool = option(
        True, "evaluate the network again in backward, step by step: less memory, a third slower"
    )
    reward_num_frames: Positive | None = option(
        None, "first frames that the reward is shown: Wan and CogVideoX then decode no more; by default all"
    )
    decode_checkpointing: bool = option(False, "decode again in backward, in pieces")
    decode_chunk_size: Count = option(
        0, "clips decoded, measured and carried back to the latents at a time; 0 is all: faster, more memory"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "OROConfig":
        check_offload(self)
        for name in ("reference_sigma_range", "denoising_sigma_range"):
            check_range(name, getattr(self, name))
        if self.grad_steps_k > self.num_inference_steps:
            raise ValueError(
                f"grad_steps_k must be at most num_inference_steps {self.num_inference_steps}, got {self.grad_steps_k}"
            )
        if not (self.reward_weight or self.reference_weight or self.denoising_weight):
            raise ValueError("reward_weight, reference_weight and denoising_weight are all 0: nothing would be learned")
        check_report_to(self.report_to)
        return self


def suggestion(name: str, known: Sequence[str]) -> str:
    """`: did you mean X?` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a flat YAML file strictly: a key that comes twice is an error with its line.

    Raises:
        ValueError: no such file, no YAML, a repeated key, no mapping.
    """
    if not Path(path).is_file():
        near = suggestion(Path(path).name, [other.name for other in Path(path).parent.glob("*.y*ml")])
        raise ValueError(f"config file {path} does not exist{near}")
    try:
        values = YAML(typ="safe").load(Path(path).read_text())
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{path}, line {line}: {(error.problem or str(error)).splitlines()[0]}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config file {path} must hold `key: value` lines, got {type(values).__name__}")
    return values


def parse_config(config_class: type[C], arguments: Sequence[str] | None = None) -> C:
    """Read flags and `--config file.yaml`; flags win.

    Raises:
        ValueError: in one line, whatever is wrong: an unknown or repeated key, a value of the wrong type, a misspelt
            choice, with the nearest valid name.
    """
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:
            choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
            near = suggestion(choice[1], choice[2].replace("'", "").split(", ")) if choice else ""
            raise ValueError(message + near)

    known = [field.name for field in dataclasses.fields(config_class)]  # pyright: ignore[reportArgumentType]
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = [part for one in arguments for part in (one.split("=", 1) if one.startswith("--config=") else [one])]
    if "--config" in arguments:
        place = arguments.index("--config") + 1
        if place == len(arguments):
            raise ValueError("--config needs the path of a YAML file")
        for key in read_yaml(arguments[place]):
            if key not in known and key != "env":
                raise ValueError(f"{arguments[place]}: unknown key {key}{suggestion(key, known)}")
    for one in arguments:
        name = one.split("=")[0].lstrip("-").replace("-", "_").removeprefix("no_")
        if one.startswith("--") and name not in [*known, "config", "help"]:
            raise ValueError(f"unknown option {one.split('=')[0]}{suggestion(name, known)}")
    parser = Parser(dataclass_types=[config_class], description=config_class.__doc__, allow_abbrev=False)  # pyright: ignore[reportArgumentType]
    try:
        return parser.parse_args_and_config(arguments)[0]  # pyright: ignore[reportReturnType]
    except pydantic.ValidationError as error:
        raise ValueError(_one_line(error)) from error


def _one_line(error: pydantic.ValidationError) -> str:
    """The first problem that pydantic found, as: name must be ..., got ...: did you mean ...?"""
    problem = error.errors()[0]
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    name = ".".join(str(part) for part in problem["loc"])
    near = ""
    if problem["type"] == "literal_error":
        near = suggestion(
            str(problem["input"]), problem.get("ctx", {})["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        )
    said = problem["msg"].replace("Input should be", "must be").replace("Input should have", "must have")
    return f"{name} {said}, got {problem['input']!r}{near}"


LESS_MEMORY = (
    "lower per_device_train_batch_size (and raise gradient_accumulation_steps), num_frames, height or width; set "
    "gradient_checkpointing, decode_checkpointing and bf16; or decode_chunk_size: 1; "
    "`python -m trainers.memory_plan` tells what each of them saves"
)


def exit_with_one_line(main: Callable[[], None]) -> None:
    """Run a command; a user's mistake (ValueError) is one line on stderr and exit status 2, not a traceback."""
    try:
        main()
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: out of memory: {' '.join(str(error).split())[:300]}: {LESS_MEMORY}", file=sys.stderr)
        sys.exit(2)

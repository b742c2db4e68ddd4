"""What stands around a run: the plan before it, the LoRA with its model card after it."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from torch import Tensor

from trainers.clips.folder import write_text
from trainers.learning.batches import BatchSource, condition_on
from trainers.learning.levels import reference_steps
from trainers.learning.rollout import choose_grad_steps, in_range
from trainers.learning.streams import clip_generators
from trainers.models.base import VideoModel
from trainers.run.model_card import model_card
from trainers.run.processes.parallel import size_of
from trainers.run.tracking import Trackers, draw_reward_curve, read_metrics
from trainers.settings.common import TrainerConfig
from trainers.settings.oro import OROConfig

PIPELINE = "model"
"""Sub-folder of a run that trained every weight: the whole pipeline, as `model_name_or_path` takes it."""


def write_config(config: TrainerConfig) -> None:
    """config.yaml in the run's folder: the file that starts the same run again."""
    text = io.StringIO()
    YAML().dump({name: _quoted(value) for name, value in dataclasses.asdict(config).items()}, text)
    write_text(Path(config.output_dir) / "config.yaml", text.getvalue())


def _quoted(value: Any) -> Any:
    """A setting whose text YAML reads back as it is: line breaks and other unseen characters are escaped."""
    if isinstance(value, list):
        return [_quoted(part) for part in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value


def print_outline(
    config: TrainerConfig,
    model: VideoModel,
    scenes: BatchSource,
    weights: Mapping[str, Tensor],
    per_step: int,
    resume: Path | None,
    about: Mapping[str, str],
) -> None:
    """Say what will be trained, on what, and where it goes.

    Args:
        scenes: what clips come from.
        weights: what is trained.
        per_step: clips of an optimizer step over all processes.
        about: the trainer's own lines.
    """
    total = sum(size_of(weight) for weight in model.transformer.parameters())
    trained = sum(size_of(weight) for weight in weights.values())
    rest = total - trained
    what = f"transformer {rest:,} weights, LoRA {trained:,}" if rest else f"transformer, all {total:,} weights trained"
    example = scenes.batch([0])
    height, width = example.video.height_px, example.video.width_px
    frames = config.num_frames or example.video.num_frames
    lines = {
        "model": f"{config.model_name_or_path}: {what}",
        "clips": f"{frames} frames of {height} x {width} px at {example.video.fps_B[0]:g} fps, {len(scenes):,} scenes",
        **about,
        "steps": f"{config.max_steps} of {per_step} clips, learning rate {config.learning_rate:g}",
        "output": f"{config.output_dir}" + (f", resumed from {resume}" if resume else ""),
    }
    for name, value in lines.items():
        print(f"{name:8} {value}")


def print_sigmas(config: OROConfig, sigmas: Sequence[float]) -> None:
    """Say at which noise levels of a rollout the gradient, the adapter and the distance to the reference act."""
    print("sigma    gradient adapter reference")
    steps = config.num_inference_steps
    carries = choose_grad_steps(config.grad_steps, steps, config.grad_steps_k, torch.Generator().manual_seed(0))
    drawn = config.grad_steps in ("random", "one_step")
    near = reference_steps(config, sigmas) if config.reference_weight > 0 else []
    for i, sigma in enumerate(sigmas):
        gradient = "drawn" if drawn else "yes" if i in carries else "-"
        adapter = "on" if in_range(sigma, config.adapter_sigma_range) else "off"
        print(f"{sigma:8.3f} {gradient:8} {adapter:7} {'yes' if i in near else '-'}")


def plan_sigmas(model: VideoModel, config: TrainerConfig, scenes: BatchSource) -> list[float]:
    """The noise levels of the run's rollouts."""
    batch = scenes.batch([0])
    condition = condition_on(model, batch, config, clip_generators(config.seed, batch.numbers))
    return model.schedule(config.num_inference_steps, condition).sigmas[:-1].tolist()


def save_weights(model: VideoModel, folder: Path, *, full: bool) -> None:
    """What is trained, in the stock format: the LoRA, or the whole networks under their names in the pipeline."""
    if not full:
        model.save_lora(folder)
        return
    networks = list(model.networks.values())
    for name, part in model.pipeline.components.items():
        if any(part is network for network in networks):
            part.save_pretrained(folder / name)


def finish(
    config: TrainerConfig,
    model: VideoModel,
    metrics: dict[str, float],
    trackers: Trackers,
    *,
    method: str,
    recipe: str = "",
    full: bool = False,
    untrained: Sequence[str] = (),
) -> None:
    """Write what was learned with its card, draw the reward curve, upload where asked for.

    Args:
        method: how it was trained, in words, for the card.
        recipe: file of the rewards, for the card.
        untrained: files of the LoRAs that no step taught, for the card.
        full: write the whole pipeline into the folder `model`, not a LoRA in the stock format.
    """
    folder = Path(config.output_dir)
    write_whole(model, folder, full=full)
    lines = read_metrics(folder / "metrics.jsonl")
    if not metrics and lines:  # resumed at its end: nothing was left to do
        metrics = {name: value for line in lines[-2:] for name, value in line.items() if name != "step"}
    settings = dataclasses.asdict(config) | ({} if full else about_lora(model))  # pyright: ignore[reportArgumentType]
    card = model_card(
        settings,
        pipeline=stock_class(model, image=config.image_conditioning),
        method=method,
        metrics=metrics,
        recipe=Path(recipe).read_text() if Path(recipe).is_file() else "",
        videos=sampled_videos(folder, config.max_steps),
        experts=len(model.networks),
        untrained=untrained,
    )
    write_text(folder / "README.md", card)
    draw_reward_curve(lines, folder / "reward_curve.png")
    trackers.image("reward_curve", folder / "reward_curve.png", config.max_steps)
    trackers.close()
    if config.push_to_hub:
        push(folder, config.hub_model_id or folder.name)
    print(f"{'model' if full else 'LoRA'}, card and reward curve are in {folder}")


def write_whole(model: VideoModel, folder: Path, *, full: bool) -> None:
    """The LoRA, or the pipeline, in the run's folder: each file whole or absent."""
    aside = folder / ".writing-final"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    if full:
        model.pipeline.save_pretrained(aside / PIPELINE)
        shutil.rmtree(folder / PIPELINE, ignore_errors=True)
    else:
        model.save_lora(aside)
    for path in sorted(aside.iterdir()):
        os.replace(path, folder / path.name)
    aside.rmdir()


def sampled_videos(folder: Path, last_step: int) -> list[str]:
    """The evaluations' clips from first to last, relative to the run's folder."""
    steps = {int(path.parent.name.removeprefix("step_")): path for path in folder.glob("eval/step_*/clips.mp4")}
    return [str(steps[step].relative_to(folder)) for step in sorted(steps) if step <= last_step]


def about_lora(model: VideoModel) -> dict[str, Any]:
    """Rank, scale and layers of the LoRA on a model, whatever the settings say; nothing of a network without one."""
    adapters = [
        network.peft_config["default"] for network in model.networks.values() if hasattr(network, "peft_config")
    ]
    if not adapters:
        return {}
    ranks = sorted({adapter.r for adapter in adapters} | {r for a in adapters for r in a.rank_pattern.values()})
    alphas = sorted({a.lora_alpha for a in adapters} | {value for a in adapters for value in a.alpha_pattern.values()})
    targets = adapters[0].target_modules
    return {
        "lora_r": ranks[0] if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
        "lora_alpha": alphas[0] if len(alphas) == 1 else f"{alphas[0]:g} to {alphas[-1]:g}",
        "lora_target_modules": targets if isinstance(targets, str) else ", ".join(sorted(layer_names(targets))),
    }


def layer_names(targets: Iterable[str]) -> set[str]:
    """Names of layers without the places of their blocks: `blocks.0.attn.to_q` is `to_q`."""
    return {re.sub(r"^.*\.(?=[A-Za-z_])", "", name) for name in targets}


def stock_class(model: VideoModel, *, image: bool) -> str:
    """The stock pipeline that samples as the run did: from a first frame and a text, or from a text alone."""
    import diffusers

    name = type(model.pipeline).__name__
    if image and "ImageToVideo" not in name:
        twin = name.replace("Pipeline", "ImageToVideoPipeline")
        return twin if hasattr(diffusers, twin) else name
    if not image and "ImageToVideo" in name and hasattr(diffusers, name.replace("ImageToVideo", "")):
        return name.replace("ImageToVideo", "")
    return name


def push(folder: Path, name: str) -> None:
    """Upload what was learned, with its card, to a repository of the Hub."""
    from huggingface_hub import HfApi

    api = HfApi()
    repository = api.create_repo(name, exist_ok=True).repo_id
    wanted = ["*.safetensors", "README.md", "*.png", "config.yaml", "eval/*"]
    api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=wanted)

"""The README.md of a LoRA, in the Hub's model-card format: what it is, how it was made, how to load it, its figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from trainers.clips.folder import write_text

HELD_OUT = "## Held out"
SECOND = (
    '\npipeline.load_lora_weights("PATH_OF_THIS_FOLDER", weight_name="pytorch_lora_weights_2.safetensors", '
    "load_into_transformer_2=True)"
)
UNTRAINED = "No step of the training had a gradient for this expert: its LoRA is what it was at the start."
TOLD = {
    "recipe": "reward recipe",
    "reward_weight": "reward weight",
    "max_steps": "optimizer steps",
    "per_device_train_batch_size": "clips a step and device",
    "learning_rate": "learning rate",
    "lora_path": "LoRA that it began from",
    "lora_r": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_target_modules": "layers with a LoRA",
    "grad_steps": "steps that carry gradient",
    "adapter_sigma_range": "noise levels of the adapter",
    "reference_weight": "weight of the distance to the reference",
    "reference_sigma_range": "its noise levels",
    "denoising_weight": "weight of the denoising loss",
    "num_inference_steps": "denoising steps",
    "guidance_scale": "guidance",
    "split": "scenes of split",
    "seed": "seed",
}


def model_card(
    settings: Mapping[str, Any],
    *,
    pipeline: str,
    method: str = "ORO, the gradient of a differentiable reward through the rollout",
    metrics: Mapping[str, float] | None = None,
    recipe: str = "",
    videos: Sequence[str] = (),
    experts: int = 1,
    untrained: Sequence[str] = (),
) -> str:
    """The text of the card.

    Args:
        settings: the run's settings; those of `TOLD` are listed, all are in its config.yaml.
        pipeline: class of the stock pipeline that loads the LoRA.
        method: how it was trained.
        metrics: figures of the last step.
        recipe: text of the recipe, which names the rewards.
        videos: paths of sampled clips, relative to the folder, from first to last.
        experts: networks that have a LoRA.
        untrained: files of the LoRAs that no step of the training taught.
    """
    base = str(settings["model_name_or_path"])
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base) is not None and not Path(base).exists()
    data = ModelCardData(
        # The Hub refuses a base_model that is no repository.
        base_model=base if on_hub or not settings.get("push_to_hub") else None,
        library_name="diffusers",
        pipeline_tag="image-to-video" if settings.get("image_conditioning", True) else "text-to-video",
        tags=["lora", "video", "physics", "reinforcement-learning", "diffusers-training"],
    )
    rows = "\n".join(
        f"| {words} | {_cell(settings[name])} |" for name, words in TOLD.items() if settings.get(name) is not None
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# LoRA on {base}",
        f"A LoRA that teaches a video diffusion model physics, trained by {method}.",
        f'## Use\n\n```python\nfrom diffusers import {pipeline}\n\npipeline = {pipeline}.from_pretrained("{base}")\n'
        f'pipeline.load_lora_weights("PATH_OF_THIS_FOLDER"){SECOND if experts > 1 else ""}\n```',
        _sampling(settings),
        f"## Training\n\nEvery setting is in `config.yaml`.\n\n| setting | value |\n|---|---|\n{rows}",
    ]
    if untrained:
        parts.append(f"**Not trained:** {', '.join(f'`{name}`' for name in untrained)}. {UNTRAINED}")
    if recipe:
        parts.append(f"## Rewards\n\n```yaml\n{recipe.strip()}\n```")
    if videos:
        parts.append(_samples(videos))
    if metrics:
        lines = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items()))
        parts.append(f"Figures of the last step:\n\n| figure | value |\n|---|---|\n{lines}")
    return "\n\n".join(part for part in parts if part) + "\n"


def add_held_out(folder: str | Path, table: str, *, picture: str | None = None) -> None:
    """Put the held-out figures into the card of a LoRA's folder, in the place of older ones.

    Args:
        table: Markdown.
        picture: path of a picture, relative to the folder.
    """
    path = Path(folder) / "README.md"
    card = path.read_text() if path.exists() else ""
    kept = card.split(f"\n{HELD_OUT}\n")[0].rstrip()
    shown = f"\n\n![the same scenes before and after]({picture})" if picture else ""
    write_text(path, f"{kept}\n\n{HELD_OUT}\n\n{table.strip()}{shown}\n".lstrip())


def _samples(videos: Sequence[str]) -> str:
    """The first and the last of the sampled clips."""
    shown = {"before": videos[0], "after": videos[-1]} if len(videos) > 1 else {"after": videos[0]}
    tags = "\n\n".join(f'{when}:\n\n<video controls src="{path}"></video>' for when, path in shown.items())
    return f"## Samples\n\n{tags}"


def _sampling(settings: Mapping[str, Any]) -> str:
    """How to sample so that the LoRA does what it learned."""
    steps, guidance = settings.get("num_inference_steps"), settings.get("guidance_scale")
    if steps is None or guidance is None:
        return ""
    text = f"It was trained with {steps} denoising steps and guidance {guidance:g}: sample with the same."
    low, high = settings.get("adapter_sigma_range", (0, 1))
    if (low, high) != (0, 1):
        text += f" It is meant for noise levels {low:g} to {high:g} alone: set its scale to 0 elsewhere."
    return text


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")

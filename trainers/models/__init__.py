"""Video models behind one interface; `load_video_model` picks the family from a pipeline's `model_index.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from trainers.models.base import Condition, Schedule, VideoModel, lora_parameters, lora_scaled, round_trip

__all__ = ["Condition", "Schedule", "VideoModel", "load_video_model", "lora_parameters", "lora_scaled", "round_trip"]

FAMILIES = {
    "CogVideoXImageToVideoPipeline": "trainers.models.cogvideox:CogVideoXModel",
    "CogVideoXPipeline": "trainers.models.cogvideox:CogVideoXModel",
    "HunyuanVideoImageToVideoPipeline": "trainers.models.hunyuan:HunyuanVideoModel",
    "HunyuanVideoPipeline": "trainers.models.hunyuan:HunyuanVideoModel",
    "LTXPipeline": "trainers.models.ltx:LTXModel",
    "LTXImageToVideoPipeline": "trainers.models.ltx:LTXModel",
    "WanImageToVideoPipeline": "trainers.models.wan:WanModel",
    "WanPipeline": "trainers.models.wan:WanModel",
}

UNREADABLE = (OSError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, json.JSONDecodeError)
"""What the libraries raise of files that they cannot read."""


def load_video_model(
    path: str | Path, *, torch_dtype: torch.dtype = torch.float32, vae_dtype: torch.dtype | None = None
) -> VideoModel:
    """Load a diffusers pipeline folder (or hub name) as the video model of its family.

    Raises:
        ValueError: no such folder, no pipeline in it, an unsupported family, unreadable weights.
    """
    from safetensors import SafetensorError

    family = family_of(FAMILIES[_pipeline_class(path)])
    try:
        return family.load(path, torch_dtype=torch_dtype, vae_dtype=vae_dtype)
    except (*UNREADABLE, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"model {path} cannot be read ({reason}): copy or download its weights again") from error


def family_of(where: str) -> Any:
    """The family's class by `module:name`."""
    import importlib

    module, attribute = where.split(":")
    return getattr(importlib.import_module(module), attribute)


def _pipeline_class(path: str | Path) -> str:
    folder = Path(path)
    if folder.is_dir():
        index = folder / "model_index.json"
        if not index.is_file():
            raise ValueError(f"model must be a diffusers pipeline folder, but {path} has no model_index.json")
    elif folder.is_file():
        packed = " (of a .gguf, which is quantised, take the bfloat16 original)" if folder.suffix == ".gguf" else ""
        raise ValueError(
            f"model must be a diffusers pipeline folder or hub name, but {path} is a single file, which has no text "
            f"encoder, tokenizer and scheduler: put its network{packed} into the pipeline of the same model and save "
            "that, as `A base in another form` of docs/models.md shows"
        )
    elif str(path).count("/") == 1 and not str(path).startswith((".", "/", "data/")):
        from diffusers import DiffusionPipeline

        try:
            index: Any = DiffusionPipeline.load_config(str(path))
            return _supported(index["_class_name"], path)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"model {path} is no folder here and cannot be fetched: {reason}") from error
    else:
        raise ValueError(f"model must be a diffusers pipeline folder or hub name, but {path} does not exist")
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{index} is no pipeline index: save the model with save_pretrained") from error
    return _supported(name, path)


def _supported(name: str, path: str | Path) -> str:
    if name not in FAMILIES:
        raise ValueError(f"model {path} is a {name}; supported are {', '.join(sorted(FAMILIES))}")
    return name

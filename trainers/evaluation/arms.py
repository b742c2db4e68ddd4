"""The arms of an evaluation: where the clips of each come from.

truth             the rendered clips themselves: what the instruments read at best
autoencoder       the same, encoded and decoded by the model's autoencoder
base              the model as it is
NAME=PATH         the model with the LoRA at PATH (its file, its folder, or the folder of the run that made it),
                  or the clips that `python -m trainers.sample` left at PATH
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from trainers.clips.folder import ClipFolder, read_clip, read_samples
from trainers.clips.making import Request, batches, fill, load_model, model_settings, request_for_row
from trainers.models import VideoModel, round_trip
from trainers.settings.options import read_yaml

CALIBRATION = ("truth", "autoencoder")
RUN_SETTINGS = ("num_inference_steps", "guidance_scale", "adapter_sigma_range")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One source of clips."""

    name: str
    kind: str
    """truth, autoencoder, model or clips."""
    path: str | None = None
    """LoRA or folder of clips."""
    num_inference_steps: int = 8
    guidance_scale: float = 1.0
    adapter_sigma_range: tuple[float, ...] = (0.0, 1.0)

    @property
    def is_true(self) -> bool:
        """Whether its clips obey the gravity of their own scene rather than that of the world."""
        return self.kind in CALIBRATION


def parse_arms(texts: Sequence[str], *, num_inference_steps: int, guidance_scale: float) -> list[Arm]:
    """Arms from `name` or `name=path`; a LoRA with a run's config.yaml beside it samples as it was trained.

    Raises:
        ValueError: an unknown name without a path, a path that does not exist, a name twice or unfit for a folder.
    """
    arms: list[Arm] = []
    for text in texts:
        name, _, path = text.partition("=")
        if not re.fullmatch(r"[\w.+-]+", name) or name in (arm.name for arm in arms):
            raise ValueError(f"arm {text!r}: names must differ and hold only letters, digits and . _ + -")
        if not path and name not in (*CALIBRATION, "base"):
            raise ValueError(
                f"arm {name!r} needs a path: give {name}=PATH of a LoRA or of clips, or truth, autoencoder, base"
            )
        if path and not Path(path).exists():
            raise ValueError(f"arm {name}: nothing at {path}: give a LoRA, a run's folder or a folder of clips")
        kind = name if not path and name in CALIBRATION else "clips" if _holds_clips(path) else "model"
        arm = Arm(
            name=name,
            kind=kind,
            path=path or None,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        arms.append(replace(arm, **run_settings(path)) if path and kind == "model" else arm)
    return arms


def _holds_clips(path: str) -> bool:
    return bool(path) and (Path(path) / "samples.jsonl").exists()


def run_settings(path: str | Path) -> dict[str, Any]:
    """How the run that made a LoRA sampled, by the config.yaml beside it or one folder up; empty without one."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for place in (folder, folder.parent):
        if (place / "config.yaml").exists():
            values = read_yaml(place / "config.yaml")
            settings = {name: values[name] for name in RUN_SETTINGS if name in values}
            return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return {}


class Clips:
    """Gives the clips of an arm, made where they are missing and kept under `folder`/NAME."""

    def __init__(self, model: str, folder: Path, *, batch_size: int, overwrite: bool) -> None:
        self.model, self.folder, self.batch_size, self.overwrite = model, folder, batch_size, overwrite
        self._loaded: tuple[str | None, VideoModel] | None = None

    def of(self, arm: Arm, rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Tensor]:
        """frames_TCHW in [0, 1] of every scene and seed, scene by scene."""
        requests = [request_for_row(row, seed) for row in rows for seed in seeds]
        if arm.kind == "clips":
            return read_existing(arm, requests)
        folder = ClipFolder(self.folder / arm.name, self.settings(arm), overwrite=self.overwrite)
        missing = [request for request in requests if folder.samples.get(request.sample.name) != request.sample]
        if missing and arm.is_true:
            self._copy_truth(arm, missing, {str(row["id"]): true_frames(row) for row in rows}, folder)
        elif missing:
            fill(self._model(arm.path), requests, folder, batch_size=self.batch_size, label=arm.name)
        return [folder.read(request.sample.name) for request in requests]

    def settings(self, arm: Arm) -> dict[str, Any]:
        """What the clips of an arm are made with."""
        if arm.kind == "truth":
            return {"source": "rendered"}
        settings = model_settings(
            self.model,
            arm.path,
            num_inference_steps=arm.num_inference_steps,
            guidance_scale=arm.guidance_scale,
            adapter_sigma_range=arm.adapter_sigma_range,
        )
        if arm.kind == "autoencoder":
            return {"source": "autoencoder", **{name: settings[name] for name in ("model", "model_fingerprint")}}
        return settings

    def _model(self, lora: str | None) -> VideoModel:
        """The model with this LoRA; only one is kept in memory."""
        if self._loaded is None or self._loaded[0] != lora:
            self._loaded = (lora, load_model(self.model, lora))
        return self._loaded[1]

    def _copy_truth(self, arm: Arm, requests: list[Request], true: dict[str, Tensor], folder: ClipFolder) -> None:
        with tqdm(total=len(requests), desc=arm.name, unit="clip") as bar:
            for batch in batches(requests, self.batch_size):
                frames_BTCHW = torch.stack([true[request.sample.scene] for request in batch])
                if arm.kind == "autoencoder":
                    prompts = [request.sample.prompt for request in batch]
                    fps_B = torch.tensor([request.sample.fps for request in batch])
                    frames_BTCHW = round_trip(self._model(None), frames_BTCHW, prompts, fps_B)
                for request, frames_TCHW in zip(batch, frames_BTCHW, strict=True):
                    folder.write(request.sample, frames_TCHW)
                    bar.update()


def true_frames(row: Mapping[str, Any]) -> Tensor:
    """The rendered clip of a row, frames_TCHW in [0, 1]."""
    return torch.from_numpy(np.asarray(row["frames"], dtype=np.uint8)).permute(0, 3, 1, 2).float() / 255


def read_existing(arm: Arm, requests: Sequence[Request]) -> list[Tensor]:
    """The clips of a folder made elsewhere, matched by scene and seed.

    Raises:
        ValueError: a scene is missing, or has another frame rate.
    """
    assert arm.path is not None
    made = {(sample.scene, sample.seed): sample for sample in read_samples(arm.path).values()}
    frames = []
    for request in requests:
        sample = made.get((request.sample.scene, request.sample.seed))
        if sample is None:
            raise ValueError(
                f"arm {arm.name}: {arm.path} has no clip of scene {request.sample.scene} with this noise: "
                "make it with the same split, scenes and seeds"
            )
        if sample.fps != request.sample.fps:
            raise ValueError(
                f"arm {arm.name}: clip {sample.name} of {arm.path} has {sample.fps:g} frames a second and its scene "
                f"{request.sample.fps:g}: make the clips at the split's rate"
            )
        frames.append(read_clip(arm.path, sample.name))
    return frames

"""The arms of an evaluation: where the clips of each come from.

truth             the rendered clips themselves: what the instruments read at best
autoencoder       the same, encoded and decoded by the model's autoencoder
base              the model as it is
NAME=PATH         the model with the LoRA at PATH (its file, its folder, or the folder of the run that made it),
                  or the clips that `python -m trainers.sample` left at PATH
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from trainers.clips.folder import ClipFolder, read_clip, read_samples
from trainers.clips.making import (
    Request,
    batches,
    changed_clips,
    fill,
    load_model,
    model_settings,
    request_for_row,
    takes_first_frame,
)
from trainers.models import VideoModel, round_trip
from trainers.settings.sampling import Sampling, SamplingConfig, run_settings, sampling_of

CALIBRATION = ("truth", "autoencoder")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One source of clips."""

    name: str
    kind: str
    """truth, autoencoder, model or clips."""
    path: str | None = None
    """LoRA or folder of clips."""
    sampling: Sampling = field(default_factory=Sampling)
    """The same for all arms that are compared."""
    adapter_sigma_range: tuple[float, ...] = (0.0, 1.0)
    """Noise levels at which the LoRA is active, which belong to the LoRA."""

    @property
    def is_true(self) -> bool:
        """Whether its clips obey the gravity of their own scene rather than that of the world."""
        return self.kind in CALIBRATION


def parse_arms(texts: Sequence[str], config: SamplingConfig, *, on_gpu: bool = False) -> list[Arm]:
    """Arms from `name` or `name=path`, all with one sampler: that of the config, or of the LoRAs' runs.

    Raises:
        ValueError: an unknown name without a path, a path that does not exist, a name twice or unfit for a folder; runs
            that sampled differently where the config does not decide.
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
        arm = Arm(name=name, kind=kind, path=path or None)
        active = run_settings(path).get("adapter_sigma_range") if kind == "model" and path else None
        arms.append(arm if active is None else replace(arm, adapter_sigma_range=active))
    runs = {arm.name: run_settings(arm.path) for arm in arms if arm.kind == "model"}
    made = {arm.name: _made_with(arm) for arm in arms if arm.kind == "clips"}
    sampling = sampling_of(config, runs | made, on_gpu=on_gpu)
    for name, settings in made.items():
        for setting, value in settings.items():
            if value != getattr(sampling, setting):
                raise ValueError(
                    f"arm {name}: its clips were made with {setting} {value!r}, the others are with "
                    f"{getattr(sampling, setting)!r}: make all of them alike"
                )
    return [replace(arm, sampling=sampling) for arm in arms]


def _made_with(arm: Arm) -> dict[str, Any]:
    """The sampler of clips that were made elsewhere, as far as their folder says."""
    record = Path(arm.path or "") / "settings.json"
    values = json.loads(record.read_text()) if record.exists() else {}
    return {
        name: values[name] for name in ("num_inference_steps", "guidance_scale", "negative_prompt") if name in values
    }


def _holds_clips(path: str) -> bool:
    return bool(path) and (Path(path) / "samples.jsonl").exists()


class Clips:
    """Gives the clips of an arm, made where they are missing and kept under `folder`/NAME."""

    def __init__(self, model: str, folder: Path, *, batch_size: int, overwrite: bool) -> None:
        self.model, self.folder, self.batch_size, self.overwrite = model, folder, batch_size, overwrite
        self._loaded: tuple[str | None, VideoModel] | None = None

    def of(self, arm: Arm, rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Tensor]:
        """frames_TCHW in [0, 1] of every scene and seed, scene by scene."""
        given = arm.sampling.image_conditioning is not False
        requests = [request_for_row(row, seed, image_conditioning=given) for row in rows for seed in seeds]
        if arm.kind == "clips":
            return read_existing(arm, requests)
        folder = ClipFolder(self.folder / arm.name, self.settings(arm), overwrite=self.overwrite)
        changed = changed_clips(folder.folder, requests)
        if changed:
            folder.refuse(changed)
        missing = [request for request in requests if request.sample.name not in folder.samples]
        if missing and arm.is_true:
            self._copy_truth(arm, missing, {str(row["id"]): true_frames(row) for row in rows}, folder)
        elif missing:
            fill(self.model_of(arm), requests, folder, batch_size=self.batch_size, label=arm.name)
        return [folder.read(request.sample.name) for request in requests]

    def settings(self, arm: Arm) -> dict[str, Any]:
        """What the clips of an arm are made with."""
        if arm.kind == "truth":
            return {"source": "rendered"}
        settings = model_settings(self.model, arm.path, arm.sampling, adapter_sigma_range=arm.adapter_sigma_range)
        if arm.kind == "autoencoder":
            return {"source": "autoencoder", **{name: settings[name] for name in ("model", "model_fingerprint")}}
        return settings

    def model_of(self, arm: Arm) -> VideoModel:
        """The model with the arm's LoRA; only one is kept in memory."""
        if self._loaded is None or self._loaded[0] != arm.path:
            self._loaded = None
            self._loaded = (arm.path, load_model(self.model, arm.path, arm.sampling))
        return self._loaded[1]

    def gives_first_frames(self, arms: Sequence[Arm]) -> bool:
        """Whether the clips of these arms start from the scenes' own first frames.

        Raises:
            ValueError: some do and some do not, or the model cannot.
        """
        told = arms[0].sampling.image_conditioning if arms else None
        given = {arm.name: self._recorded(arm) for arm in arms}
        models = [arm for arm in arms if arm.kind == "model"]
        if models and told is None and all(given[arm.name] is None for arm in models):
            told = takes_first_frame(self.model_of(models[0]))
        known = {name: value for name, value in given.items() if value is not None}
        said = known | ({"the model": told} if told is not None and models else {})
        if len(set(said.values())) > 1:
            apart = ", ".join(f"{name}: {str(value).lower()}" for name, value in said.items())
            raise ValueError(
                f"arms must all start from the scenes' first frames or none, got image_conditioning of {apart}: "
                "compare them apart, or set image_conditioning"
            )
        return next(iter(said.values()), True if told is None else told)

    def _recorded(self, arm: Arm) -> bool | None:
        """What the folder of an arm's clips says of first frames; clips of before it said so were given them."""
        if arm.is_true or (arm.kind == "model" and self.overwrite):
            return None
        folder = Path(arm.path) if arm.kind == "clips" and arm.path else self.folder / arm.name
        if not read_samples(folder) or not (folder / "settings.json").exists():
            return None if arm.kind == "model" else True
        usual = arm.sampling.image_conditioning is not False
        return json.loads((folder / "settings.json").read_text()).get("image_conditioning", usual)

    def _copy_truth(self, arm: Arm, requests: list[Request], true: dict[str, Tensor], folder: ClipFolder) -> None:
        with tqdm(total=len(requests), desc=arm.name, unit="clip") as bar:
            for batch in batches(requests, self.batch_size):
                frames_BTCHW = torch.stack([true[request.sample.scene] for request in batch])
                if arm.kind == "autoencoder":
                    prompts = [request.sample.prompt for request in batch]
                    fps_B = torch.tensor([request.sample.fps for request in batch])
                    frames_BTCHW = round_trip(self.model_of(replace(arm, path=None)), frames_BTCHW, prompts, fps_B)
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
        if (sample.source and sample.source != request.sample.source) or sample.prompt != request.sample.prompt:
            raise ValueError(
                f"arm {arm.name}: {arm.path} has a clip of another scene that is called {sample.scene} too (another "
                "first frame or prompt): name the split and dataset that it was made from"
            )
        frames.append(read_clip(arm.path, sample.name))
    return frames

"""A model, or a LoRA on it, to a folder of clips with their prompts and seeds.

    python -m trainers.sample --model data/drops/model --split heldout --scenes 8 --output_dir samples/base
    python -m trainers.sample --model data/drops/model --lora runs/x/lora --image ball.png --prompt "a red ball ..." \
        --fps 16 --seeds 0 1 2 --output_dir samples/ball

The noise of a clip comes from a generator of its own, so it does not depend on the batch it is made in.
Axes: B clips, T frames, C colours, H W pixels.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from trainers.clips import ClipFolder, Sample, fingerprint
from trainers.learning.rollout import sample as sample_clips
from trainers.models import VideoModel, load_video_model
from trainers.settings.options import Positive, Rate, check_range, exit_with_one_line, option, parse_config, strict


@strict
class SampleConfig:
    """Generate clips from a video model."""

    model: str = option("data/drops/model", "diffusers pipeline: a folder or a hub name")
    lora: str | None = option(None, "LoRA file or folder in the stock format")
    output_dir: str = option("samples", "folder for the clips; a run that was stopped goes on where it was")
    split: str | None = option(None, "start from the first frames and captions of this split of drops")
    scenes: Positive = option(16, "scenes of the split, from its beginning")
    at_rest: bool = option(False, "keep only scenes whose object is at rest in the first frame")
    image: str | None = option(None, "start from this picture instead, with prompt")
    prompt: str | None = option(None, "text of clips that do not come from a split")
    seeds: list[int] = option([0], "seeds of the noise; every scene is made with each")
    fps: Rate | None = option(None, "frames a second; needed without a split")
    num_frames: Positive = option(17, "frames of a clip, without a split")
    height: Positive = option(64, "rows in px, without a split")
    width: Positive = option(64, "columns in px, without a split")
    num_inference_steps: Positive = option(8, "denoising steps, as many as the LoRA was trained with")
    guidance_scale: Annotated[float, Field(ge=1)] = option(1.0, "classifier-free guidance; 1 is none")
    adapter_sigma_range: list[float] = option([0.0, 1.0], "noise levels at which the LoRA is active, as in training")
    batch_size: Positive = option(8, "clips made at a time")
    overwrite: bool = option(False, "throw away clips in output_dir that were made with other settings")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A clip to be made."""

    sample: Sample
    num_frames: int
    height_px: int
    width_px: int
    first_CHW: Tensor | None = None
    """First frame in [0, 1], or None for text alone."""

    @property
    def size(self) -> tuple[int, int, int, bool]:
        return self.num_frames, self.height_px, self.width_px, self.first_CHW is not None


def digest(pixels: np.ndarray) -> str:
    """What tells pictures apart that a clip was started from."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


def request_for_row(row: Mapping[str, Any], seed: int) -> Request:
    """The clip of one scene of drops: its first frame and caption, and noise that depends on scene and seed."""
    frames_THWC = np.asarray(row["frames"], dtype=np.uint8)
    num_frames, height, width, _ = frames_THWC.shape
    sample = Sample(
        name=f"{row['id']}-{seed}",
        prompt=str(row["caption"]),
        seed=(int(row["seed"]) * 1_000_003 + seed) % 2**63,
        fps=float(row["fps"]),
        scene=str(row["id"]),
        source=digest(frames_THWC),
    )
    first_CHW = torch.from_numpy(frames_THWC[0].copy()).permute(2, 0, 1).float() / 255
    return Request(sample=sample, num_frames=num_frames, height_px=height, width_px=width, first_CHW=first_CHW)


def model_settings(
    model: str,
    lora: str | None,
    *,
    num_inference_steps: int,
    guidance_scale: float,
    adapter_sigma_range: Sequence[float] = (0.0, 1.0),
) -> dict[str, Any]:
    """What decides the pixels of a clip besides its own prompt, first frame and seed."""
    return {
        "model": str(model),
        "model_fingerprint": fingerprint(model),
        "lora": lora,
        "lora_fingerprint": fingerprint(lora) if lora else None,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "adapter_sigma_range": list(adapter_sigma_range),
    }


def batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    """Neighbouring requests of one size, at most `batch_size` at a time."""
    for _, group in groupby(requests, key=lambda request: request.size):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def generate(model: VideoModel, requests: Sequence[Request], settings: Mapping[str, Any]) -> Tensor:
    """Clips of one size, frames_BTCHW in [0, 1]; equal to the stock pipeline's on the same generators."""
    first = requests[0]
    generators = [torch.Generator().manual_seed(request.sample.seed) for request in requests]
    firsts = [request.first_CHW for request in requests if request.first_CHW is not None]
    condition = model.condition(
        [request.sample.prompt for request in requests],
        fps=torch.tensor([request.sample.fps for request in requests]),
        num_frames=first.num_frames,
        height_px=first.height_px,
        width_px=first.width_px,
        first_frames_BCHW=torch.stack(firsts) if firsts else None,
        guidance_scale=settings["guidance_scale"],
        generators=generators,
    )
    return sample_clips(
        model,
        condition,
        generators,
        num_steps=settings["num_inference_steps"],
        adapter_sigma_range=settings["adapter_sigma_range"],
    )


def fill(model: VideoModel, requests: Sequence[Request], folder: ClipFolder, *, batch_size: int, label: str) -> None:
    """Make the clips that the folder lacks, with a progress bar."""
    done = folder.samples
    missing = [request for request in requests if done.get(request.sample.name) != request.sample]
    with tqdm(total=len(requests), initial=len(requests) - len(missing), desc=label, unit="clip") as bar:
        for batch in batches(missing, batch_size):
            for request, frames_TCHW in zip(batch, generate(model, batch, folder.settings), strict=True):
                folder.write(request.sample, frames_TCHW)
                bar.update()


def default_device() -> str:
    """The accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(model: str, lora: str | None) -> VideoModel:
    """The model, with the LoRA on it where one is named."""
    if lora is not None and not Path(lora).exists():
        raise ValueError(f"no LoRA at {lora}: give the file or folder that training wrote")
    loaded = load_video_model(model).to(default_device())
    if lora is not None:
        loaded.load_lora(lora)
    return loaded


def rows_of_split(split: str, *, scenes: int, at_rest: bool, root: str | Path | None = None) -> list[dict[str, Any]]:
    """The first `scenes` rows of a split, or the first that start from rest."""
    from data.rows import LIGHT_COLUMNS, load_split

    table = load_split(split, root, columns=LIGHT_COLUMNS).with_format("numpy")
    flags = table["at_rest"][:]
    chosen = [index for index in range(len(table)) if not at_rest or flags[index]]
    if len(chosen) < scenes:
        kind = "scenes at rest" if at_rest else "scenes"
        raise ValueError(f"split {split} has {len(chosen)} {kind}, {scenes} were asked for: lower scenes or write more")
    return [table[index] for index in chosen[:scenes]]


def requests_of(config: SampleConfig) -> list[Request]:
    """Every clip that the settings ask for, scene by scene, seed by seed."""
    if config.split is not None:
        if config.image or config.prompt:
            raise ValueError("a split brings its own first frames and captions: leave out image and prompt")
        rows = rows_of_split(config.split, scenes=config.scenes, at_rest=config.at_rest)
        return [request_for_row(row, seed) for row in rows for seed in config.seeds]
    if config.prompt is None:
        raise ValueError("nothing to make clips of: give split, or prompt (with or without image)")
    if config.fps is None:
        raise ValueError("without a split the frame rate is not known: give fps")
    first = None if config.image is None else _read_image(config.image, config.height, config.width)
    source = "" if first is None else digest(first.numpy())
    about = {"prompt": config.prompt, "fps": config.fps, "scene": config.image or "", "source": source}
    samples = [Sample(name=f"clip-{seed}", seed=seed, **about) for seed in config.seeds]
    size = {"num_frames": config.num_frames, "height_px": config.height, "width_px": config.width}
    return [Request(sample=sample, first_CHW=first, **size) for sample in samples]


def _read_image(path: str, height_px: int, width_px: int) -> Tensor:
    """A picture in [0, 1], its middle cut to the clip's shape and resized."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"cannot read the picture {path}: {error}") from error
    fitted = ImageOps.fit(picture, (width_px, height_px), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1).float() / 255


def run(config: SampleConfig) -> ClipFolder:
    """Make the clips and return their folder."""
    check_range("adapter_sigma_range", config.adapter_sigma_range)
    requests = requests_of(config)
    settings = model_settings(
        config.model,
        config.lora,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        adapter_sigma_range=config.adapter_sigma_range,
    )
    model = load_model(config.model, config.lora)
    for size in {request.size[:3] for request in requests}:
        model.check_size(*size)
    folder = ClipFolder(config.output_dir, settings, overwrite=config.overwrite)
    fill(model, requests, folder, batch_size=config.batch_size, label="sampling")
    return folder


def main() -> None:
    """The command."""
    folder = run(parse_config(SampleConfig))
    print(f"{len(folder.samples)} clips in {folder.folder}")


if __name__ == "__main__":
    exit_with_one_line(main)

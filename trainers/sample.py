"""A model, or a LoRA on it, to a folder of clips with their prompts and seeds.

    python -m trainers.sample --model_name_or_path data/drops/model --split heldout --scenes 8 --output_dir samples/base
    python -m trainers.sample --model_name_or_path data/drops/model --lora_path runs/x/lora --image ball.png \
        --prompt "a red ball ..." --fps 16 --seeds 0 1 2 --output_dir samples/ball

The noise of a clip comes from a generator of its own, so it does not depend on the batch it is made in.
Axes: B clips, T frames, C colours, H W pixels.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainers.clips.folder import ClipFolder, Sample, changed_settings, holds_others
from trainers.clips.making import (
    Request,
    changed_clips,
    default_device,
    digest,
    fill,
    load_model,
    model_settings,
    request_for_row,
    rows_of_split,
    takes_first_frame,
)
from trainers.models import VideoModel
from trainers.settings.options import Positive, Rate, check_range, exit_with_one_line, option, parse_config, strict
from trainers.settings.sampling import Sampling, SamplingConfig, run_settings, sampling_of


@strict
class SampleConfig(SamplingConfig):
    """Generate clips from a video model."""

    model_name_or_path: str = option("data/drops/model", "diffusers pipeline: a folder or a hub name")
    lora_path: str | None = option(None, "LoRA file or folder in the stock format")
    output_dir: str = option("samples", "folder for the clips; a run that was stopped goes on where it was")
    split: str | None = option(None, "start from the first frames and captions of this split of drops")
    scenes: Positive = option(16, "scenes of the split, from its beginning")
    at_rest: bool = option(False, "keep only scenes whose object is at rest in the first frame")
    image: str | None = option(None, "start from this picture instead, with prompt")
    prompt: str | None = option(None, "text of clips that do not come from a split")
    seeds: list[int] = option([0], "seeds of the noise; every scene is made with each")
    fps: Rate | None = option(None, "frames a second; needed without a split, whose clips are else made at their own")
    num_frames: Positive = option(17, "frames of a clip, without a split")
    height: Positive = option(64, "rows in px, without a split")
    width: Positive = option(64, "columns in px, without a split")
    adapter_sigma_range: list[float] | None = option(
        None, "noise levels at which the LoRA is active; by default as in its run, otherwise all"
    )
    batch_size: Positive = option(8, "clips made at a time")
    overwrite_output_dir: bool = option(False, "throw away clips in output_dir that were made with other settings")


def requests_of(config: SampleConfig, *, image_conditioning: bool = True) -> list[Request]:
    """Every clip that the settings ask for, scene by scene, seed by seed; of a split with its first frames or without.

    Raises:
        ValueError: settings that ask for nothing, or for two things.
    """
    if len(set(config.seeds)) < len(config.seeds) or not config.seeds:
        raise ValueError(f"seeds must be numbers that differ, got {config.seeds}")
    if config.split is not None:
        if config.image or config.prompt:
            raise ValueError("a split brings its own first frames and captions: leave out image and prompt")
        rows = rows_of_split(config.split, scenes=config.scenes, at_rest=config.at_rest, fps=config.fps)
        given = image_conditioning
        return [request_for_row(row, seed, image_conditioning=given) for row in rows for seed in config.seeds]
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


def sample_clips(config: SampleConfig) -> ClipFolder:
    """Make the clips and return their folder.

    Raises:
        ValueError: settings that do not fit each other or the model, or a folder that holds other clips.
    """
    run = run_settings(config.lora_path)
    active = list(config.adapter_sigma_range or run.get("adapter_sigma_range", (0.0, 1.0)))
    check_range("adapter_sigma_range", active)
    sampling = sampling_of(config, {"lora": run}, on_gpu=default_device() == "cuda")
    settings = partial(model_settings, config.model_name_or_path, config.lora_path, adapter_sigma_range=active)
    folder = Path(config.output_dir)
    changed = changed_settings(folder, settings(sampling)) + changed_clips(folder, requests_of(config), alone=True)
    if changed and not config.overwrite_output_dir:
        raise holds_others(folder, changed)
    model = load_model(config.model_name_or_path, config.lora_path, sampling)
    sampling = replace(sampling, image_conditioning=given_first(config, model, sampling))
    requests = requests_of(config, image_conditioning=bool(sampling.image_conditioning))
    for size in {request.size[:3] for request in requests}:
        model.check_size(*size)
    clips = ClipFolder(folder, settings(sampling), overwrite=config.overwrite_output_dir)
    if changed:
        clips.refuse(changed)
    fill(model, requests, clips, batch_size=config.batch_size, label="sampling")
    return clips


def given_first(config: SampleConfig, model: VideoModel, sampling: Sampling) -> bool:
    """Whether the clips start from first frames that are given.

    Raises:
        ValueError: a picture that the model does not take or is told not to take, or a first frame that is lacking.
    """
    if config.split is None:
        given = config.image is not None
        if config.image_conditioning is not None and config.image_conditioning != given:
            have = "there is an image" if given else "there is no image"
            raise ValueError(
                f"image_conditioning is {config.image_conditioning}, but {have}: give split or image, or leave it out"
            )
    else:
        given = takes_first_frame(model) if sampling.image_conditioning is None else sampling.image_conditioning
    model.check_mode(given)
    return given


def main() -> None:
    """The command."""
    folder = sample_clips(parse_config(SampleConfig))
    print(f"{len(folder.samples)} clips in {folder.folder}")


if __name__ == "__main__":
    exit_with_one_line(main)

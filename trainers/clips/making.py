"""Clips that are asked for, and the making of those that are missing."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.rates import at_rate
from data.worlds import world_of
from trainers.clips.folder import ClipFolder, Sample, clip_size, fingerprint, read_samples
from trainers.learning.rollout import sample as sample_clips
from trainers.models import VideoModel, load_video_model
from trainers.settings.sampling import Sampling


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
    """What distinguishes the pictures that clips were started from."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


def request_for_row(row: Mapping[str, Any], seed: int, *, image_conditioning: bool = True) -> Request:
    """The clip of one scene of a world: its caption, and noise that depends on scene and seed.

    Args:
        image_conditioning: give the scene's first frame too; otherwise the model draws a scene of its own.
    """
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
    return Request(
        sample=sample,
        num_frames=num_frames,
        height_px=height,
        width_px=width,
        first_CHW=first_CHW if image_conditioning else None,
    )


def model_settings(
    model: str, lora: str | None, sampling: Sampling, *, adapter_sigma_range: Sequence[float] = (0.0, 1.0)
) -> dict[str, Any]:
    """What decides the pixels of a clip besides its own prompt, first frame and seed."""
    given = sampling.image_conditioning
    return {
        "model": str(model),
        "model_fingerprint": fingerprint(model),
        "lora": lora,
        "lora_fingerprint": fingerprint(lora) if lora else None,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "negative_prompt": sampling.negative_prompt,
        "adapter_sigma_range": list(adapter_sigma_range),
        "decode_tile_px": sampling.decode_tile_px,
        "dtype": "bfloat16" if sampling.bf16 else "float32",
    } | ({} if given is None else {"image_conditioning": given})


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
        negative_prompt=settings["negative_prompt"],
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
    """Make the clips that the folder lacks, with a progress bar; what cannot be read is made again."""
    changed = changed_clips(folder.folder, requests)
    if changed:
        folder.refuse(changed)
    samples = folder.samples
    missing = [request for request in requests if request.sample.name not in samples]
    with tqdm(total=len(requests), initial=len(requests) - len(missing), desc=label, unit="clip") as bar:
        for batch in batches(missing, batch_size):
            for request, frames_TCHW in zip(batch, generate(model, batch, folder.settings), strict=True):
                folder.write(request.sample, frames_TCHW)
                bar.update()


def changed_clips(folder: Path, requests: Sequence[Request], *, alone: bool = False) -> list[str]:
    """In what a folder's clips differ from those asked for: prompt, seed, frame rate, size or first frame.

    Args:
        alone: nothing else may lie there; otherwise further clips may.
    """
    changed: list[str] = []
    wanted = {request.sample.name: request for request in requests}
    for name, sample in read_samples(folder).items():
        request = wanted.get(name)
        if request is None:
            changed += _not_asked_for(sample, requests) if alone else []
            continue
        now = request.sample
        about = ("prompt", "seed", "fps", "scene")
        changed += [field for field in about if getattr(sample, field) != getattr(now, field)]
        changed += ["first frame"] if sample.source and sample.source != now.source else []
        names = ("num_frames", "height", "width")
        asked = (request.num_frames, request.height_px, request.width_px)
        size = clip_size(folder, name) or asked
        changed += [field for field, a, b in zip(names, size, asked, strict=True) if a != b]
    return list(dict.fromkeys(changed))


def _not_asked_for(sample: Sample, requests: Sequence[Request]) -> list[str]:
    """In what a clip that nobody asks for differs from those that are asked for."""
    asked = [request.sample for request in requests]
    if sample.scene not in {other.scene for other in asked}:
        return ["scene"]
    if sample.prompt not in {other.prompt for other in asked}:
        return ["prompt"]
    return ["set of seeds"]


def default_device() -> str:
    """The accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(model: str, lora: str | None, sampling: Sampling | None = None) -> VideoModel:
    """The model, with the LoRA on it where one is named, loaded in the type and place that it samples in."""
    sampling = sampling or Sampling()
    if lora is not None and not Path(lora).exists():
        raise ValueError(f"no LoRA at {lora}: give the file or folder that training wrote")
    loaded = load_video_model(model, torch_dtype=torch.bfloat16 if sampling.bf16 else torch.float32)
    loaded.offload_text, loaded.offload_blocks = sampling.offload_text_encoder, sampling.offload_transformer
    loaded.to(default_device()).decode_in_tiles(sampling.decode_tile_px)
    if lora is not None:
        loaded.load_lora(lora)
    return loaded


def takes_first_frame(model: VideoModel) -> bool:
    """Whether the model can be given a first frame."""
    try:
        model.check_mode(True)
    except ValueError:
        return False
    return True


def rows_of_split(
    split: str,
    *,
    scenes: int,
    at_rest: bool,
    root: str | Path | None = None,
    world: str = "drops",
    fps: float | None = None,
) -> list[dict[str, Any]]:
    """The first `scenes` rows of a split of a world, or the first that start from rest.

    Args:
        fps: the clips' frames are taken at this rate; by default at their own.

    Raises:
        ValueError: fewer such rows, or none at that rate.
    """
    table = world_of(world).rows(split, root)
    if at_rest and "at_rest" not in table.column_names:
        raise ValueError(f"split {split} does not say which scenes are at rest: leave at_rest out")
    flags = table["at_rest"][:] if at_rest else [True] * len(table)
    chosen = [index for index in range(len(table)) if flags[index]]
    if len(chosen) < scenes:
        kind = "scenes at rest" if at_rest else "scenes"
        raise ValueError(f"split {split} has {len(chosen)} {kind}, {scenes} were asked for: lower scenes or write more")
    return [at_rate(table[index], fps) for index in chosen[:scenes]]

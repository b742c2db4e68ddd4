"""A folder of generated clips that remembers how each was made and goes on where it stopped.

settings.json    what made them: model, LoRA, steps; a folder never mixes two settings
samples.jsonl    one line per clip: name, prompt, seed, fps, scene
rewards.jsonl    what each clip scored, where something has scored it; goes with the clips it speaks of
clips/NAME.npz   the pixels as they are measured (uint8, lossless)
clips/NAME.mp4   the same to look at
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_physics.files.io import to_uint8, write_video
from reward_physics.files.readers import LARGEST_CLIP_BYTES

_HASHED_BYTES = 1 << 20
REWARDS, SCORED_BY = "rewards.jsonl", "scored_by.json"
"""The scores of a folder's clips, and what gave them."""

FORMERLY: dict[str, Any] = {"negative_prompt": "", "dtype": "float32", "decode_tile_px": 0}
"""What clips were made with before their folder said it."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One generated clip."""

    name: str
    prompt: str
    seed: int
    """Seed of the noise."""
    fps: float
    scene: str = ""
    """Id of the scene whose first frame it starts from, or the path of the picture; empty for text alone."""
    source: str = ""
    """Hash of the scene's own pixels: a scene rendered anew is another source."""


class ClipFolder:
    """Clips under one folder, all made with the same settings.

    Args:
        folder: made where missing.
        settings: what the clips are made with; JSON values.
        overwrite: throw away clips made with other settings; otherwise they are an error.
    Raises:
        ValueError: the folder holds clips made with other settings, or something that is not ours.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder, self.overwrite = Path(folder), overwrite
        self.settings = dict(json.loads(json.dumps(settings)))
        changed = changed_settings(self.folder, self.settings)
        if changed:
            self.refuse(changed)
        (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "settings.json", json.dumps(self.settings, indent=2) + "\n")

    def refuse(self, changed: Sequence[str]) -> None:
        """Throw away clips that differ in `changed` from those asked for, where that is allowed.

        Raises:
            ValueError: it is not.
        """
        if not self.overwrite:
            raise holds_others(self.folder, changed)
        self._clear()

    @property
    def samples(self) -> dict[str, Sample]:
        """The finished clips by name, in the order they were made."""
        return read_samples(self.folder)

    def write(self, sample: Sample, frames_TCHW: Tensor) -> None:
        """Add one clip: its pixels in [0, 1], a video to look at, its line in samples.jsonl last."""
        frames_THWC = to_uint8(frames_TCHW).permute(0, 2, 3, 1).cpu().numpy()
        path = self.folder / "clips" / f"{sample.name}.npz"
        partial = path.with_name(f".{sample.name}.{uuid.uuid4().hex[:8]}.npz")
        film = partial.with_suffix(".mp4")
        try:
            np.savez_compressed(partial, frames=frames_THWC, fps=sample.fps)
            write_video(film, frames_TCHW, fps=sample.fps)
            os.replace(partial, path)
            os.replace(film, path.with_suffix(".mp4"))
        finally:
            partial.unlink(missing_ok=True)
            film.unlink(missing_ok=True)
        self._forget_score(sample.name)
        append_line(self.folder / "samples.jsonl", json.dumps(asdict(sample)))

    def read(self, name: str) -> Tensor:
        """The pixels of one clip, frames_TCHW in [0, 1]."""
        return read_clip(self.folder, name)

    def _clear(self) -> None:
        for name in (REWARDS, SCORED_BY, "samples.jsonl", "settings.json"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "clips", ignore_errors=True)
        (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "settings.json", json.dumps(self.settings, indent=2) + "\n")

    def _forget_score(self, name: str) -> None:
        """A clip that is made anew has no score yet."""
        path = self.folder / REWARDS
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if not line.startswith(json.dumps({"name": name})[:-1] + ",")]
        if len(kept) < len(lines):
            write_text(path, "".join(f"{line}\n" for line in kept))


def holds_others(folder: str | Path, changed: Sequence[str]) -> ValueError:
    """That a folder's clips differ in `changed` from those asked for."""
    names = ", ".join(dict.fromkeys(changed))
    return ValueError(
        f"{folder} holds clips made with another {names}: choose another output_dir, or set overwrite_output_dir"
    )


def changed_settings(folder: str | Path, settings: Mapping[str, Any]) -> list[str]:
    """The names of the settings that a folder's clips were made with and that are others now; none where it is empty.

    One that an older folder does not say had the value of that time.

    Raises:
        ValueError: the folder holds something that is not ours.
    """
    record = Path(folder) / "settings.json"
    if not record.exists():
        if Path(folder).exists() and any(Path(folder).iterdir()):
            raise ValueError(f"{folder} exists and holds something other than clips: choose another output_dir")
        return []
    if not read_samples(folder):
        return []
    now = json.loads(json.dumps(dict(settings)))
    before = {name: value for name, value in FORMERLY.items() if name in now} | json.loads(record.read_text())
    unknown = {"image_conditioning"} - (before.keys() & now.keys())
    return sorted(name for name in before | now if name not in unknown and before.get(name) != now.get(name))


def read_samples(folder: str | Path) -> dict[str, Sample]:
    """The finished clips of a folder by name; a half-written last line is left out.

    Raises:
        ValueError: a name that is a path, which could lead out of the folder.
    """
    lines = Path(folder) / "samples.jsonl"
    samples: dict[str, Sample] = {}
    for line in lines.read_text().splitlines() if lines.exists() else []:
        try:
            sample = Sample(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        if Path(str(sample.name)).name != sample.name:
            raise ValueError(f"{lines} names a clip {sample.name!r}: a name must be no path: leave the line out")
        if (Path(folder) / "clips" / f"{sample.name}.npz").exists():
            samples[sample.name] = sample
    return samples


def read_clip(folder: str | Path, name: str) -> Tensor:
    """The pixels of one clip of a folder, frames_TCHW in [0, 1].

    Raises:
        ValueError: it cannot be read, is too large to unpack, or is a link that leads out of the folder.
    """
    path = Path(folder) / "clips" / f"{name}.npz"
    clip_shape(folder, name)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames_THWC = arrays["frames"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read the clip {path} ({error}): remove it and run again") from error
    return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float() / 255


def clip_shape(folder: str | Path, name: str) -> tuple[int, ...]:
    """Frames, rows, columns and colours of one clip of a folder, without reading it.

    Raises:
        ValueError: as of `read_clip`.
    """
    path = Path(folder) / "clips" / f"{name}.npz"
    try:
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError("a link that leads out of its folder")
        return _check_header(path)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read the clip {path} ({error}): remove it and run again") from error


def clip_size(folder: str | Path, name: str) -> tuple[int, int, int] | None:
    """Frames, rows and columns of a clip by its header alone; None where it cannot be read."""
    try:
        frames, height, width, _ = clip_shape(folder, name)
        return frames, height, width
    except ValueError:
        return None


def _check_header(path: Path) -> tuple[int, ...]:
    """The shape; ValueError unless the array of frames is T x H x W x 3 of uint8 and of a size to unpack."""
    with zipfile.ZipFile(path) as archive, archive.open("frames.npy") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"frames must be T x H x W x 3 of uint8, got {shape} of {dtype}")
    if math.prod(shape) > LARGEST_CLIP_BYTES:
        raise ValueError(f"its {math.prod(shape) / 1e9:.0f} GB of frames are more than {LARGEST_CLIP_BYTES / 1e9:.0f}")
    return shape


def fingerprint(path: str | Path) -> str:
    """A short hash of the weights and configs under a file or folder, so that other weights in the same place are seen.

    Of a large file only the size and the first and last MiB are hashed.
    """
    path = Path(path)
    if not path.exists():
        return "hub"
    files = (
        sorted(file for file in path.rglob("*") if file.suffix in (".safetensors", ".json"))
        if path.is_dir()
        else [path]
    )
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}:{size}:".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_HASHED_BYTES))
            stream.seek(max(0, size - _HASHED_BYTES))
            digest.update(stream.read(_HASHED_BYTES))
    return digest.hexdigest()[:16]


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    partial.write_text(text)
    os.replace(partial, path)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file; a last line that was cut short stays a line of its own."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        glue = b"" if file.read(1) in (b"", b"\n") else b"\n"
        file.write(glue + line.encode() + b"\n")

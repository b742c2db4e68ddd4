"""The clips that a weighted regression learns from, on disk: bounded, written whole or not at all, resumable.

    replay/round-000003-p0.safetensors   clean latents of the clips that process 0 made, by clip number
    replay/round-000003-policy.safetensors   the LoRA that made them, where the regression compares with it
    replay/round-000003.json             every clip of the round with its reward and weight; written last

A file never changes once it is there, so a checkpoint keeps the rounds that it needs as links to them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainers.clips.folder import write_text

FOLDER = "replay"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One generated clip of a round.

    Args:
        number: its number within the run, which decides its prompt and its noise.
        reward, weight: what it scored, and what its loss is multiplied by.
        file: that holds its latents.
    """

    number: int
    reward: float
    weight: float
    file: str


class Replay:
    """The last rounds of a run.

    Args:
        output_dir: the run's folder.
        rounds: how many rounds are kept.
    """

    def __init__(self, output_dir: str | Path, *, rounds: int) -> None:
        self.folder, self.rounds = Path(output_dir) / FOLDER, rounds

    def write_latents(self, index: int, process: int, numbers: Sequence[int], latents: Sequence[Tensor]) -> None:
        """One process's clips of a round."""
        tensors = {str(number): latent for number, latent in zip(numbers, latents, strict=True)}
        self._write(shard_name(index, process), tensors)

    def write_policy(self, index: int, weights: Mapping[str, Tensor]) -> None:
        """The LoRA that made a round's clips."""
        self._write(policy_name(index), weights)

    def _write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        partial = path.with_suffix(".partial")
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial)
        os.replace(partial, path)

    def finish_round(self, index: int, clips: Sequence[Clip]) -> None:
        """Write the round's table, when every process has written its latents, and forget rounds beyond the bound."""
        text = json.dumps([dataclasses.asdict(clip) for clip in clips])
        write_text(self.folder / f"round-{index:06d}.json", text)
        for old in self.indices()[: -self.rounds]:
            (self.folder / f"round-{old:06d}.json").unlink()
            for file in self.folder.glob(f"round-{old:06d}-*.safetensors"):
                file.unlink()

    def indices(self) -> list[int]:
        """The rounds that are whole, oldest first."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("round-*.json"))

    def clips(self) -> list[Clip]:
        """Every clip of the rounds that are kept."""
        tables = [json.loads((self.folder / f"round-{index:06d}.json").read_text()) for index in self.indices()]
        return [Clip(**clip) for table in tables for clip in table]

    def latents(self, clips: Sequence[Clip]) -> list[Tensor]:
        """The clean latents of some clips, each without a batch axis."""
        latents_by_number: dict[int, Tensor] = {}
        for name in dict.fromkeys(clip.file for clip in clips):
            with safe_open(self.folder / name, framework="pt") as file:
                latents_by_number |= {
                    clip.number: file.get_tensor(str(clip.number)) for clip in clips if clip.file == name
                }
        return [latents_by_number[clip.number] for clip in clips]

    def policy(self, device: torch.device) -> dict[str, Tensor]:
        """The LoRA that made the last round's clips, empty where it was not kept."""
        indices = self.indices()
        path = self.folder / policy_name(indices[-1]) if indices else None
        return load_file(path, device=str(device)) if path is not None and path.exists() else {}

    def keep(self, checkpoint: Path) -> None:
        """Put the rounds into a checkpoint's folder."""
        _link(self.folder, checkpoint / FOLDER)

    def restore(self, checkpoint: Path) -> None:
        """Go back to the rounds of a checkpoint."""
        shutil.rmtree(self.folder, ignore_errors=True)
        _link(checkpoint / FOLDER, self.folder)


def shard_name(index: int, process: int) -> str:
    """The file of a round's latents that a process writes."""
    return f"round-{index:06d}-p{process}.safetensors"


def policy_name(index: int) -> str:
    """The file of the LoRA that made a round's clips."""
    return f"round-{index:06d}-policy.safetensors"


def _link(source: Path, target: Path) -> None:
    """The same files in another folder: links where the disk has them, copies elsewhere."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("round-*") if source.exists() else ():
        if path.suffix not in (".json", ".safetensors"):
            continue
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)

"""The clips that a weighted regression learns from, on disk: bounded, written whole or not at all, resumable.

    replay/round-000003-p0.safetensors   clean latents of the clips that process 0 made, by clip number
    replay/round-000003.json             every clip of the round with its reward and weight; written last

A file never changes once it is there, so a checkpoint keeps the rounds that it needs as links to them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainers.clips import write_text

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
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / shard_name(index, process)
        partial = path.with_suffix(".partial")
        tensors = {str(number): one.detach().cpu().contiguous() for number, one in zip(numbers, latents, strict=True)}
        save_file(tensors, partial)
        os.replace(partial, path)

    def finish_round(self, index: int, clips: Sequence[Clip]) -> None:
        """Write the round's table, when every process has written its latents, and forget rounds beyond the bound."""
        text = json.dumps([dataclasses.asdict(clip) for clip in clips])
        write_text(self.folder / f"round-{index:06d}.json", text)
        for old in self.indices()[: -self.rounds]:
            (self.folder / f"round-{old:06d}.json").unlink()
            for shard in self.folder.glob(f"round-{old:06d}-p*.safetensors"):
                shard.unlink()

    def indices(self) -> list[int]:
        """The rounds that are whole, oldest first."""
        return sorted(int(path.stem.split("-")[1]) for path in self.folder.glob("round-*.json"))

    def clips(self) -> list[Clip]:
        """Every clip of the rounds that are kept."""
        tables = [json.loads((self.folder / f"round-{index:06d}.json").read_text()) for index in self.indices()]
        return [Clip(**clip) for table in tables for clip in table]

    def latents(self, clip: Clip) -> Tensor:
        """The clean latents of one clip, without a batch axis."""
        with safe_open(self.folder / clip.file, framework="pt") as file:
            return file.get_tensor(str(clip.number))

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

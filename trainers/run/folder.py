"""The folder of a run: whether it may be written to, and whether the disk has room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from trainers.run.processes.parallel import size_of
from trainers.settings.common import TrainerConfig


def check_output_dir(output_dir: str | Path, *, overwrite: bool, resume: bool) -> None:
    """Raise ValueError where `output_dir` holds something that the run would mix with or must not throw away."""
    folder = Path(output_dir)
    for part in (folder, *folder.parents):
        if part.is_file():
            raise ValueError(f"output_dir {folder} cannot be a folder, {part} is a file: choose another output_dir")
    nearest = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {folder} cannot be written, {nearest} is read-only: choose another output_dir")
    if not folder.exists() or resume or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"output_dir {folder} exists and is not empty: set overwrite_output_dir, resume_from_checkpoint: auto, "
            "or another output_dir"
        )
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"output_dir {folder} was not written by a trainer and is not overwritten: empty it yourself")


def goes_on_in(output_dir: str | Path, asked: str | None) -> bool:
    """Whether a run resumes in the folder that its checkpoint is in."""
    return asked is not None and (asked == "auto" or Path(asked).resolve().parent == Path(output_dir).resolve())


def abandon(later: Iterable[Path]) -> None:
    """Take the name from checkpoints of a branch that a run does not go on with, and say so."""
    for path in later:
        other = path.with_name(f"abandoned-{path.name}")
        shutil.rmtree(other, ignore_errors=True)
        os.replace(path, other)
        print(f"{path.name} is of the steps that are done again: it is called {other.name} now")


def make_output_dir(output_dir: str | Path, *, resume: bool) -> None:
    """Make the run's folder, empty unless the run is resumed; `check_output_dir` has agreed."""
    if not resume:
        shutil.rmtree(output_dir, ignore_errors=True)
    Path(output_dir).mkdir(parents=True, exist_ok=True)


def check_disk(output_dir: str | Path, needed_bytes: int) -> None:
    """Raise ValueError where the disk under `output_dir` has less room than the run will write."""
    folder = Path(output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ValueError(
            f"too little disk for output_dir {output_dir}: the run writes about {needed_bytes / 1e6:.0f} MB and "
            f"{free / 1e6:.0f} MB are free: free some, or lower save_total_limit"
        )


def run_bytes(config: TrainerConfig, weights: Iterable[Tensor], *, average: bool) -> int:
    """What a run writes at most: per checkpoint the weights two or three times, two moments, the average;
    videos and logs."""
    size = sum(size_of(weight) * weight.element_size() for weight in weights)
    evaluations = config.max_steps // config.eval_steps + 1 if config.eval_steps else 0
    return (
        (6 if average else 4) * size * (config.save_total_limit + 1)
        + evaluations * config.eval_scenes * 1_000_000
        + 20_000_000
    )

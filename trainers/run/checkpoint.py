"""Everything that a step depends on, written to a temporary name and renamed: a checkpoint is whole or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers.run.process import get_rng, set_rng
from trainers.run.processes.parallel import gathered
from trainers.run.resumed import changes

MANIFEST = "checkpoint.json"
STATE = "training_state.pt"
REMOVING = ".removing-"
SHARDS = "deepspeed"
"""Sub-folder of what DeepSpeed's engine writes of its sharded state."""
RAW = "raw"
"""Sub-folder of the trained weights themselves, where their moving average is what is evaluated."""


@dataclasses.dataclass(kw_only=True)
class TrainState:
    """What a run carries from step to step.

    Args:
        weights: the LoRA by name.
        optimizer: with state_dict and load_state_dict.
        scheduler: a LambdaLR.
        ema: moving average by name, empty where there is none.
        engine: DeepSpeed's, whose shards of the optimizer it writes and reads itself; None without it.
        step: optimizer steps done.
        clips: clips generated so far over all processes; decides the next scenes and their noise.
    """

    weights: dict[str, nn.Parameter]
    optimizer: Any
    scheduler: Any
    ema: dict[str, Tensor]
    engine: Any = None
    step: int = 0
    clips: int = 0


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if (path / MANIFEST).is_file()]
    return sorted((path for path in folders if re.fullmatch(r"checkpoint-\d+", path.name)), key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def save_checkpoint(
    output_dir: str | Path,
    state: TrainState,
    *,
    config: dict[str, Any],
    save_weights: Callable[[Path], None],
    evaluated: Callable[[], AbstractContextManager[None]] = nullcontext,
    recipe: str | Path | None = None,
    keep: int = 2,
    process: int = 0,
    num_processes: int = 1,
    barrier: Any = lambda: None,
    extra: Callable[[Path], None] | None = None,
    trackers: Mapping[str, str] | None = None,
) -> Path:
    """Write checkpoint-N, N the step, and remove the oldest beyond `keep`. Every process calls this.

    Args:
        config: settings as plain values, kept to compare on resume.
        save_weights: called with a folder, writes there what is trained in the stock format: into the checkpoint
            itself what is evaluated, into `raw` what is trained further, where the two differ.
        evaluated: inside it the weights are those that are evaluated; every process enters it.
        recipe: the reward recipe's file, copied.
        barrier: waits for the other processes.
        extra: called by every process with the folder, adds what the trainer needs beyond `state`.
        trackers: what names the run in each tracker.
    """
    final = Path(output_dir) / f"checkpoint-{state.step}"
    temporary = Path(output_dir) / f".writing-{final.name}"
    if process == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    barrier()
    torch.save(get_rng(), temporary / f"rng_{process}.pt")
    with gathered(state.weights.values()):
        if process == 0:
            save_weights(temporary / RAW if state.ema else temporary)
            torch.save(_body(state), temporary / STATE)
            if recipe is not None:
                shutil.copyfile(recipe, temporary / "recipe.yaml")
        barrier()
    if state.ema:
        with evaluated(), gathered(state.weights.values()):
            if process == 0:
                save_weights(temporary)
            barrier()
    if extra is not None:
        extra(temporary)
    if state.engine is not None:
        state.engine.save_checkpoint(str(temporary), tag=SHARDS, save_latest=False, exclude_frozen_parameters=True)
    barrier()
    if process == 0:
        table = {"step": state.step, "clips": state.clips, "num_processes": num_processes}
        _finish(temporary, final, table | {"config": config, "trackers": dict(trackers or {})}, keep=keep)
    barrier()
    return final


def _body(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a run, its weights whole on the CPU."""
    return {
        "weights": {name: weight.detach().cpu() for name, weight in state.weights.items()},
        "optimizer": state.optimizer.state_dict() if state.engine is None else {},
        "scheduler": state.scheduler.state_dict(),
        "ema": state.ema,
    }


def _finish(temporary: Path, final: Path, table: dict[str, Any], *, keep: int) -> None:
    """Write the manifest of a checkpoint's files, give it its name, and remove the oldest beyond `keep`."""
    everything = sorted(temporary.rglob("*"))
    files = [path for path in everything if path.is_file()]
    hashes = {path.relative_to(temporary).as_posix(): _sha256(path) for path in files}
    (temporary / MANIFEST).write_text(json.dumps(table | {"sha256": hashes}, indent=2, sort_keys=True))
    for path in (*everything, temporary / MANIFEST, temporary):
        _sync(path)
    if final.exists():
        _retire(final)
    os.replace(temporary, final)
    _sync(final.parent)
    for old in checkpoints(final.parent)[:-keep]:
        _retire(old)
    for left in final.parent.glob(f"{REMOVING}*"):
        shutil.rmtree(left)


def load_checkpoint(
    path: str | Path, state: TrainState, *, config: dict[str, Any], process: int = 0, num_processes: int = 1
) -> list[str]:
    """Fill `state` and the global generators from a checkpoint.

    Returns:
        Settings that differ from those of the checkpoint and change what the coming steps mean.

    Raises:
        ValueError: no checkpoint there, a damaged or unlisted file, another LoRA, or a setting that cannot take
            effect (`resumed.changes`).
    """
    path = Path(path)
    manifest = read_manifest(path)
    changed = changes(path, manifest, config)
    check_files(path, manifest["sha256"])
    body = load_plain(path / STATE)
    _check_processes(path, state, manifest["num_processes"], num_processes)
    with torch.no_grad(), gathered(state.weights.values(), write=True):
        shapes = {name: tuple(weight.shape) for name, weight in state.weights.items()}
        if {name: tuple(weight.shape) for name, weight in body["weights"].items()} != shapes:
            raise ValueError(
                f"checkpoint {path} holds another LoRA: keep model, lora_r and lora_target_modules as they were"
            )
        for name, weight in state.weights.items():
            weight.copy_(body["weights"][name])
    _load_optimizer(path, state, body)
    for name in state.ema:
        state.ema[name].copy_(body["ema"].get(name, body["weights"][name]))
    state.step, state.clips = manifest["step"], manifest["clips"]
    if manifest["num_processes"] == num_processes and manifest["config"].get("seed") == config.get("seed"):
        set_rng(load_plain(path / f"rng_{process}.pt"))
    return changed


def _load_optimizer(path: Path, state: TrainState, body: dict[str, Any]) -> None:
    """Moments and place in the schedule of a checkpoint; rates and all other settings stay those of the config."""
    optimizer, scheduler = state.optimizer, state.scheduler
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    if state.engine is None:
        optimizer.load_state_dict(body["optimizer"])
    else:  # DeepSpeed unpickles its own files: they are those whose hashes were just compared
        clip_grad = getattr(state.engine.optimizer, "clip_grad", None)
        state.engine.load_checkpoint(str(path), tag=SHARDS, load_module_strict=False)
        if clip_grad is not None:
            state.engine.optimizer.clip_grad = clip_grad
    for name in ("last_epoch", "_step_count"):
        setattr(scheduler, name, body["scheduler"][name])
    rates = zip(optimizer.param_groups, settings, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, own, base, factor in rates:
        group.update(own | {"lr": base * factor(scheduler.last_epoch)})
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def _check_processes(path: Path, state: TrainState, before: int, num_processes: int) -> None:
    """Raise ValueError where DeepSpeed's shards cannot be read by these processes."""
    if (state.engine is None) != (not (path / SHARDS).exists()) or (
        state.engine is not None and before != num_processes
    ):
        now = f"{num_processes} processes {'without' if state.engine is None else 'with'} DeepSpeed"
        raise ValueError(
            f"checkpoint {path} was written by {before} processes "
            f"{'with' if (path / SHARDS).exists() else 'without'} DeepSpeed and cannot go on with {now}: "
            "launch it as it was, or start a new run from its LoRA with lora_path"
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """The table of a checkpoint: step, clips, processes, config, and the hash of every file.

    Raises:
        ValueError: there is none, or it is none of ours.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"resume_from_checkpoint must be `auto` or a checkpoint folder, but {path} holds no readable {MANIFEST}"
        ) from error
    kinds = {"step": int, "clips": int, "num_processes": int, "config": dict, "sha256": dict}
    for name, kind in kinds.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise ValueError(f"checkpoint {path} is not trusted: its {MANIFEST} lacks {name}: resume from another one")
    return manifest


def load_plain(path: Path) -> Any:
    """Tensors and plain values of a file; what would run code on loading is a ValueError."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")  # another machine may have other devices
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"checkpoint {path.parent} is not trusted: {path.name} holds more than tensors and plain values, or cannot "
            "be read: resume from another one"
        ) from error


def check_files(path: Path, sha256: dict[str, str]) -> None:
    """Raise ValueError unless a checkpoint holds exactly the files that its manifest names, as they were written.

    A file that is not listed, or a link to somewhere else, is refused: DeepSpeed unpickles what it finds.
    """
    for name in (STATE, *sha256):
        file = path / name
        if name not in sha256 or not file.is_file() or _sha256(file) != sha256[name]:
            raise ValueError(f"checkpoint {path} is damaged: {name} is not what was written: resume from an older one")
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        if file.is_symlink() or (file.is_file() and name not in (*sha256, MANIFEST)):
            raise ValueError(
                f"checkpoint {path} is not trusted: {name} is a link or not in its {MANIFEST}: remove it, or resume "
                "from another one"
            )


def find_resume(output_dir: str | Path, asked: str | None) -> Path | None:
    """The checkpoint to resume from: None where none was asked for, or `auto` found none."""
    if asked is None:
        return None
    if asked != "auto":
        read_manifest(Path(asked))
        return Path(asked)
    paths = checkpoints(output_dir)
    return paths[-1] if paths else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before anything relies on them."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _retire(path: Path) -> None:
    """Take a checkpoint's name from it, to remove it then: killed half-way, nothing half-valid has that name."""
    leaving = path.with_name(f"{REMOVING}{path.name}")
    shutil.rmtree(leaving, ignore_errors=True)
    os.replace(path, leaving)

"""What the pretraining commands share: flags, schedule, moving average, checkpoints, and where a file came from."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers.settings.options import FlagParser

CHECKPOINT = "checkpoint.pt"


def pretraining_parser(
    name: str, description: str | None, *, steps: int, batch_size: int, learning_rate: float
) -> argparse.ArgumentParser:
    """The flags that every pretraining command has."""
    parser = FlagParser(prog=f"python -m trainers.pretrain.{name}", description=description)
    add = parser.add_argument
    add("--output_dir", default=f"runs/pretrain/{name}", help="checkpoints and results (default: %(default)s)")
    add("--data", nargs="+", default=["data/rendered/train"], help="folders of training clips (default: %(default)s)")
    add(
        "--validation", default="data/drops/clips/validation", help="folder of clips to check on (default: %(default)s)"
    )
    add("--max_steps", type=int, default=steps, help="optimizer steps (default: %(default)s)")
    add("--batch_size", type=int, default=batch_size, help="clips a step (default: %(default)s)")
    add("--learning_rate", type=float, default=learning_rate, help="peak learning rate (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the weights and of every draw (default: %(default)s)")
    add("--save_steps", type=int, default=500, help="steps between checkpoints (default: %(default)s)")
    add("--num_threads", type=int, default=os.cpu_count() or 1, help="threads to compute with (default: %(default)s)")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast to bf16 (default: %(default)s)")
    return parser


def cosine_with_warmup(steps: int, warmup: int) -> Callable[[int], float]:
    """Learning-rate factor: linear from 0 over `warmup` steps, then half a cosine to 0 at `steps`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor


class Ema:
    """Exponential moving average of a module's parameters and floating-point buffers."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.values = {key: copy.deepcopy(value) for key, value in module.state_dict().items()}
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's present values; early updates average evenly."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = module.state_dict()
        names = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[name] for name in names], [current[name] for name in names], 1 - decay)
        for name in current.keys() - set(names):
            self.values[name].copy_(current[name])

    def copy_to(self, module: nn.Module) -> Any:
        """Load the average into `module` and return it in eval mode."""
        module.load_state_dict(self.values)
        return module.eval()

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values, self.updates = dict(state["values"]), state["updates"]


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], generator: torch.Generator) -> None:
    """Write everything that the next step depends on, to a temporary name and then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    saved: dict[str, Any] = {name: part.state_dict() for name, part in state.items()}
    saved |= {"step": step, "generator": generator.get_state(), "torch_rng": torch.get_rng_state()}
    temporary = folder / f"{CHECKPOINT}.partial"
    torch.save(saved, temporary)
    os.replace(temporary, folder / CHECKPOINT)


def load_checkpoint(folder: Path, state: Mapping[str, Any], generator: torch.Generator) -> int:
    """Restore the last checkpoint of `folder` and return its step; 0 where there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    generator.set_state(saved["generator"])
    torch.set_rng_state(saved["torch_rng"])
    return saved["step"]


def provenance(options: argparse.Namespace, quality: Mapping[str, float]) -> dict[str, Any]:
    """Command, commit, versions, seed and measured quality of what a command made, and the same of what it started
    from."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    script, root = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parents[2]
    module = script.relative_to(root).with_suffix("") if script.is_relative_to(root) else Path(script.stem)
    made = {
        "command": shlex.join(["python", "-m", ".".join(module.parts), *sys.argv[1:]]),
        "commit": commit or "unknown",
        "torch": torch.__version__,
        "seed": options.seed,
        "quality": dict(quality),
    }
    before = Path(getattr(options, "start_from", None) or "") / "training.json"
    return made | ({"started_from": json.loads(before.read_text())} if before.is_file() else {})

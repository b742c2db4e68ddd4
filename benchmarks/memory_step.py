"""Memory and time of an ORO step in the configuration that learned gravity, against the full graph.

    python benchmarks/memory_step.py --output docs/results/memory_step.md

The full graph is what published trainers keep: every denoising step, both branches of the guidance, the whole decode
of all clips. Beside it the same step with the savings on: the same clips, noise, LoRA and loss, the same model in the
same process. Memory is the peak of `trainers.memory_plan.meter` with what convolutions take on a CPU; time is the
process's CPU seconds without the meter, the ways by turns, the least of each. The last columns are how far the
gradients of the LoRA part, relative to the full graph's: with the instruments in bfloat16 as the recipe has them,
which makes of a difference in the seventh digit of a pixel one in the third, and with them in float32."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import pyarrow
import torch

from rewards.recipe.recipe import load_recipe
from trainers.learning.batches import Batch, Scenes
from trainers.learning.clocks import Phases
from trainers.learning.figures import Processes
from trainers.memory_plan.meter import MemoryMeter, cpu_workspace
from trainers.models import load_video_model, lora_parameters
from trainers.oro import oro_loss
from trainers.settings.options import parse_config
from trainers.settings.oro import OROConfig

FULL = {
    "gradient_checkpointing": False,
    "block_checkpointing": False,
    "decode_checkpointing": False,
    "decode_chunk_size": 0,
}
STEPS = FULL | {"gradient_checkpointing": True, "decode_chunk_size": 2}
BLOCKS = FULL | {"block_checkpointing": True, "decode_checkpointing": True, "decode_chunk_size": 1}
WAYS = {
    "full graph": FULL,
    "steps, two clips at a time": STEPS,
    "blocks, clip by clip": BLOCKS,
    "steps and blocks, clip by clip": STEPS | BLOCKS | {"gradient_checkpointing": True},
}


class Step:
    """One step of one way, repeatable: the same clips and noise each time."""

    def __init__(self, config: OROConfig, batch: Batch, recipe: Any) -> None:
        self.config, self.batch, self.recipe = config, batch, recipe
        self.model = load_video_model(config.model_name_or_path)
        if config.block_checkpointing:
            self.model.checkpoint_blocks()
        torch.manual_seed(0)
        self.model.add_lora(r=config.lora_r, alpha=config.lora_alpha, targets=config.lora_target_modules)
        self.weights = lora_parameters(self.model.transformer)
        for name, weight in self.weights.items():
            if "lora_B" in name:  # as after some training: at zero the distance to the reference has no gradient
                torch.nn.init.normal_(weight, std=0.01)

    def __call__(self) -> torch.Tensor:
        for weight in self.weights.values():
            weight.grad = None
        loss, _ = oro_loss(self.config, self.model, self.recipe, self.batch, Processes(), 0, Phases())
        loss.backward()
        return torch.cat([weight.grad.flatten() for weight in self.weights.values() if weight.grad is not None])


def measure(guidance: float, rounds: int) -> list[str]:
    """Rows of the table at one guidance scale."""
    base = parse_config(OROConfig, ["--config", "configs/oro_drops.yaml"])
    recipe: Any = load_recipe(base.recipe, for_gradient=True)
    batch = Scenes(base, base.split, seed=base.seed).batch(list(range(base.per_device_train_batch_size)))
    pyarrow.default_memory_pool().release_unused()
    steps = {
        name: Step(dataclasses.replace(base, guidance_scale=guidance, **settings), batch, recipe)
        for name, settings in WAYS.items()
    }
    peaks, seconds, parted = {}, {name: [] for name in WAYS}, {}
    for autocast in (True, False):
        recipe.instruments.depth.autocast = autocast
        gradients = {}
        for name, step in steps.items():
            with MemoryMeter(cpu_workspace) if autocast else contextlib.nullcontext() as meter:
                gradients[name] = step()
            if meter:
                peaks[name] = meter.peak_bytes / 2**20
        full = gradients["full graph"]
        parted[autocast] = {
            name: ((gradient - full).norm() / full.norm()).item() for name, gradient in gradients.items()
        }
    recipe.instruments.depth.autocast = True
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            seconds[name].append(time.process_time() - started)
    least = {name: min(times) for name, times in seconds.items()}
    rows = [
        f"| {guidance:g} | {name} | {peaks[name]:.0f} | 1/{peaks['full graph'] / peaks[name]:.1f} "
        f"| {least[name]:.1f} | {least[name] / least['full graph']:.2f} "
        f"| {parted[True][name]:.0e} | {parted[False][name]:.0e} |"
        for name in WAYS
    ]
    print("\n".join(rows), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0], help="above 1 with both branches")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    asked = parser.parse_args()
    header = [
        "| guidance | way | peak (MiB) | of the full graph | CPU s | times the full graph's "
        "| gradients part by | in float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [row for guidance in asked.guidance for row in measure(guidance, asked.rounds)]
    if asked.output:
        asked.output.write_text("\n".join([*header, *rows]) + "\n")


if __name__ == "__main__":
    main()

"""The plan's peak against the measured one, on networks as wide as the published ones.

    python benchmarks/memory_plan.py --output docs/results/memory_plan.md

Transformer and autoencoder have the published numbers but for the counts of the transformer's blocks (`LAYOUTS`); the
weights are random, in bfloat16. The plan is made on tensors without data. Then the same step of ORO runs with data, and
PyTorch's profiler records what the CPU's allocator hands out and takes back: its peak is the measured one. The weights,
the same bytes in both, are in neither. No reward is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
from pathlib import Path
from typing import Any

import diffusers
import torch

from trainers.learning.clocks import Phases
from trainers.memory_plan.__main__ import PlanConfig
from trainers.memory_plan.blank import Blank
from trainers.memory_plan.meter import allocator_peak_bytes, cpu_workspace
from trainers.memory_plan.plan import GIB, build, plan_memory
from trainers.models.sizes import SIZES, Size
from trainers.oro import STEP

LAYOUTS: dict[str, dict[str, int]] = {
    "ltx-2b": {"num_layers": 3},
    "wan2.1-1.3b": {"num_layers": 4},
    "cogvideox-2b": {"num_layers": 3},
    "hunyuanvideo": {"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1},
}
BASE = PlanConfig(
    num_frames=17,
    height=64,
    width=64,
    num_inference_steps=2,
    per_device_train_batch_size=2,
    decode_chunk_size=1,
    reference_sigma_range=[0.0, 1.0],
)
CHANGES: dict[str, dict[str, Any]] = {
    "17 frames of 64 x 64 px, clip by clip": {},
    "9 frames": {"num_frames": 9},
    "33 frames": {"num_frames": 33},
    "96 x 128 px": {"height": 96, "width": 128},
    "the last step alone with graph": {"grad_steps": "last"},
    "both clips at once": {"decode_chunk_size": 0},
    "steps and blocks kept": {"gradient_checkpointing": False, "block_checkpointing": False},
}


def with_data(size: Size, config: PlanConfig) -> Any:
    """The adapter over random weights."""
    model = build(size, torch.bfloat16)
    generator = torch.Generator().manual_seed(config.seed)
    for module in (model.pipeline.transformer, model.vae):
        module.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.is_floating_point():
                    tensor.normal_(std=0.02, generator=generator)
    model.add_lora(r=config.lora_r, alpha=config.lora_r)
    if config.block_checkpointing:
        model.checkpoint_blocks()
    return model


def measured_bytes(size: Size, config: PlanConfig) -> int:
    """The peak of a real step, beside the weights."""
    model = with_data(size, config)
    blank = Blank.of(model, config, Phases())
    return allocator_peak_bytes(lambda: STEP.loss(config, blank).backward())


def rows_of(name: str, steps: list[str]) -> list[str]:
    """Rows of the table for one layout."""
    kind, numbers = SIZES[name].transformer
    size = dataclasses.replace(SIZES[name], transformer=(kind, numbers | LAYOUTS[name]), text_weights=0)
    blocks = LAYOUTS[name]["num_layers"] + LAYOUTS[name].get("num_single_layers", 0)
    rows = []
    for title in steps:
        config = dataclasses.replace(BASE, **CHANGES[title])
        plan = plan_memory(size, config, STEP, workspace=cpu_workspace)
        planned = max(plan.phases.values())
        measured = measured_bytes(size, config)
        gc.collect()
        weights = (plan.held["transformer"] + plan.held["autoencoder"]) / GIB
        cells = f"{weights:.2f} | {planned / GIB:.3f} | {measured / GIB:.3f} | {planned / measured - 1:+.1%}"
        rows.append(f"| {name}, {blocks} blocks | {title} | {cells} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), help="layouts to measure")
    parser.add_argument("--steps", nargs="+", choices=list(CHANGES), default=list(CHANGES), help="rows to measure")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    asked = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()  # casting networks without data loses nothing
    header = [
        "| layout | step | weights (GiB) | planned beside them (GiB) | measured (GiB) | error |",
        "|---|---|---|---|---|---|",
    ]
    rows = [row for name in asked.only for row in rows_of(name, asked.steps)]
    if asked.output:
        asked.output.write_text("\n".join([*header, *rows]) + "\n")


if __name__ == "__main__":
    main()

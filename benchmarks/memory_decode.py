"""What decoding and its backward pass need at 17 and 65 frames, for the autoencoder of every family.

    python benchmarks/memory_decode.py --output docs/results/memory_decode.md

The published autoencoders without weights, on tensors without data, in bfloat16: `trainers.memory_plan.meter` counts
what is alive at the most, the pixels and their gradient among it. `whole` keeps the graph of the whole clip.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import diffusers
import torch

from trainers.memory_plan.__main__ import PlanConfig
from trainers.memory_plan.blank import blank_condition
from trainers.memory_plan.decoding import decode_cost
from trainers.memory_plan.meter import fused_attention
from trainers.memory_plan.plan import GIB, build
from trainers.models.sizes import SIZES

AUTOENCODERS = {
    "Wan 2.1, 2.2 A14B": "wan2.1-1.3b",
    "Wan 2.2 TI2V-5B": "wan2.2-ti2v-5b",
    "CogVideoX": "cogvideox-2b",
    "LTX-Video": "ltx-2b",
    "HunyuanVideo": "hunyuanvideo",
}
FRAMES = (17, 65)


def peak_gib(name: str, num_frames: int, side_px: int, *, checkpointing: bool) -> float:
    """Of decode and backward, with the pixels and their gradient."""
    whole = SIZES[name]
    size = dataclasses.replace(whole, transformer=(whole.transformer[0], whole.transformer[1] | {"num_layers": 1}))
    model = build(size, torch.bfloat16)
    condition = blank_condition(model, PlanConfig(num_frames=num_frames, height=side_px, width=side_px))
    latents = model.initial_latents(condition, None).requires_grad_()
    with fused_attention():
        cost = decode_cost(model, latents, condition, checkpointing=checkpointing, workspace=lambda *operator: 0)
    return cost.peak_bytes / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side_px", type=int, default=256, help="rows and columns of the clip")
    parser.add_argument("--only", nargs="+", default=list(AUTOENCODERS.values()), help="sizes to measure")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    asked = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()  # casting networks without data loses nothing
    rows = [
        "| autoencoder | 17 frames (GiB) | 65 frames (GiB) | growth | whole, 17 (GiB) | whole, 65 (GiB) |",
        "|---|---|---|---|---|---|",
    ]
    for title, name in AUTOENCODERS.items():
        if name not in asked.only:
            continue
        ours, whole = (
            [peak_gib(name, n, asked.side_px, checkpointing=checkpointing) for n in FRAMES]
            for checkpointing in (True, False)
        )
        cells = [f"{value:.2f}" for value in (*ours, ours[1] / ours[0], *whole)]
        rows.append(f"| {title} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    if asked.output:
        asked.output.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()

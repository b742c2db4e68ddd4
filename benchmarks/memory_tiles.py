"""What decoding in overlapping tiles saves and costs: memory, and the error of pixels and of their gradient.

    python benchmarks/memory_tiles.py --output docs/results/memory_tiles.md

The embedded model's autoencoder on training clips, enlarged so that there are tiles to cut. The pixel error is against
the decode of the whole in [0, 1]; the gradient is that of a wave over the pixels with respect to the latents, its error
relative to the norm of the exact one. Memory is the peak of decode and backward by `trainers.memory_plan.meter`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from trainers.learning.batches import Scenes
from trainers.memory_plan.meter import MemoryMeter, cpu_workspace
from trainers.models import load_video_model
from trainers.settings.oro import OROConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side_px", type=int, default=192, help="rows and columns of the enlarged clips")
    parser.add_argument("--tiles_px", type=int, nargs="+", default=[128, 64], help="sides of the tiles")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    asked = parser.parse_args()
    config = OROConfig(height=asked.side_px, width=asked.side_px)
    model, batch = load_video_model(config.model_name_or_path), Scenes(config, "train").batch([0])
    frames_BTCHW = batch.video.frames_BTCHW
    size = {"num_frames": frames_BTCHW.shape[1], "height_px": asked.side_px, "width_px": asked.side_px}
    condition = model.condition(batch.captions, fps=batch.video.fps_B, **size)
    latents = model.encode_clip(frames_BTCHW).requires_grad_()

    def decode(side_px: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        model.decode_in_tiles(side_px)
        with MemoryMeter(cpu_workspace) as meter:
            frames = model.decode(latents, condition, checkpointing=True)
            wave = torch.sin(torch.linspace(0, 300, frames.numel())).view_as(frames)
            gradient = torch.autograd.grad((frames * wave).sum(), latents)[0]
        return frames.detach(), gradient, meter.peak_bytes / 2**20

    whole, exact, most = decode(0)
    rows = [
        "| tile | peak (MiB) | mean pixel error | largest | gradient error |",
        "|---|---|---|---|---|",
        f"| whole, {asked.side_px} px | {most:.1f} | 0 | 0 | 0 |",
    ]
    for side_px in asked.tiles_px:
        frames, gradient, peak = decode(side_px)
        error, off = (frames - whole).abs(), (gradient - exact).norm() / exact.norm()
        rows.append(f"| {side_px} px | {peak:.1f} | {error.mean():.1e} | {error.max():.1e} | {off:.1%} |")
    print("\n".join(rows))
    if asked.output:
        asked.output.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()

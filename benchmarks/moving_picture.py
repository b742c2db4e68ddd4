"""The README's moving picture: held-out scenes by the base model and by the shipped LoRA, side by side.

    python benchmarks/moving_picture.py --output docs/before_after.webp

The script samples the first held-out scenes at rest with `trainers.sample`'s own code, unless the clips are there.
Ticks at both borders of a clip show the height at which 9.81 m/s² puts the object's centre in that frame.
Axes: T frames, C colours, H W pixels.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from data.worlds import world_of
from reward_physics.drawing.charts import arm_colours
from reward_physics.drawing.scenes import Strip, video_grid
from reward_physics.figures.metrics import STANDARD_G_M_S2
from reward_physics.files.io import enlarge, to_uint8
from trainers.clips.making import rows_of_split
from trainers.sample import SampleConfig, sample_clips

ARMS = {"base model": None, "trained by ORO": "docs/results/oro_drops_lora"}
FACTOR = 3
"""Pixels of the picture per pixel of a clip."""
QUALITY = 80
"""Of the WebP, 0 to 100."""
TICK_PX, TICK_HEIGHT_PX = 14, 2
"""Length of a tick, and half its thickness."""
LAST_FRAME_S = 1.2
"""How long the picture stays at the last frame."""


def ticked(frames_TCHW: Tensor, rows_px_T: list[float]) -> Tensor:
    """The frames enlarged by FACTOR, with a black tick in a white rim at both borders of every frame."""
    big_TCHW = enlarge(frames_TCHW.clamp(0, 1), FACTOR)
    for big_CHW, row_px in zip(big_TCHW, rows_px_T, strict=True):
        if not math.isfinite(row_px):
            continue
        middle = round(row_px * FACTOR)
        for colour, rim in ((1.0, 2), (0.0, 0)):
            rows = slice(max(0, middle - TICK_HEIGHT_PX - rim), middle + TICK_HEIGHT_PX + rim)
            big_CHW[:, rows, : TICK_PX + rim] = colour
            big_CHW[:, rows, -TICK_PX - rim :] = colour
    return big_TCHW


def true_rows(row: Mapping[str, Any]) -> list[float]:
    """The row (px) of the object's centre in every frame under 9.81 m/s²."""
    return world_of("drops").truth(row).at(STANDARD_G_M_S2).centroid_T2[:, 1].tolist()


def clips_of(name: str, lora: str | None, scenes: int, folder: Path) -> list[Tensor]:
    """The clips of one arm, frames_TCHW in [0, 1], in the order of the scenes."""
    output_dir = folder / name.replace(" ", "_")
    config = SampleConfig(lora_path=lora, split="heldout", scenes=scenes, at_rest=True, output_dir=str(output_dir))
    made = sample_clips(config)
    return [made.read(name) for name in list(made.samples)[:scenes]]


def picture(scenes: int, folder: Path) -> tuple[Tensor, float]:
    """The grid, frames_TCHW in [0, 1], and its frames per second: one row per arm, one column per scene."""
    rows = rows_of_split("heldout", scenes=scenes, at_rest=True)
    colours = arm_colours(list(ARMS))
    grid = [
        [
            Strip(label=name, frames_TCHW=ticked(frames_TCHW, true_rows(row)), colour=colours[name])
            for frames_TCHW, row in zip(clips_of(name, lora, scenes, folder), rows, strict=True)
        ]
        for name, lora in ARMS.items()
    ]
    return video_grid(grid), float(rows[0]["fps"])


def write_webp(path: Path, frames_TCHW: Tensor, *, fps: float) -> None:
    """An animated WebP that repeats."""
    images = [Image.fromarray(frame_HWC.numpy()) for frame_HWC in to_uint8(frames_TCHW).permute(0, 2, 3, 1)]
    durations_ms = [round(1000 / fps)] * (len(images) - 1) + [round(1000 * LAST_FRAME_S)]
    options = {"duration": durations_ms, "loop": 0, "quality": QUALITY, "method": 6}
    images[0].save(path, save_all=True, append_images=images[1:], **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=4, help="held-out scenes, one per column")
    parser.add_argument("--slower", type=float, default=2.0, help="seconds shown per second of the clips")
    parser.add_argument("--clips", type=Path, default=Path("outputs/before_after"), help="folder for the clips")
    parser.add_argument("--output", type=Path, default=Path("docs/before_after.webp"))
    arguments = parser.parse_args()
    frames_TCHW, fps = picture(arguments.scenes, arguments.clips)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_webp(arguments.output, frames_TCHW, fps=fps / arguments.slower)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

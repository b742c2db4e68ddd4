"""Time, memory and g of long and large clips, as the scoring command measures them.

    python benchmarks/measuring_long_clips.py                  # both clips
    python benchmarks/measuring_long_clips.py --clip large     # 1,200 frames of 1920 x 1080 px at 240 fps
    python benchmarks/measuring_long_clips.py --clip long      # 629 frames of 320 x 240 px at 60 fps

The script draws a ball that is thrown across a still wall and bounces on, writes it as a video file, and measures it in
a process of its own. It prints seconds of the clock and of the processor, the most memory that the process held, and g.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs" / "recipes" / "real_clips.yaml"
G_M_S2, RESTITUTION, ENTERS_S = 9.81, 0.8, 0.35


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """A clip to draw: a ball that is thrown in from the left after ENTERS_S and bounces on a floor.

    Args:
        frames, height_px, width_px, fps: of the clip.
        radius_px: of the ball.
        px_per_m: pixels a metre.
        speed_m_s: to the right, and upwards at the beginning.
    """

    frames: int
    height_px: int
    width_px: int
    fps: float
    radius_px: float
    px_per_m: float
    speed_m_s: tuple[float, float]

    def centre_px(self, time_s: float) -> tuple[float, float]:
        """Where the ball is, (u, v)."""
        floor = self.height_px - 1.5 * self.radius_px
        height, up, left = 0.5 * self.height_px / self.px_per_m, self.speed_m_s[1], time_s - ENTERS_S
        while left > 0:
            lands = (up + (up * up + 2 * G_M_S2 * height) ** 0.5) / G_M_S2
            flown = min(left, lands)
            height, fell = height + up * flown - 0.5 * G_M_S2 * flown**2, up - G_M_S2 * flown
            left -= flown
            if flown == lands:
                height, up = 0.0, -RESTITUTION * fell
                if up < 0.3:
                    break
            else:
                up = fell
        across = -2 * self.radius_px + self.speed_m_s[0] * (time_s - ENTERS_S) * self.px_per_m
        return across, floor - height * self.px_per_m

    def images(self) -> Iterator[np.ndarray]:
        """The frames, (H, W, 3) in 256 levels."""
        v, u = np.mgrid[: self.height_px, : self.width_px].astype(np.float32) + 0.5
        wall = 170 + 15 * np.sin(u / 37) * np.cos(v / 29)
        noise = np.random.default_rng(0)
        wall = np.repeat((wall + noise.normal(0, 3, wall.shape))[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)
        for frame in range(self.frames):
            image, (x, y) = wall.copy(), self.centre_px(frame / self.fps)
            reach = self.radius_px + 2
            rows = slice(max(0, int(y - reach)), max(0, int(y + reach) + 1))
            columns = slice(max(0, int(x - reach)), max(0, int(x + reach) + 1))
            inside = np.hypot(u[rows, columns] - x, v[rows, columns] - y)
            share = (self.radius_px + 0.5 - inside).clip(0, 1)[..., None]
            ball = np.array([150, 40, 30], dtype=np.float32)
            image[rows, columns] = (image[rows, columns] * (1 - share) + ball * share).round().astype(np.uint8)
            yield image


CLIPS = {
    "large": Drawn(
        frames=1200, height_px=1080, width_px=1920, fps=240.0, radius_px=24.0, px_per_m=400.0, speed_m_s=(2.2, 1.5)
    ),
    "long": Drawn(
        frames=629, height_px=240, width_px=320, fps=60.0, radius_px=6.0, px_per_m=100.0, speed_m_s=(1.4, 1.0)
    ),
}


def write(clip: Drawn, path: Path) -> None:
    """Draw a clip into a video file (H.264)."""
    with av.open(str(path), "w") as container:
        options = {"crf": "18", "preset": "ultrafast"}
        stream = cast(
            Any, container.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(), options=options)
        )
        stream.width, stream.height, stream.pix_fmt = clip.width_px, clip.height_px, "yuv420p"
        for image in clip.images():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def measure(clip: Drawn, path: Path) -> dict[str, float | None]:
    """Seconds, processor seconds, peak memory (MB) and g of the command on a file, in a process of its own."""
    command = [sys.executable, "-m", "rewards.score", str(path), "--recipe", str(RECIPE), "--json"]
    command += ["--fps", f"{clip.fps:g}", "--px_per_m", f"{clip.px_per_m:g}"]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.DEVNULL)
        # What this one process used, whatever others there were.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"the command ended with status {process.returncode}: {' '.join(command)}")
        output.seek(0)
        read = json.load(output)
    return {
        "seconds": time.monotonic() - began,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
        "g_m_s2": read["g_m_s2"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, memory and g of long and large clips.")
    parser.add_argument("--clip", choices=list(CLIPS), help="one of them; by default each")
    options = parser.parse_args()
    for name in CLIPS if options.clip is None else [options.clip]:
        clip = CLIPS[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.mp4")
            write(clip, path)
            read = measure(clip, path)
        g = "not measured" if read["g_m_s2"] is None else f"{read['g_m_s2']:.3f} m/s^2 ({G_M_S2} is true)"
        print(
            f"{name}: {clip.frames} frames of {clip.width_px} x {clip.height_px} px at {clip.fps:g} fps: "
            f"{read['seconds']:.1f} s, {read['processor_seconds']:.1f} s of processor, {read['peak_mb']:.0f} MB, g {g}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Do 95 % intervals of g cover 95 %, and how wide are they against those of an oracle that knows the noise?

    python benchmarks/measuring_intervals.py --draws 200 --output docs/results/measuring_intervals.md

Every cell of frame rate, size and g gets tracks with simulated noise, through arcs, depth and fit as an Observation
does it. A clip's pitch, kind, speed along the line of sight (normal, 0.2 m/s) and noise are drawn: centroids with a
standard deviation of 0.05 to 0.2 px (the instruments expect 0.1 px), depth with 5 % a frame and 2 % a clip, both white
in half of the clips and with an autocorrelation of 0.5 in the others; flow with 0.2 px and an autocorrelation of 0.5.

The oracle knows which frames fly and the covariance of all noise: its variance is (X' S^-1 X)^-1 of the positions'
parabola (and of the displacements, with flow), plus g^2 times the variance of the depth scale, plus that of the speed
along the line of sight over the distance, times (2 v)^2. The interval score is that of Gneiting and Raftery (2007),
eq. 43, in shares of g: width + 40 times what lies outside.

Axes: B clips, T frames.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from measuring_scenes import (
    DISTANCE_M,
    KINDS,
    MIN_CLEAN_FRAMES,
    Cell,
    Drawn,
    blank_video,
    camera_of,
    clean_range,
    draw,
    provenance,
    write_text,
)

from reward_physics.objects.finder import Found
from reward_physics.observation import Instruments, Observation
from reward_physics.tracks.in_image import ImageTrack

FPS, SIZES_PX, GRAVITIES = (8.0, 16.0, 24.0, 60.0), (6.0, 12.0, 24.0, 40.0), (2.0, 4.0, 9.81, 16.0)
FLOW_NOISE_PX, DEPTH_NOISE, DEPTH_BIAS, SPEED_SD_M_S = 0.2, 0.05, 0.02, 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """What intervals do in one cell: shares of the measured draws, and sizes in shares of g."""

    fps: float
    diameter_px: float
    g_m_s2: float
    flow: bool
    draws: int
    impossible: float
    """Share of the draws with under five clean frames."""
    refused: float
    """Share of the others that were not measured."""
    wrongly: float
    """Share of the impossible draws that were measured; NaN without any."""
    covered: float
    width: float
    """Median width over that of the oracle."""
    score: float
    """Mean interval score over g."""
    oracle_score: float


def correlated(rng: np.random.Generator, shape: tuple[int, ...], sd_B: np.ndarray, rho_B: np.ndarray) -> np.ndarray:
    """Noise (B, T, ...) of stationary standard deviation `sd_B` and autocorrelation `rho_B` over T."""
    white = rng.standard_normal(shape)
    noise = white.copy()
    rho = rho_B.reshape(-1, *(1,) * (len(shape) - 2))
    for t in range(1, shape[1]):
        noise[:, t] = rho * noise[:, t - 1] + np.sqrt(1 - rho**2) * white[:, t]
    return noise * sd_B.reshape(-1, *(1,) * (len(shape) - 1))


def noisy(drawn: list[Drawn], rng: np.random.Generator, *, flow: bool) -> tuple[Observation, np.ndarray, np.ndarray]:
    """An Observation whose track has simulated noise, and each clip's noise: standard deviation (px), correlation."""
    count, frames = len(drawn), drawn[0].cell.frames
    time = np.arange(frames) / drawn[0].cell.fps
    speed = SPEED_SD_M_S * rng.standard_normal(count)
    world = np.stack([clip.centre_T3 for clip in drawn])
    world[..., 1] += speed[:, None] * time
    camera = camera_of(drawn)
    uv, depth = camera.project(torch.tensor(world))
    sd, rho = 0.1 * 2 ** rng.uniform(-1, 1, count), rng.choice((0.0, 0.5), count)
    seen = uv + torch.tensor(correlated(rng, (count, frames, 2), sd, rho))
    scale = 1 + DEPTH_BIAS * rng.standard_normal((count, 1))
    scale = scale * (1 + correlated(rng, (count, frames), np.full(count, DEPTH_NOISE), rho))
    radius = torch.tensor([[clip.cell.radius_m] for clip in drawn])
    radius_px = camera.focal_px_B[:, None] * radius / (depth.square() - radius.square()).sqrt()
    # What is measured of a ball is its silhouette, whose centroid lies farther out than the ball's centre.
    middle = drawn[0].cell.side_px / 2
    seen = middle + (seen - middle) * (1 + (radius / depth).square())[..., None]
    inside = ((uv - radius_px[..., None] > 0) & (uv + radius_px[..., None] < drawn[0].cell.side_px)).all(-1).double()
    moved = None
    if flow:
        noise = correlated(rng, (count, frames - 1, 2), np.full(count, FLOW_NOISE_PX), np.full(count, 0.5))
        nearer = 1 - (2 / 3) * (radius / depth)[:, :-1, None]
        moved = (uv[:, 1:] - uv[:, :-1]) / nearer + torch.tensor(noise)
    track = ImageTrack(
        centroid_BT2=seen,
        area_BT=math.pi * radius_px.square(),
        visible_BT=inside,
        weight_BT=inside,
        flow_BS2=moved,
        surface_depth_BT=None,
        centre_depth_BT=depth * torch.tensor(scale),
        radius_px_BT=radius_px,
        window_BTHW=torch.zeros(1),
    )
    instruments = Instruments(
        depth=lambda *_: None,
        flow=(lambda *_, **__: None) if flow else None,
        depth_bias=DEPTH_BIAS,
        line_of_sight_speed_m_s=SPEED_SD_M_S,
        flow_noise_px=FLOW_NOISE_PX,
    )
    observation = Observation(blank_video(drawn), instruments, grad=False)
    nothing = Found(mask_BTHW=track.weight_BT[..., None, None], reasons=[None] * len(drawn))
    observation.__dict__.update(image_track=track, found=nothing)  # the track is given, and nothing is looked for
    return observation, sd, rho


def oracle_sd(drawn: Drawn, clean: range, px_per_m: float, sd_px: float, rho: float, *, flow: bool) -> float:
    """Standard error of g that the oracle has, m/s^2."""
    frames = list(clean)
    time = np.arange(drawn.cell.frames)[frames] / drawn.cell.fps
    time = time - time.mean()
    design = np.stack((np.ones_like(time), time, time**2 / 2), axis=-1)
    lag = np.abs(np.subtract.outer(np.arange(len(time)), np.arange(len(time))))
    information = design.T @ np.linalg.solve(sd_px**2 * rho**lag, design)
    if flow:
        rows = np.diff(design, axis=0)
        information = information + rows.T @ np.linalg.solve(FLOW_NOISE_PX**2 * 0.5 ** lag[1:, 1:], rows)
    line = design[:, :2].T @ np.linalg.solve(DEPTH_NOISE**2 * rho**lag, design[:, :2])
    line = np.linalg.inv(line + np.diag((0.0, (DISTANCE_M / SPEED_SD_M_S) ** 2)))
    velocity = np.gradient(drawn.centre_T3[frames, 2], time).mean()
    scale = drawn.cell.g_m_s2**2 * (DEPTH_BIAS**2 + line[0, 0]) + (2 * velocity) ** 2 * line[1, 1]
    return math.sqrt(np.linalg.inv(information)[2, 2] / px_per_m**2 + scale)


def score(low: np.ndarray, high: np.ndarray, truth: float) -> np.ndarray:
    """Interval score at 95 %: width + 2 / 0.05 times the distance of the truth from the interval."""
    return high - low + 40 * (np.clip(low - truth, 0, None) + np.clip(truth - high, 0, None))


def measure(fps: float, diameter_px: float, g: float, *, draws: int, flow: bool, seed: int) -> Coverage:
    """Draw one cell and read it."""
    rng = np.random.default_rng((seed, int(fps), int(diameter_px), int(100 * g), flow))
    drawn = []
    for n in range(draws):
        cell = Cell(
            fps=fps,
            g_m_s2=g,
            diameter_px=diameter_px,
            pitch_deg=float(rng.uniform(0, 30)),
            kind=KINDS[n % len(KINDS)],
        )
        drawn.append(draw(cell, int(rng.integers(1 << 30))))
    observation, sd, rho = noisy(drawn, rng, flow=flow)
    fit = observation.fit
    low, high = (x.numpy() for x in fit.g_interval())
    clean, px_per_m = zip(*(clean_range(clip) for clip in drawn), strict=True)
    possible = np.array([len(frames) >= MIN_CLEAN_FRAMES for frames in clean])
    known = fit.measurable_B.numpy()
    counted = possible & known
    oracle = np.array(
        [
            oracle_sd(clip, frames, scale, s, r, flow=flow) if good else math.nan
            for clip, frames, scale, s, r, good in zip(drawn, clean, px_per_m, sd, rho, counted, strict=True)
        ]
    )
    low, high, oracle = low[counted], high[counted], oracle[counted]
    # The oracle's own estimate is normal about the truth: its expected score is 2.337 standard errors a side.
    return Coverage(
        fps=fps,
        diameter_px=diameter_px,
        g_m_s2=g,
        flow=flow,
        draws=draws,
        impossible=float(1 - possible.mean()),
        refused=float((possible & ~known).sum() / max(1, possible.sum())),
        wrongly=float((~possible & known).sum() / (~possible).sum()) if (~possible).any() else math.nan,
        covered=float(((low <= g) & (g <= high)).mean()) if counted.any() else math.nan,
        width=float(np.median((high - low) / (2 * 1.96 * oracle))) if counted.any() else math.nan,
        score=float(score(low, high, g).mean() / g) if counted.any() else math.nan,
        oracle_score=float(2 * 2.337 * oracle.mean() / g) if counted.any() else math.nan,
    )


HEADER = (
    "| fps | diameter (px) | g (m/s²) | flow | under 5 clean frames | of these refused | of the others measured "
    "| covered | width / oracle's | interval score / g | oracle's |"
)


def table(cells: list[Coverage]) -> str:
    """One row per cell, and a summary above."""

    def share(x: float) -> str:
        return "–" if math.isnan(x) else f"{100 * x:.0f} %"

    lines = [HEADER, "|" + "---|" * 11]
    for c in cells:
        row = [f"{c.fps:g}", f"{c.diameter_px:g}", f"{c.g_m_s2:g}", "yes" if c.flow else "no", share(c.impossible)]
        row += [share(1 - c.wrongly), share(1 - c.refused)]
        row += [f"{100 * c.covered:.1f} %", f"{c.width:.2f}", f"{c.score:.3f}", f"{c.oracle_score:.3f}"]
        lines.append("| " + " | ".join(row) + " |")
    covered, width = (np.array([getattr(c, name) for c in cells]) for name in ("covered", "width"))
    within = ((covered >= 0.90) & (covered <= 0.98)).sum()
    summary = (
        f"Coverage {100 * covered.min():.1f} to {100 * covered.max():.1f} %, {100 * covered.mean():.1f} % on average; "
        f"in {within} of {len(cells)} cells within 90 to 98 %. Median width {width.min():.2f} to {width.max():.2f} "
        f"times the oracle's. Interval score {np.mean([c.score for c in cells]):.3f} g on average, the oracle's "
        f"{np.mean([c.oracle_score for c in cells]):.3f} g."
    )
    return summary + "\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500, help="draws a cell (default: %(default)s)")
    parser.add_argument("--fps", type=float, nargs="+", default=FPS, help="frame rates")
    parser.add_argument("--sizes_px", type=float, nargs="+", default=SIZES_PX, help="diameters of the ball, px")
    parser.add_argument("--gravities", type=float, nargs="+", default=GRAVITIES, help="g, m/s^2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("docs/results/measuring_intervals.md"))
    options = parser.parse_args()
    if options.draws < 2:
        parser.error(f"--draws must be at least 2, got {options.draws}")
    cells = []
    for flow, fps, size, g in itertools.product((False, True), options.fps, options.sizes_px, options.gravities):
        cells.append(measure(fps, size, g, draws=options.draws, flow=flow, seed=options.seed))
        print(dataclasses.asdict(cells[-1]), flush=True)
    command = f"python benchmarks/measuring_intervals.py --draws {options.draws} --seed {options.seed}"
    write_text(
        options.output,
        f"# Coverage of the intervals of g\n\n{__doc__ and __doc__.split(chr(10) * 2, 2)[2].strip()}\n\n"
        f"{table(cells)}\n\n{provenance(command)}\n",
    )
    print(table(cells).split("\n", 1)[0])


if __name__ == "__main__":
    main()

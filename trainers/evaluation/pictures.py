"""Pictures of an evaluation: one scene in every arm, the falls of an arm, one clip with its track."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.rows import collate, to_camera
from reward_physics.drawing import charts
from reward_physics.drawing import scenes as report
from trainers.evaluation.arms import true_frames
from trainers.evaluation.measured import MeasuredArm
from trainers.evaluation.readings import Reading

STRIP_FRAMES = 8


class Captions(Protocol):
    """What a film strip says beside its pictures; every report of `trainers.evaluation.reports` does."""

    def note(self, clip: Mapping[str, Any]) -> str: ...
    def true_note(self, row: Mapping[str, Any]) -> str: ...
    def true_rows(self, row: Mapping[str, Any]) -> list[float] | None: ...
    def shows_truth(self, row: Mapping[str, Any]) -> bool: ...


def spread_over(badness: Sequence[float], *, count: int) -> list[int]:
    """Places spread from the best to the worst, the median first; the extremes are left out, NaN counts as worst."""
    order = sorted(range(len(badness)), key=lambda i: badness[i] if math.isfinite(badness[i]) else math.inf)
    shares = sorted(((i + 1) / (count + 1) for i in range(count)), key=lambda share: abs(share - 0.5))
    return list(dict.fromkeys(order[round((len(order) - 1) * share)] for share in shares))


def draw_strip(path: Path, arms: list[MeasuredArm], index: int, colours: Mapping[str, str], captions: Captions) -> Path:
    """One scene in every arm, ticks where the object would be in a right clip."""
    row = arms[0].rows[index]
    strips = [
        report.Strip(
            label=measured.arm.name,
            frames_TCHW=measured.frames[index],
            note=captions.note(measured.figures[index]),
            colour=colours[measured.arm.name],
        )
        for measured in arms
    ]
    if captions.shows_truth(row):
        strips.insert(0, report.Strip(label="simulated", frames_TCHW=true_frames(row), note=captions.true_note(row)))
    count = len(strips[0].frames_TCHW)
    frames = [round(place) for place in np.linspace(0, count - 1, min(STRIP_FRAMES, count))]
    times = [frame / float(row["fps"]) for frame in range(count)]
    title = str(row["caption"]).split(" ,")[0]
    true_rows = captions.true_rows(row)
    return report.film_strip(path, strips, times_s=times, frames=frames, true_rows_px=true_rows, title=title)


def falls_of(measured: MeasuredArm, instrument: str, colour: str) -> charts.Fall:
    """The falls of an arm's clips at rest, by an instrument: drop below the first position until the flight's end."""
    times, drops, g = [], [], []
    for row, readings in zip(measured.rows, measured.readings, strict=True):
        reading: Reading = readings[instrument]
        height = reading.position_T3[:, 2].numpy()
        last = np.flatnonzero(reading.free_T.numpy())
        seen = np.isfinite(height) & (np.arange(len(height)) <= (last[-1] if len(last) else -1))
        if not row["at_rest"] or not seen.any():
            continue
        times.append(reading.time_T.numpy()[seen])
        drops.append(height[seen][0] - height[seen])
        g.append(reading.g_m_s2)
    return charts.Fall(label=measured.arm.name, times_s=times, drops_m=drops, g_m_s2=g, colour=colour)


def draw_track(path: Path, measured: MeasuredArm, index: int, instrument: str) -> Path:
    """One clip with its track and fit, by an instrument."""
    reading: Reading = measured.readings[index][instrument]
    fitted_uv = to_camera(collate([measured.rows[index]])).project(reading.fitted_T3[None])[0][0].numpy()
    return report.tracked_object(
        path,
        measured.frames[index],
        centroid_T2=reading.centroid_T2.numpy(),
        fitted_T2=fitted_uv,
        used_T=reading.free_T.numpy(),
        times_s=reading.time_T.numpy(),
        height_m=reading.position_T3[:, 2].numpy(),
        fitted_height_m=reading.fitted_T3[:, 2].numpy(),
        title=f"{measured.arm.name}: g = {reading.g_m_s2:.2f} ± {reading.stderr_m_s2:.2f} m/s²",
    )

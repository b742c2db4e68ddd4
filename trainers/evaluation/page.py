"""The evaluation to look at: pictures, and one HTML page with the clips side by side, failures first."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from reward_physics.drawing import charts
from reward_physics.drawing import scenes as report
from reward_physics.figures.metrics import STANDARD_G_M_S2
from reward_physics.files.io import write_video
from trainers.clips.folder import write_text
from trainers.clips.making import request_for_row
from trainers.evaluation.arms import true_frames
from trainers.evaluation.tables import details_table, markdown_table

if TYPE_CHECKING:
    from trainers.evaluation.measured import Evaluation, MeasuredArm

STRIP_FRAMES = 8
SCENES_DRAWN = 3


def write_page(folder: Path, evaluation: Evaluation, *, tolerance: float) -> Path:
    """Draw the pictures and write report.html into `folder`."""
    pictures = draw(folder, evaluation, tolerance=tolerance)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE).render(
        settings=evaluation.record["settings"],
        names=[measured.arm.name for measured in evaluation.arms],
        tables=[_rows(text) for text in (markdown_table(evaluation.record), details_table(evaluation.record))],
        notes=[line for line in markdown_table(evaluation.record).splitlines() if line.startswith("- ")],
        pictures=[os.path.relpath(picture, folder) for picture in pictures],
        scenes=_scenes(folder, evaluation, tolerance=tolerance),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def draw(folder: Path, evaluation: Evaluation, *, tolerance: float) -> list[Path]:
    """The pictures of all arms together; returns their paths."""
    arms = evaluation.arms
    colours = charts.arm_colours([measured.arm.name for measured in arms])
    generated = [measured for measured in arms if not measured.arm.is_true]
    readings = {
        measured.arm.name: charts.Readings(
            label=measured.arm.name,
            g_m_s2={name: evaluation.g(measured.arm.name, name).tolist() for name in measured.readings[0]},
            colour=colours[measured.arm.name],
        )
        for measured in arms
    }
    chosen = list(readings.values())
    pictures = [charts.g_by_arm(folder / "g_by_arm.png", chosen, tolerance=tolerance)]
    if generated:
        falls = [falls_of(measured, colours[measured.arm.name]) for measured in generated]
        pictures.append(charts.trajectories(folder / "trajectories.png", falls[:4]))
        for number, index in enumerate(typical_scenes(generated[-1])):
            pictures.append(draw_strip(folder / f"strip_{number}.png", generated, index, colours))
        pictures.append(draw_track(folder / "track.png", generated[-1], typical_scenes(generated[-1])[0]))
    for measured in generated[1:]:
        name = measured.arm.name
        first = readings[generated[0].arm.name]
        path = folder / f"scatter_{name}.png"
        pictures.append(charts.paired_g(path, first, readings[name], instrument=_judge(measured), tolerance=tolerance))
    return pictures


def _judge(measured: MeasuredArm) -> str:
    return list(measured.readings[0])[-1]


def falls_of(measured: MeasuredArm, colour: str) -> charts.Fall:
    """The falls of an arm's clips at rest, by the judge: drop below the first position until the end of the flight."""
    judge = _judge(measured)
    times, drops, g = [], [], []
    for row, readings in zip(measured.rows, measured.readings, strict=True):
        reading = readings[judge]
        height = reading.position_T3[:, 2].numpy()
        last = np.flatnonzero(reading.free_T.numpy())
        seen = np.isfinite(height) & (np.arange(len(height)) <= (last[-1] if len(last) else -1))
        if not row["at_rest"] or not seen.any():
            continue
        times.append(reading.time_T.numpy()[seen])
        drops.append(height[seen][0] - height[seen])
        g.append(reading.g_m_s2)
    return charts.Fall(label=measured.arm.name, times_s=times, drops_m=drops, g_m_s2=g, colour=colour)


def typical_scenes(measured: MeasuredArm, *, count: int = SCENES_DRAWN) -> list[int]:
    """Clips spread over the g error from best to worst, the median first; the extremes are left out."""
    errors = [clip[_judge(measured)]["g_error"] for clip in measured.figures]
    order = sorted(range(len(errors)), key=lambda index: errors[index] if math.isfinite(errors[index]) else math.inf)
    shares = sorted(((i + 1) / (count + 1) for i in range(count)), key=lambda share: abs(share - 0.5))
    return list(dict.fromkeys(order[round((len(order) - 1) * share)] for share in shares))


def draw_strip(path: Path, arms: list[MeasuredArm], index: int, colours: dict[str, str]) -> Path:
    """One scene in every arm, ticks where the object would be at 9.81."""
    row = arms[0].rows[index]
    strips = [
        report.Strip(
            label=measured.arm.name,
            frames_TCHW=measured.frames[index],
            note=g_text(measured.figures[index][_judge(measured)]["g_m_s2"]),
            colour=colours[measured.arm.name],
        )
        for measured in arms
    ]
    if abs(float(row["g_m_s2"]) - 9.81) < 1e-3:
        strips.insert(0, report.Strip(label="simulated", frames_TCHW=true_frames(row), note=g_text(9.81)))
    count = len(strips[0].frames_TCHW)
    frames = [round(place) for place in np.linspace(0, count - 1, min(STRIP_FRAMES, count))]
    times = [frame / float(row["fps"]) for frame in range(count)]
    title = str(row["caption"]).split(" ,")[0]
    return report.film_strip(path, strips, times_s=times, frames=frames, true_rows_px=true_rows(row), title=title)


def true_rows(row: Any) -> list[float]:
    """The picture row (px) of the first object's centre in every frame under 9.81 m/s^2."""
    from data.drops.scenes import Scene
    from data.drops.truth import TrueScene

    return TrueScene(Scene.from_json(str(row["scene"]))).at(STANDARD_G_M_S2).centroid_T2[:, 1].tolist()


def draw_track(path: Path, measured: MeasuredArm, index: int) -> Path:
    """One clip with its track and fit, by the judge."""
    from data.rows import collate, to_camera

    reading = measured.readings[index][_judge(measured)]
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


def g_text(g_m_s2: float) -> str:
    """g in words."""
    return f"{g_m_s2:.2f} m/s²" if math.isfinite(g_m_s2) else "not measured"


def _scenes(folder: Path, evaluation: Evaluation, *, tolerance: float) -> list[dict[str, Any]]:
    """What the page shows of each clip, the worst of the last arm first."""
    last = evaluation.arms[-1]
    judge = _judge(last)
    scenes = []
    for index, row in enumerate(last.rows):
        cells = []
        for measured in evaluation.arms:
            figures = measured.figures[index]
            found = figures[judge]
            cells.append(
                {
                    "video": os.path.relpath(_video(folder, measured, index), folder),
                    "g": g_text(found["g_m_s2"]),
                    "reward_g": g_text(figures[next(iter(measured.readings[index]))]["g_m_s2"]),
                    "good": found["g_error"] <= tolerance,
                    "reason": found["reason"],
                    "area": found["area_ratio"],
                    "iou": found["aligned_iou"],
                }
            )
        error = last.figures[index][judge]["g_error"]
        title = f"{row['id']}: {row['caption']}".replace(" ,", ",")
        scenes.append({"title": title, "cells": cells, "order": -error if math.isfinite(error) else -math.inf})
    return sorted(scenes, key=lambda scene: scene["order"])


def _video(folder: Path, measured: MeasuredArm, index: int) -> Path:
    """The clip's own video where it was made here, otherwise one written now."""
    row = measured.rows[index]
    name = request_for_row(row, measured.seeds[index]).sample.name
    path = folder / "arms" / measured.arm.name / "clips" / f"{name}.mp4"
    if measured.arm.kind == "clips":
        write_video(path, measured.frames[index], fps=float(row["fps"]))
    return path


def _rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Held-out evaluation</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; }
 h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
 .wide { overflow-x: auto; }
 table { border-collapse: collapse; font-size: 13px; }
 th, td { padding: .35rem .7rem; border-bottom: 1px solid #d9dee5; text-align: right; white-space: nowrap; }
 th:first-child, td:first-child { text-align: left; font-weight: 600; }
 img { max-width: 100%; margin: .6rem 0; }
 .scene { border-top: 1px solid #d9dee5; padding: .8rem 0; }
 .scene p { margin: 0 0 .5rem; color: #57606a; font-size: 13px; }
 .clips { display: flex; gap: 12px; flex-wrap: wrap; }
 figure { margin: 0; width: 200px; } video { width: 200px; display: block; border-radius: 4px; }
 figcaption { font-size: 12px; line-height: 1.4; margin-top: .3rem; }
 .good { color: #0072b2; } .miss { color: #b34700; }
</style>
<h1>Held-out evaluation</h1>
<p>{{ settings.scenes }} scenes of {{ settings.split }}{{ ", at rest" if settings.at_rest }};
the same first frames and the same noise in every arm.
Medians with 95 % intervals; shares count every clip, and one that cannot be measured is a miss.</p>
{% for table in tables %}
<div class="wide"><table>
{% for row in table %}
 <tr>{% for cell in row %}{% if loop.first or not loop.first and table[0] is sameas row %}<th>{{ cell }}</th>\
{% else %}<td>{{ cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</table></div>
{% endfor %}
<ul>{% for note in notes %}<li>{{ note[2:] }}</li>{% endfor %}</ul>
{% for picture in pictures %}
<img src="{{ picture }}" alt="{{ picture }}">
{% endfor %}
<h2>Every clip, the worst of {{ names[-1] }} first</h2>
{% for scene in scenes %}
<div class="scene"><p>{{ scene.title }}</p><div class="clips">
{% for cell in scene.cells %}
 <figure><video src="{{ cell.video }}" muted loop playsinline preload="none"></video>
 <figcaption><b>{{ names[loop.index0] }}</b> <span class="{{ 'good' if cell.good else 'miss' }}">{{ cell.g }}</span><br>
 reward's {{ cell.reward_g }}{% if cell.reason %}<br>{{ cell.reason }}{% else %}<br>
 area {{ "%.2f" | format(cell.area) }}, IoU {{ "%.2f" | format(cell.iou) }}{% endif %}</figcaption></figure>
{% endfor %}
</div></div>
{% endfor %}
<script>
 const watch = new IntersectionObserver(entries => entries.forEach(entry => {
   const videos = entry.target.querySelectorAll("video");
   if (!entry.isIntersecting) { videos.forEach(video => video.pause()); return; }
   videos.forEach(video => { video.currentTime = 0; video.play(); });
 }), { threshold: 0.2 });
 document.querySelectorAll(".scene").forEach(scene => watch.observe(scene));
</script>
"""

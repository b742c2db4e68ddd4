"""The evaluation to look at: one HTML page with the tables, the pictures and the clips side by side, failures first."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import jinja2

from reward_physics.files.io import write_video
from trainers.clips.folder import write_text
from trainers.clips.making import request_for_row
from trainers.evaluation.measured import Evaluation, MeasuredArm
from trainers.evaluation.scores import Scores
from trainers.evaluation.tables import details_table, markdown_table, report_of_record


def write_page(folder: Path, evaluation: Evaluation, *, tolerance: float) -> Path:
    """Draw the pictures and write report.html into `folder`."""
    report = report_of_record(evaluation.record)
    pictures = report.draw(folder, evaluation, tolerance=tolerance)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(PAGE).render(
        settings=evaluation.record["settings"],
        names=[measured.arm.name for measured in evaluation.arms],
        tables=[_rows(text) for text in (markdown_table(evaluation.record), details_table(evaluation.record))],
        notes=[line for line in markdown_table(evaluation.record).splitlines() if line.startswith("- ")],
        pictures=[os.path.relpath(picture, folder) for picture in pictures],
        scenes=_scenes(folder, evaluation, report, tolerance=tolerance),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _scenes(folder: Path, evaluation: Evaluation, report: Scores, *, tolerance: float) -> list[dict[str, Any]]:
    """What the page shows of each clip, the worst of the last arm first."""
    last = evaluation.arms[-1]
    scenes = []
    for index, row in enumerate(last.rows):
        cells = []
        for measured in evaluation.arms:
            headline, good, lines = report.caption(measured.figures[index], tolerance=tolerance)
            video = os.path.relpath(_video(folder, measured, index), folder)
            cells.append({"video": video, "headline": headline, "good": good, "lines": lines})
        badness = report.badness(last.figures[index])
        title = f"{row['id']}: {row['caption']}".replace(" ,", ",")
        scenes.append({"title": title, "cells": cells, "order": -badness if math.isfinite(badness) else -math.inf})
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
 <figcaption><b>{{ names[loop.index0] }}</b>
 <span{% if cell.good is not none %} class="{{ 'good' if cell.good else 'miss' }}"{% endif %}>{{ cell.headline }}</span>
 {% for line in cell.lines %}<br>{{ line }}{% endfor %}</figcaption></figure>
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

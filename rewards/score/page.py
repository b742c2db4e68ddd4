"""The report on scored clips: one self-contained HTML file with the object drawn over frames, arc, residuals, energy.

Axes: T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import base64
import io
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment
from matplotlib import rc_context
from matplotlib.figure import Figure

from reward_physics.drawing.charts import GREY, PALETTE, STYLE, TRUTH, WIDTH_IN
from reward_physics.drawing.scenes import spaced, stroboscope
from reward_physics.observation import Observation

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Scored clips</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;margin:.6rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
td.n{font-variant-numeric:tabular-nums}img{max-width:100%}.bad{color:#a33}</style>
<h1>Scored clips</h1><p>{{ recipe }}</p>
{% macro body(clip) %}{% if clip.picture %}
<img alt="object, arc, residuals, height and energy" src="data:image/png;base64,{{ clip.picture }}">{% endif %}
<table>{% for name, value in clip.rows %}<tr><td>{{ name }}</td><td class="n">{{ value }}</td></tr>{% endfor %}</table>
{% if clip.missing %}<p>Not measurable:</p>
<table>{% for name, why in clip.missing.items() %}<tr><td>{{ name }}</td><td>{{ why }}</td></tr>
{% endfor %}</table>{% endif %}{% endmacro %}
{% for clip in clips %}<section><h2>{{ clip.name }}</h2>
{% if clip.error %}<p class="bad">{{ clip.error }}</p>{% else %}{{ body(clip) }}
{% for note in clip.notes %}<p>{{ note }}</p>{% endfor %}
{% for one in clip.objects %}<h3>{{ one.name }}</h3>{{ body(one) }}{% endfor %}
{% endif %}</section>{% endfor %}</html>
"""


def write_report(folder: str | Path, clips: Sequence[Mapping[str, Any]], *, recipe: str) -> Path:
    """Write `index.html`, whole or not at all.

    Args:
        clips: name, error or None, rows (name, value), missing (name -> why), notes, picture (base64 or None) and
            objects: the same of each, where there are several.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = Environment(autoescape=True).from_string(_PAGE).render(clips=clips, recipe=recipe)
    partial = folder / f".index.{uuid.uuid4().hex[:8]}.part"
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, folder / "index.html")
    finally:
        partial.unlink(missing_ok=True)
    return folder / "index.html"


@torch.no_grad()
def draw_clip(observation: Observation, *, unit: str, g: float | None) -> str:
    """The object over the frames, its arc, residuals, height and energy over time, as a base64 PNG.

    Args:
        observation: of one clip; `unit` names what its metres stand for.
        g: gravity in `unit` per s^2 for the head h + v^2 / (2 g), or None: no energy is drawn.
    """
    track, fit = observation.track, observation.fit
    steadies = observation.instruments.finder.steadies
    frames = (observation.steady_frames_BTCHW if steadies else observation.video.frames_BTCHW)[0]
    time = track.time_BT[0].numpy()
    height = track.position_BT3[0, :, 2].double().numpy()
    used = observation.arc.weights_BT[0].numpy() > 0
    seen = track.weight_BT[0].numpy() > 0.1
    centre = track.centroid_BT2[0].double().numpy()
    fitted_3 = fit.position_at(track.time_BT)
    fitted_2 = observation.camera_for_metres().project(fitted_3)[0][0].double().numpy()
    fitted = fitted_3[0, :, 2].double().numpy()
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 5.6), layout="constrained")
        grid = figure.add_gridspec(3, 2, width_ratios=(1.25, 1))
        picture = figure.add_subplot(grid[:, 0])
        chosen = spaced(centre, used, least_px=0.12 * frames.shape[-2])
        picture.imshow(stroboscope(frames, chosen).clamp(0, 1).permute(1, 2, 0).numpy())
        picture.plot(*(fitted_2[used] - 0.5).T, color=PALETTE[1], lw=1.4, label="fitted arc")
        picture.scatter(*(centre[used] - 0.5).T, s=14, color=PALETTE[0], lw=0, label="in the fit")
        picture.scatter(*(centre[seen & ~used] - 0.5).T, s=14, facecolors="none", edgecolors=GREY, label="left out")
        picture.set(xticks=[], yticks=[], xlim=(0, frames.shape[-1]), ylim=(frames.shape[-2], 0))
        picture.legend(fontsize=8, loc="upper right", frameon=True)
        heights, residuals, energy = (figure.add_subplot(grid[row, 1]) for row in range(3))
        heights.plot(time[used], fitted[used], color=PALETTE[1], lw=1.6)
        heights.scatter(time[seen & ~used], height[seen & ~used], s=14, facecolors="none", edgecolors=GREY)
        heights.scatter(time[used], height[used], s=14, color=PALETTE[0], zorder=3)
        heights.set(ylabel=f"height ({unit})")
        residuals.axhline(0, color=TRUTH, lw=0.8)
        residuals.vlines(time[used], 0, (height - fitted)[used], color=PALETTE[0], lw=1.4)
        residuals.set(ylabel=f"residual ({unit})")
        _draw_energy(energy, fit, time, used, fitted, unit, g)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", facecolor="white", dpi=110)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _draw_energy(axes, fit, time: np.ndarray, used: np.ndarray, height: np.ndarray, unit: str, g: float | None) -> None:
    axes.set(xlabel="time (s)", ylabel=f"head ({unit})")
    if g is None or not used.any():
        axes.text(0.5, 0.5, "no energy: g is unknown in this unit", transform=axes.transAxes, ha="center", fontsize=8)
        return
    tau = time[used] - float(fit.mid_time_B[0])
    velocity = fit.velocity_B3[0].double().numpy() + tau[:, None] * fit.accel_B3[0].double().numpy()
    kinetic = np.square(velocity).sum(axis=1) / (2 * g)
    above = height[used] - height[used].min()
    axes.plot(time[used], above + kinetic, color=TRUTH, lw=1.6, label="total")
    axes.plot(time[used], above, color=PALETTE[1], lw=1.2, label="height")
    axes.plot(time[used], kinetic, color=PALETTE[2], lw=1.2, label="v²/2g")
    axes.legend(fontsize=8)

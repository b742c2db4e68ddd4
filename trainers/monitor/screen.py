"""A run as one terminal screen, as a page, and as alarms."""

from __future__ import annotations

import base64
import io
import itertools
import math
import statistics
from collections.abc import Sequence

from jinja2 import Environment
from rich.console import Group
from rich.progress import ProgressBar
from rich.table import Table
from rich.text import Text

from trainers.monitor import resources
from trainers.monitor.resources import RECENT
from trainers.run.records import Run, _or, names, parted

BLOCKS = "▁▂▃▄▅▆▇█"


def alarms(run: Run) -> list[str]:
    """What a person should look at now, one line each."""
    warnings = parted(run)
    measurable = run.series("measurable")
    if len(measurable) >= 2 * RECENT:
        before, after = (statistics.fmean(v for _, v in part) for part in (measurable[:RECENT], measurable[-RECENT:]))
        if after < 0.8 * before:
            warnings.append(
                f"fewer clips can be measured: {before:.0%} at first, {after:.0%} now: objects hide or dissolve"
            )
    dropped = sum(value for _, value in run.series("dropped_gradients")[-RECENT:])
    if dropped:
        warnings.append(f"{dropped:.0f} clips of the last {RECENT} logs gave no finite gradient and were left out")
    saturated = [value for _, value in run.series("saturated")[-RECENT:]]
    if saturated and statistics.fmean(saturated) > 0.05:
        warnings.append(f"{statistics.fmean(saturated):.0%} of the pixels are saturated: the picture is over-exposed")
    if not run.finished and run.idle_s > max(120.0, 20 * _or(run.seconds_a_step, 0.0)):
        warnings.append(f"no figure for {duration(run.idle_s)}: the run has stopped or hangs; resume it with `auto`")
    return warnings + resources.alarms(run.processes)


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s`, `12 s`."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The course of some values in block characters, at most `width` of them."""
    if not values:
        return ""
    edges = [round(i * len(values) / min(width, len(values))) for i in range(min(width, len(values)) + 1)]
    means = [statistics.fmean(values[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1))] for mean in means)


def interval_text(run: Run, name: str) -> str:
    """The last interval of a figure, with a blank before it; nothing where it has none."""
    ends = run.ends(name)
    return f" [{ends[-1][1]:.4g}, {ends[-1][2]:.4g}]" if ends else ""


def screen(run: Run) -> Group:
    """The run as one terminal screen."""
    each = run.seconds_a_step
    left = "finished" if run.finished else f"{duration((run.max_steps - run.step) * each)} left"
    speed = f"{run.clips_a_step / each:.2f} clips a second and process" if each > 0 else "no step yet"
    head = Text(f"{run.folder}: step {run.step} of {run.max_steps}, {left}, {speed}")
    kept = Text(f"checkpoints: {', '.join(run.checkpoints) or 'none'}; last figure {duration(run.idle_s)} ago")
    table = Table("figure", "first", "now", "course", box=None)
    for name in names(run):
        values = [value for _, value in run.series(name)]
        if values:
            recent = statistics.fmean(
                values[-RECENT:] if "/" not in name or name.startswith("rewards/") else values[-1:]
            )
            table.add_row(name, f"{values[0]:.4g}", f"{recent:.4g}{interval_text(run, name)}", sparkline(values))
    held = [Text(line) for line in resources.told(run.processes)]
    warnings = [Text(f"! {line}", style="bold red") for line in alarms(run)]
    bar = ProgressBar(total=max(1, run.max_steps), completed=run.step, width=60)
    return Group(head, bar, kept, table, *held, *warnings)


PAGE = """<!doctype html><meta charset="utf-8"><title>{{ run.folder.name }}</title>
<style>body{font:15px system-ui;margin:2em auto;max-width:62em;color:#222}img{width:30em;margin:.3em}
.alarm{background:#fdd;padding:.5em 1em;margin:.4em 0}td,th{padding:.1em 1em .1em 0;text-align:left}</style>
<h1>{{ run.folder.name }}</h1>
<p>Step {{ run.step }} of {{ run.max_steps }}{% if run.finished %}, finished{% else %},
{{ left }} left{% endif %}. Checkpoints: {{ run.checkpoints | join(", ") or "none" }}.</p>
{% for line in alarms %}<p class="alarm">{{ line }}</p>{% endfor %}
{% for line in held %}<p>{{ line }}</p>{% endfor %}
{% for name, text in intervals %}<p>{{ name }}{{ text }}, 95 % interval over scenes</p>{% endfor %}
{% for name, picture in pictures %}<img alt="{{ name }}" src="data:image/png;base64,{{ picture }}">{% endfor %}
{% if videos %}<h2>Clips</h2>{% for path in videos %}<p>{{ path }}</p>{% endfor %}{% endif %}
"""


def page(run: Run) -> str:
    """The run as one self-contained HTML page: one plot per figure, alarms on top."""
    pictures = [(name, _picture(run, name)) for name in names(run) if run.series(name)]
    videos = sorted(str(path.relative_to(run.folder)) for path in run.folder.glob("eval/*/clips.mp4"))
    left = duration((run.max_steps - run.step) * run.seconds_a_step)
    template = Environment(autoescape=True).from_string(PAGE)
    held = resources.told(run.processes)
    intervals = [
        (name, f" {run.series(name)[-1][1]:.4g}{interval_text(run, name)}") for name in names(run) if run.ends(name)
    ]
    return template.render(
        run=run, left=left, alarms=alarms(run), held=held, pictures=pictures, videos=videos, intervals=intervals
    )


def _picture(run: Run, name: str) -> str:
    """One figure over the steps with its interval, as PNG in base64."""
    from matplotlib.figure import Figure

    points, ends = run.series(name), run.ends(name)
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    if ends:
        steps, lows, highs = zip(*ends, strict=True)
        axes.fill_between(steps, lows, highs, alpha=0.2, linewidth=0)
    axes.plot(*zip(*points, strict=True), "o-" if len(points) < 30 else "-", markersize=3, linewidth=1)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()

"""Watch a run from its files alone, on the terminal or as a page: `python -m trainers.monitor outputs/oro_drops`.

    python -m trainers.monitor outputs/oro_drops --watch 10
    python -m trainers.monitor outputs/oro_drops --html run.html

Reads config.yaml, metrics.jsonl and the names of the checkpoints; nothing of the run is touched, and the run need not
know. Alarms say what a glance at the reward would miss: a reward that rises while its held-out judge falls, objects
that hide, gradients that were dropped, a run that stands still.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from rich.console import Console, Group
from rich.live import Live
from rich.progress import ProgressBar
from rich.table import Table
from rich.text import Text

from trainers import checkpoint as ckpt
from trainers import monitor_resources as resources
from trainers.clips.folder import write_text
from trainers.settings.options import exit_with_one_line, read_yaml
from trainers.tracking import METRICS, PROCESSES, read_metrics

RECENT = 20
"""Steps that a present value is averaged over."""

GUARDS = ("rewards/gates/", "rewards/held_out/")
"""Beginnings of the names of gates, and of rewards that are not trained on."""

BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder says of it."""

    folder: Path
    max_steps: int
    clips_a_step: int
    """Clips of one process and step."""
    lines: list[dict[str, Any]]
    """metrics.jsonl, one a log."""
    processes: list[dict[str, Any]]
    """processes.jsonl, one a log: a list of each figure with one value a process."""
    checkpoints: list[str]
    idle_s: float
    """Seconds since the last figure was written."""
    finished: bool

    @property
    def step(self) -> int:
        return max((int(line["step"]) for line in self.lines), default=0)

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of one figure, where it was logged and is finite."""
        found = [(int(line["step"]), float(line[name])) for line in self.lines if line.get(name) is not None]
        return [(step, value) for step, value in found if math.isfinite(value)]

    @property
    def seconds_a_step(self) -> float:
        """Median of the last steps; NaN before the first."""
        recent = [value for _, value in self.series("seconds")[-RECENT:]]
        return statistics.median(recent) if recent else math.nan


def read_run(folder: str | Path, *, now_s: float | None = None) -> Run:
    """Read a run's folder.

    Args:
        now_s: seconds since the epoch, for the age of the last figure; by default the clock's.

    Raises:
        ValueError: no run there.
    """
    folder = Path(folder)
    for name in ("config.yaml", METRICS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no run of a trainer, it has no {name}: give the output_dir of one")
    config = read_yaml(folder / "config.yaml")
    metrics = folder / METRICS
    lines = read_metrics(metrics)
    step = max((int(line["step"]) for line in lines), default=0)
    max_steps = int(config.get("max_steps", step))
    weights = any(folder.glob("*.safetensors"))
    return Run(
        folder=folder,
        max_steps=max_steps,
        clips_a_step=int(config.get("per_device_train_batch_size", 1))
        * int(config.get("gradient_accumulation_steps", 1)),
        lines=lines,
        processes=read_metrics(folder / PROCESSES) if (folder / PROCESSES).is_file() else [],
        checkpoints=[path.name for path in ckpt.checkpoints(folder)],
        idle_s=(time.time() if now_s is None else now_s) - metrics.stat().st_mtime,
        finished=weights and step >= max_steps,
    )


def alarms(run: Run) -> list[str]:
    """What a person should look at now, one line each."""
    found = parted(run)
    measurable = run.series("measurable")
    if len(measurable) >= 2 * RECENT:
        before, after = (statistics.fmean(v for _, v in part) for part in (measurable[:RECENT], measurable[-RECENT:]))
        if after < 0.8 * before:
            found.append(
                f"fewer clips can be measured: {before:.0%} at first, {after:.0%} now: objects hide or dissolve"
            )
    dropped = sum(value for _, value in run.series("dropped_gradients")[-RECENT:])
    if dropped:
        found.append(f"{dropped:.0f} clips of the last {RECENT} logs gave no finite gradient and were left out")
    saturated = [value for _, value in run.series("saturated")[-RECENT:]]
    if saturated and statistics.fmean(saturated) > 0.05:
        found.append(f"{statistics.fmean(saturated):.0%} of the pixels are saturated: the picture is over-exposed")
    if not run.finished and run.idle_s > max(120.0, 20 * _or(run.seconds_a_step, 0.0)):
        found.append(f"no figure for {duration(run.idle_s)}: the run has stopped or hangs; resume it with `auto`")
    return found + resources.alarms(run.processes)


def parted(run: Run) -> list[str]:
    """Whether the training reward rises while a judge, a reward that is not trained on or a guard falls; a line each.

    A judge's few figures are taken as they are; those of every step are means over `RECENT` steps.
    """
    judges = [_parted(run, name, run.series(name), least=0.0) for name in ("judge/reward", "eval/reward")]
    every_step = [name for name in names(run) if name.startswith(GUARDS) and name.endswith("/mean")]
    guards = [_parted(run, name, _blocks(run.series(name)), least=0.05) for name in every_step]
    return [line for line in judges if line][:1] + [line for line in guards if line]


def _parted(run: Run, name: str, course: list[tuple[int, float]], *, least: float) -> str | None:
    """What to say where a figure fell from its best by a third of its range, and by `least`, as the reward rose."""
    reward = run.series("reward")
    if len(course) < 3 or not reward:
        return None
    best_step, best = max(course, key=lambda point: point[1])
    last_step, last = course[-1]
    fell = best - last > max(least, 0.3 * (best - min(value for _, value in course)))
    if last_step == best_step or not fell or _around(reward, last_step) <= _around(reward, best_step):
        return None
    return (
        f"reward rises while {name} falls: {best:.3g} at step {best_step}, {last:.3g} at step {last_step}: "
        "look at the clips, the model may be painting what the reward's instruments like"
    )


def _blocks(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means of `RECENT` points each, at the step of the middle one."""
    parts = [points[i : i + RECENT] for i in range(0, len(points) - RECENT + 1, RECENT)]
    return [(part[RECENT // 2][0], statistics.fmean(value for _, value in part)) for part in parts]


def _around(points: Sequence[tuple[int, float]], step: int) -> float:
    """Mean of the values near a step: `RECENT`, or a third of fewer."""
    count = max(1, min(RECENT, len(points) // 3))
    near = sorted(points, key=lambda point: abs(point[0] - step))[:count]
    return statistics.fmean(value for _, value in near)


def _or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other


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


def names(run: Run) -> list[str]:
    """The figures that were logged: rewards first, seconds last, the others between, in the order of the log."""
    seen = list(dict.fromkeys(name for line in run.lines for name in line if name != "step"))
    first = [name for name in seen if name == "reward" or name.startswith(("eval/", "judge/", "rewards/"))]
    last = [name for name in seen if name.startswith("seconds")]
    return first + [name for name in seen if name not in (*first, *last)] + last


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
            table.add_row(name, f"{values[0]:.4g}", f"{recent:.4g}", sparkline(values))
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
{% for name, picture in pictures %}<img alt="{{ name }}" src="data:image/png;base64,{{ picture }}">{% endfor %}
{% if videos %}<h2>Clips</h2>{% for path in videos %}<p>{{ path }}</p>{% endfor %}{% endif %}
"""


def page(run: Run) -> str:
    """The run as one self-contained HTML page: a plot a figure, alarms on top."""
    pictures = [(name, _picture(name, run.series(name))) for name in names(run) if run.series(name)]
    videos = sorted(str(path.relative_to(run.folder)) for path in run.folder.glob("eval/*/clips.mp4"))
    left = duration((run.max_steps - run.step) * run.seconds_a_step)
    template = Environment(autoescape=True).from_string(PAGE)
    held = resources.told(run.processes)
    return template.render(run=run, left=left, alarms=alarms(run), held=held, pictures=pictures, videos=videos)


def _picture(name: str, points: Sequence[tuple[int, float]]) -> str:
    """One figure over the steps, as PNG in base64."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o-" if len(points) < 30 else "-", markersize=3, linewidth=1)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.monitor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="output_dir of a trainer")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="draw again every so many seconds until the end")
    parser.add_argument("--html", metavar="FILE", help="write a page instead of the terminal's screen")
    options = parser.parse_args(arguments)
    if options.watch is not None and not options.watch > 0:
        parser.error(f"--watch must be > 0 seconds, got {options.watch:g}")
    run = read_run(options.run)
    if options.html:
        write_text(options.html, page(run))
        print(f"page: {options.html}")
        return
    console = Console()
    if options.watch is None:
        console.print(screen(run))
        return
    with Live(screen(run), console=console, auto_refresh=False) as live:
        while not run.finished:
            time.sleep(options.watch)
            run = read_run(options.run)
            live.update(screen(run), refresh=True)


if __name__ == "__main__":
    exit_with_one_line(main)

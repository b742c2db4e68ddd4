"""What a run wrote, read back."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.run import checkpoint as ckpt
from trainers.run.tracking import METRICS, PROCESSES, read_metrics
from trainers.settings.options import read_yaml

RECENT = 20
"""Steps that a present value is averaged over."""

GUARDS = ("rewards/gates/", "rewards/held_out/")
"""Beginnings of the names of gates, and of rewards that are not trained on."""


ENDS = ("/low", "/high")
"""Endings of the names of an interval's ends, after the name of the figure."""


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
    """processes.jsonl, one per log: a list of each figure with one value per process."""
    checkpoints: list[str]
    idle_s: float
    """Seconds since the last figure was written."""
    finished: bool

    @property
    def step(self) -> int:
        return max((int(line["step"]) for line in self.lines), default=0)

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of one figure, where it was logged and is finite."""
        points = [(int(line["step"]), float(line[name])) for line in self.lines if line.get(name) is not None]
        return [(step, value) for step, value in points if math.isfinite(value)]

    def ends(self, name: str) -> list[tuple[int, float, float]]:
        """(step, low, high) of the interval of one figure, where it was logged with one."""
        low, high = (dict(self.series(f"{name}{end}")) for end in ENDS)
        return [(step, low[step], high[step]) for step in low if step in high]

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


def _or(value: float, fallback: float) -> float:
    return value if math.isfinite(value) else fallback


def names(run: Run) -> list[str]:
    """The figures that were logged: rewards first, seconds last, the others between, in the order of the log.

    The ends of an interval go with their figure, see `ends`.
    """
    seen = list(dict.fromkeys(name for line in run.lines for name in line if name != "step"))
    seen = [name for name in seen if not (name.endswith(ENDS) and name.rpartition("/")[0] in seen)]
    first = [name for name in seen if name == "reward" or name.startswith(("eval/", "judge/", "rewards/"))]
    last = [name for name in seen if name.startswith("seconds")]
    return first + [name for name in seen if name not in (*first, *last)] + last

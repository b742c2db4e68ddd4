"""What the processes of a run hold and how long they work, read from its files: leaks and stragglers.

    python -m trainers.monitor outputs/oro_drops        tells it below the figures

The slope of memory per hour comes with its standard error: least squares over time, the error widened by the lag-1
autocorrelation r of the residuals,

    se = s sqrt((1 + r) / (1 - r)) / sqrt(sum_i (t_i - mean t)^2),   s^2 = sum_i residual_i^2 / (N - 2)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP_HOURS = 0.25
"""Left out of a slope at most: allocators and caches fill in the first steps."""

WARM_UP_SHARE = 0.25
"""Of a run that is shorter, the share left out."""

FIGURES = {"held_gb": "GB of memory", "gpu_gb": "GB on the GPU", "open_files": "open files"}
RECENT = 20
"""Steps by whose median a process is called slow."""

LEAST = 12
"""Points that a slope needs."""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The course of a figure of one process after the warm-up.

    Args:
        mean: of the figure.
        per_hour, standard_error: its slope and that of the slope; NaN where there are too few points.
        hours: that the slope is read over.
    """

    mean: float
    per_hour: float
    standard_error: float
    hours: float

    @property
    def grows(self) -> bool:
        """Whether it rises by more than three standard errors, and by more than 1 % of its mean an hour."""
        return self.per_hour > max(3 * self.standard_error, 0.01 * abs(self.mean))


def trend(hours: Sequence[float], values: Sequence[float]) -> Trend:
    """The slope of some values over time, the warm-up left out.

    Args:
        hours: of each value, rising.
        values: as many, finite.
    """
    t, y = np.asarray(hours, float), np.asarray(values, float)
    if len(t):
        kept = t - t[0] >= min(WARM_UP_HOURS, WARM_UP_SHARE * (t[-1] - t[0]))
        t, y = t[kept], y[kept]
    mean = float(y.mean()) if len(y) else math.nan
    if len(t) < LEAST or t[-1] == t[0]:
        return Trend(mean=mean, per_hour=math.nan, standard_error=math.nan, hours=0.0)
    t_0 = t - t.mean()
    slope = float(t_0 @ y / (t_0 @ t_0))
    residual = y - y.mean() - slope * t_0
    power = float(residual @ residual)
    r = float(residual[:-1] @ residual[1:]) / power if power > 0 else 0.0
    r = min(max(r, 0.0), 0.99)
    spread = math.sqrt(power / (len(t) - 2))
    error = spread * math.sqrt((1 + r) / (1 - r)) / math.sqrt(float(t_0 @ t_0))
    return Trend(mean=mean, per_hour=slope, standard_error=error, hours=float(t[-1] - t[0]))


def trends(lines: Sequence[dict[str, Any]], name: str) -> list[Trend]:
    """The trend of one figure of each process since the run was last started.

    Args:
        lines: of processes.jsonl.
        name: held_gb, gpu_gb or open_files.
    """
    lines = [line for line in since_start(lines) if name in line and all(math.isfinite(value) for value in line[name])]
    count = min((len(line[name]) for line in lines), default=0)
    hours = [line["elapsed_s"] / 3600 for line in lines]
    return [trend(hours, [line[name][process] for line in lines]) for process in range(count)]


def since_start(lines: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The lines since the run was last resumed, whose clock begins anew."""
    starts = [i for i in range(1, len(lines)) if lines[i]["elapsed_s"] < lines[i - 1]["elapsed_s"]]
    return lines[starts[-1] if starts else 0 :]


def told(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Memory and open files of every process in words, one line each."""
    figures = [(unit, trends(lines, name)) for name, unit in FIGURES.items()]
    count = max(len(courses) for _, courses in figures)
    return [
        f"process {i}: " + "; ".join(_said(courses[i], unit) for unit, courses in figures if len(courses) > i)
        for i in range(count)
    ]


def _said(figure: Trend, unit: str) -> str:
    if not math.isfinite(figure.per_hour):
        return f"{figure.mean:.4g} {unit}"
    course = f"{figure.per_hour:+.3f} ± {2 * figure.standard_error:.3f} an hour over {figure.hours:.1f} h"
    return f"{figure.mean:.4g} {unit} ({course})"


def alarms(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Processes that grow, and the straggler that all processes wait for."""
    warnings = []
    for name, unit in FIGURES.items():
        for process, course in enumerate(trends(lines, name)):
            if course.grows and course.hours >= 0.5:
                warnings.append(
                    f"process {process} grows by {course.per_hour:.3g} ± {2 * course.standard_error:.3f} {unit} an hour"
                )
    recent = [line["seconds"] for line in since_start(lines)[-RECENT:] if len(line.get("seconds", ())) > 1]
    if len(recent) >= 5 and len({len(seconds) for seconds in recent}) == 1:
        each = [statistics.median(column) for column in zip(*recent, strict=True)]
        median_s = statistics.median_low(each)
        slowest = max(each)
        if slowest > 1.3 * median_s and slowest - median_s > 0.1:
            warnings.append(
                f"process {each.index(slowest)} is a straggler: {slowest:.3g} s of work a step, the median process "
                f"{median_s:.3g} s: look at its machine"
            )
    return warnings

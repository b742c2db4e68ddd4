"""Any figure of many clips in one line: intervals over scenes, paired differences, and both as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reward_physics.figures.intervals import Interval, bootstrap_interval, paired_difference

INSTRUMENTS = ("reward", "judge")
"""The two recipes that look at every clip, by the names of their columns."""

RESAMPLES = 1000


def column(figures: Sequence[Mapping[str, Any]], name: str, instrument: str | None = None) -> Tensor:
    """One figure of every clip, NaN where there is none."""
    values = [clip[instrument][name] if instrument else clip[name] for clip in figures]
    return torch.tensor([float("nan") if value is None else float(value) for value in values], dtype=torch.float64)


def scene_means(figures: Sequence[Mapping[str, Any]], values_N: Tensor) -> Tensor:
    """One value per scene: the mean over its seeds of what could be measured, so that an interval counts scenes."""
    return torch.nanmean(by_scene(figures, values_N), dim=-1)


def by_scene(figures: Sequence[Mapping[str, Any]], values_N: Tensor) -> Tensor:
    """values_NS: one row per scene, one column per seed, NaN where there is none."""
    scenes = list(dict.fromkeys(clip["scene"] for clip in figures))
    rows = [values_N[[i for i, clip in enumerate(figures) if clip["scene"] == scene]] for scene in scenes]
    most = max(len(row) for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, most - len(row)), value=math.nan) for row in rows])


def median_of_clips(figures: Sequence[Mapping[str, Any]], values_N: Tensor) -> Interval:
    """Median over the measurable clips; its interval draws scenes, each with all of its seeds."""
    values_NS = by_scene(figures, values_N)
    places_N = torch.arange(len(values_NS), dtype=torch.float64)
    return interval(places_N, lambda places_RN: medians(values_NS[places_RN.long()].flatten(1)))


def interval(values_N: Tensor, statistic: Any) -> Interval:
    generator = torch.Generator().manual_seed(0)
    return bootstrap_interval(values_N, statistic, generator=generator, resamples=RESAMPLES)


def medians(values_RN: Tensor) -> Tensor:
    return torch.nanquantile(values_RN, 0.5, dim=-1)


def means(values_RN: Tensor) -> Tensor:
    return values_RN.mean(-1)


def nan_means(values_RN: Tensor) -> Tensor:
    return torch.nanmean(values_RN, dim=-1)


def score_summary(figures: Sequence[Mapping[str, Any]], instrument: str) -> dict[str, Any]:
    """The mean of one judge's totals with its bootstrap interval over scenes, and the share of clips it measured.

    Clips that could not be measured count with the price that the recipe put on them. Evaluations of before totals were
    kept have none: NaN.
    """
    score_N = scores(figures, instrument)
    measured = [bool(clip[instrument].get("scored")) for clip in figures]
    return {
        "score": interval(scene_means(figures, score_N), nan_means),
        "scored": sum(measured) / len(measured) if torch.isfinite(score_N).any() else math.nan,
    }


def scores(figures: Sequence[Mapping[str, Any]], instrument: str) -> Tensor:
    """One judge's total of every clip; NaN where there is none."""
    values = [clip[instrument].get("score") for clip in figures]
    return torch.tensor([math.nan if value is None else float(value) for value in values], dtype=torch.float64)


def paired(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], before_N: Tensor, after_N: Tensor
) -> tuple[Interval, Interval]:
    """Mean and median over scenes of the difference of one figure.

    The mean comes with Student's t interval and the median with the bootstrap's. A scene that either arm leaves
    unmeasurable is dropped and counted.
    """
    before_S, after_S = scene_means(before, before_N), scene_means(after, after_N)
    # A clip that is hard to measure may read far off: the median difference does not follow it.
    known_S = (after_S - before_S)[torch.isfinite(after_S - before_S)]
    median = replace(interval(known_S, medians), dropped=len(before_S) - len(known_S))
    return paired_difference(before_S, after_S), median


def cell(value: Interval | float, form: str) -> str:
    """A figure in a cell, with its interval where it has one; a dash where there is none."""
    if isinstance(value, Interval):
        if not math.isfinite(value.estimate):
            return "-"
        interval = f" [{value.low:{form}}, {value.high:{form}}]" if math.isfinite(value.low) else ""
        return f"{value.estimate:{form}}{interval}"
    return f"{value:{form}}" if math.isfinite(value) else "-"


def score_cell(summary: Mapping[str, Any]) -> str:
    """A judge's mean score with its interval, and the share that it measured where that is not all."""
    text = cell(summary["score"], ".3f")
    return f"{text} ({summary['scored']:.0%} measured)" if summary["scored"] < 1 else text


def describe(difference: Interval, unit: str = " m/s²", form: str = "+.2f") -> str:
    """A paired difference in words: mean, interval, how many scenes."""
    dropped = f", {difference.dropped} not measurable in both" if difference.dropped else ""
    return (
        f"{difference.estimate:{form}}{unit} [{difference.low:{form}}, {difference.high:{form}}] "
        f"(95 % interval, {difference.count} scenes{dropped})"
    )

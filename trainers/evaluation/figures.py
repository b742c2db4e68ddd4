"""Figures of many clips in one line: medians with bootstrap intervals, shares, paired comparisons, the table."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reward_physics.figures.distributions import ks_distance, spread_within
from reward_physics.figures.intervals import Interval, bootstrap_interval, paired_difference
from reward_physics.figures.metrics import nan_median

INSTRUMENTS = ("reward", "judge")
RESAMPLES = 1000
DETAILS = (
    *(
        "trajectory_l2_m",
        "fall_l2_m",
        "trajectory_l2_px",
        "published_l2",
        "chamfer_px",
        "published_chamfer",
        "iou",
        "published_iou",
    ),
    *("vanished",),
)
"""Figures of one clip whose mean over scenes is told with an interval."""

MOTION = ("energy_rise", "restitution", "galileo", "collision")
"""Those whose median over the measurable scenes is told with an interval."""


def column(figures: Sequence[Mapping[str, Any]], name: str, instrument: str | None = None) -> Tensor:
    """One figure of every clip, NaN where there is none."""
    values = [clip[instrument][name] if instrument else clip[name] for clip in figures]
    return torch.tensor([float("nan") if value is None else float(value) for value in values], dtype=torch.float64)


def scene_means(figures: Sequence[Mapping[str, Any]], values_N: Tensor) -> Tensor:
    """One value a scene: the mean over its seeds of what could be measured, so that an interval counts scenes."""
    return torch.nanmean(by_scene(figures, values_N), dim=-1)


def by_scene(figures: Sequence[Mapping[str, Any]], values_N: Tensor) -> Tensor:
    """values_NS: one row a scene, one column a seed, NaN where there is none."""
    scenes = list(dict.fromkeys(clip["scene"] for clip in figures))
    rows = [values_N[[i for i, clip in enumerate(figures) if clip["scene"] == scene]] for scene in scenes]
    most = max(len(row) for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, most - len(row)), value=math.nan) for row in rows])


def median_of_clips(figures: Sequence[Mapping[str, Any]], values_N: Tensor) -> Interval:
    """Median over the measurable clips; its interval draws scenes, each with all of its seeds."""
    values_NS = by_scene(figures, values_N)
    places_N = torch.arange(len(values_NS), dtype=torch.float64)
    return _interval(places_N, lambda places_RN: _medians(values_NS[places_RN.long()].flatten(1)))


def _interval(values_N: Tensor, statistic: Any) -> Interval:
    generator = torch.Generator().manual_seed(0)
    return bootstrap_interval(values_N, statistic, generator=generator, resamples=RESAMPLES)


def _medians(values_RN: Tensor) -> Tensor:
    return torch.nanquantile(values_RN, 0.5, dim=-1)


def _means(values_RN: Tensor) -> Tensor:
    return values_RN.mean(-1)


def _nan_means(values_RN: Tensor) -> Tensor:
    return torch.nanmean(values_RN, dim=-1)


def instrument_summary(figures: Sequence[Mapping[str, Any]], instrument: str, *, tolerance: float) -> dict[str, Any]:
    """One instrument's line: medians over the measurable clips, shares over all of them."""
    take = functools.partial(column, figures, instrument=instrument)
    g_N, error_N = take("g_scaled_m_s2"), take("g_error")
    # Intervals count scenes: several seeds of one scene are one draw.
    within_N = scene_means(figures, (error_N <= tolerance).double())
    return {
        "measurable": float(torch.isfinite(g_N).double().mean()),
        "g_m_s2": median_of_clips(figures, g_N),
        "g_error": median_of_clips(figures, error_N),
        "within": _interval(within_N, _means),
        "area_ratio": nan_median(take("area_ratio")),
        "aligned_iou": float(torch.nanmean(take("aligned_iou"))),
        **{name: _interval(scene_means(figures, take(name)), _nan_means) for name in DETAILS},
        **{name: _interval(scene_means(figures, take(name)), _medians) for name in MOTION},
        **spread_figures(figures, g_N),
        "landing_ks": landing_ks(figures, instrument),
    }


def spread_figures(figures: Sequence[Mapping[str, Any]], g_N: Tensor) -> dict[str, float]:
    """How far g differs between the seeds of one scene (median over scenes) and between the scenes' means."""
    means_N = scene_means(figures, g_N)
    means_N = means_N[torch.isfinite(means_N)]
    return {
        "g_spread_within_m_s2": spread_within(by_scene(figures, g_N).T),
        "g_spread_between_m_s2": float(means_N.std()) if len(means_N) > 1 else math.nan,
    }


def landing_ks(figures: Sequence[Mapping[str, Any]], instrument: str) -> Interval:
    """Kolmogorov-Smirnov distance of landing times of clips at rest from the true ones, bootstrapped over scenes."""
    resting = [clip for clip in figures if clip.get("at_rest", True)]
    scenes = list(dict.fromkeys(clip["scene"] for clip in resting))
    found, true = (column(resting, name, instrument) for name in ("landing_s", "true_landing_s"))
    places = [[i for i, clip in enumerate(resting) if clip["scene"] == scene] for scene in scenes]

    def distances(index_RN: Tensor) -> Tensor:
        drawn = [[i for scene in row for i in places[int(scene)]] for row in index_RN.tolist()]
        return torch.tensor([ks_distance(found[row], true[row]) for row in drawn])

    return _interval(torch.arange(len(scenes), dtype=torch.float64), distances)


def summary(figures: Sequence[Mapping[str, Any]], *, tolerance: float) -> dict[str, Any]:
    """An arm's summary: each instrument's, their disagreement, and the image-quality guard."""
    return {
        "clips": len(figures),
        **{name: instrument_summary(figures, name, tolerance=tolerance) for name in INSTRUMENTS},
        "disagreement": nan_median(column(figures, "disagreement")),
        **{name: nan_median(column(figures, name)) for name in ("background_psnr_db", "sharpness", "colour_shift")},
    }


def comparison(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An arm against another on the same scenes and seeds: paired differences by each instrument, and shape.

    Mean differences come with Student's t interval, medians with the bootstrap's, both over scenes; a scene that either
    arm leaves unmeasurable is dropped and counted.
    """
    found: dict[str, Any] = {}
    for instrument in INSTRUMENTS:
        for name in ("g_m_s2", "g_error"):
            pairs = (scene_means(figures, column(figures, name, instrument)) for figures in (before, after))
            before_N, after_N = pairs
            found[f"{instrument}_{name}"] = paired_difference(before_N, after_N)
            # A clip that is hard to measure may read far off: the median difference does not follow it.
            differences_N = (after_N - before_N)[torch.isfinite(after_N - before_N)]
            found[f"{instrument}_{name}_median"] = replace(
                _interval(differences_N, _medians), dropped=len(before_N) - len(differences_N)
            )
        ratio = column(after, "aligned_iou", instrument).nanmean() / column(before, "aligned_iou", instrument).nanmean()
        found[f"{instrument}_aligned_iou_ratio"] = float(ratio)
    return found

"""Figures of many clips of falls in one line: medians with intervals, shares, landing times, paired comparisons."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reward_physics.figures.distributions import ks_distance, spread_within
from reward_physics.figures.intervals import Interval
from reward_physics.figures.metrics import nan_median
from trainers.evaluation.figures import (
    INSTRUMENTS,
    by_scene,
    column,
    interval,
    means,
    median_of_clips,
    medians,
    nan_means,
    paired,
    scene_means,
    score_summary,
    scores,
)

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
"""Figures of one clip whose mean over scenes is reported with an interval."""

MOTION = ("energy_rise", "restitution", "galileo", "collision")
"""Figures whose median over the measurable scenes is reported with an interval."""


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
        "within": interval(within_N, means),
        "area_ratio": nan_median(take("area_ratio")),
        "aligned_iou": float(torch.nanmean(take("aligned_iou"))),
        **{name: interval(scene_means(figures, take(name)), nan_means) for name in DETAILS},
        **{name: interval(scene_means(figures, take(name)), medians) for name in MOTION},
        **spread_figures(figures, g_N),
        "landing_ks": landing_ks(figures, instrument),
        **score_summary(figures, instrument),
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
    landings, true = (column(resting, name, instrument) for name in ("landing_s", "true_landing_s"))
    places = [[i for i, clip in enumerate(resting) if clip["scene"] == scene] for scene in scenes]

    def distances(index_RN: Tensor) -> Tensor:
        drawn = [[i for scene in row for i in places[int(scene)]] for row in index_RN.tolist()]
        return torch.tensor([ks_distance(landings[row], true[row]) for row in drawn])

    return interval(torch.arange(len(scenes), dtype=torch.float64), distances)


def summary(figures: Sequence[Mapping[str, Any]], *, tolerance: float) -> dict[str, Any]:
    """An arm's summary: each instrument's, their disagreement, and the image-quality guard."""
    return {
        "clips": len(figures),
        **{name: instrument_summary(figures, name, tolerance=tolerance) for name in INSTRUMENTS},
        "disagreement": nan_median(column(figures, "disagreement")),
        **{name: nan_median(column(figures, name)) for name in ("background_psnr_db", "sharpness", "colour_shift")},
    }


def comparison(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An arm against another on the same scenes and seeds: paired differences by each instrument, and shape."""
    changes: dict[str, Any] = {}
    for instrument in INSTRUMENTS:
        for name in ("g_m_s2", "g_error"):
            values = (column(figures, name, instrument) for figures in (before, after))
            changes[f"{instrument}_{name}"], changes[f"{instrument}_{name}_median"] = paired(before, after, *values)
        ratio = column(after, "aligned_iou", instrument).nanmean() / column(before, "aligned_iou", instrument).nanmean()
        changes[f"{instrument}_aligned_iou_ratio"] = float(ratio)
        changes[f"{instrument}_score"], changes[f"{instrument}_score_median"] = paired(
            before, after, scores(before, instrument), scores(after, instrument)
        )
    return changes

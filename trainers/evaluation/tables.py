"""The second table of an evaluation: position and shape as corrected and as published, landing, spread, the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reward_physics.intervals import Interval

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("L2 (m)", "trajectory_l2_m", ".2f"),
    ("L2 until impact (m)", "fall_l2_m", ".2f"),
    ("L2 published", "published_l2", ".3f"),
    ("Chamfer (px)", "chamfer_px", ".1f"),
    ("Chamfer published", "published_chamfer", ".3f"),
    ("IoU", "iou", ".3f"),
    ("IoU published", "published_iou", ".3f"),
    ("vanished", "vanished", ".1%"),
    ("landing KS", "landing_ks", ".2f"),
    ("energy rise", "energy_rise", ".3f"),
    ("restitution", "restitution", ".2f"),
    ("Galileo ratio", "galileo", ".2f"),
    ("collision score", "collision", ".3f"),
    ("g spread, seeds", "g_spread_within_m_s2", ".2f"),
    ("g spread, scenes", "g_spread_between_m_s2", ".2f"),
)
"""Header, name in the judge's summary, form."""

PICTURE: tuple[tuple[str, str, str], ...] = (
    ("diversity", "diversity", ".3f"),
    ("background (dB)", "background_psnr_db", ".1f"),
    ("sharpness", "sharpness", ".2f"),
    ("colour shift", "colour_shift", ".3f"),
)
"""The same of the whole arm's summary."""


def details_table(record: Mapping[str, Any]) -> str:
    """By the judge: means over scenes (medians of rise, restitution, ratio, collision), 95 % intervals."""
    header = ["arm", *(name for name, _, _ in (*COLUMNS, *PICTURE))]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, arm in record["arms"].items():
        found = arm["summary"]
        cells = [cell(found["judge"][key], form) for _, key, form in COLUMNS]
        cells += [cell(found[key], form) for _, key, form in PICTURE]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def cell(value: Interval | float, form: str) -> str:
    """A figure in a cell, with its interval where it has one; a dash where there is none."""
    if isinstance(value, Interval):
        if not math.isfinite(value.estimate):
            return "-"
        interval = f" [{value.low:{form}}, {value.high:{form}}]" if math.isfinite(value.low) else ""
        return f"{value.estimate:{form}}{interval}"
    return f"{value:{form}}" if math.isfinite(value) else "-"

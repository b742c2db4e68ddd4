"""The second table of an evaluation: position and shape as corrected and as published, landing, spread, the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reward_physics.figures.intervals import Interval
from trainers.evaluation.measured import INSTRUMENTS

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


HEADER = (
    "arm",
    "measurable",
    "g (m/s²), judge",
    "g error, judge",
    "within {tolerance:.0%}, judge",
    "g (m/s²), reward",
    "g error, reward",
    "disagreement",
    "area ratio",
    "aligned IoU",
    "L2 (m)",
    "background (dB)",
)


def markdown_table(record: Mapping[str, Any]) -> str:
    """The arms as a Markdown table: medians with 95 % intervals, shares of all clips; errors are relative."""
    header = [name.format(tolerance=record["settings"]["tolerance"]) for name in HEADER]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, arm in record["arms"].items():
        lines.append("| " + " | ".join([name, *_cells(arm["summary"])]) + " |")
    for name, found in record["comparisons"].items():
        lines.append("")
        lines.append(f"{name} against {record['against']}, same scenes and noise:")
        for instrument in INSTRUMENTS:
            mean, median = found[f"{instrument}_g_m_s2"], found[f"{instrument}_g_m_s2_median"]
            lines.append(f"- g by the {instrument}: median difference {describe(median)}; mean {describe(mean)}")
        lines.append(f"- aligned IoU {found['judge_aligned_iou_ratio']:.1%} of {record['against']}'s by the judge")
    if any(arm["source"]["kind"] in ("truth", "autoencoder") for arm in record["arms"].values()):
        lines += ["", "truth and autoencoder fall at their scene's own g; theirs is scaled so that right is 9.81."]
    return "\n".join(lines)


def describe(difference: Interval) -> str:
    """A paired difference in words: mean, interval, how many scenes."""
    dropped = f", {difference.dropped} not measurable in both" if difference.dropped else ""
    return (
        f"{difference.estimate:+.2f} m/s² [{difference.low:+.2f}, {difference.high:+.2f}] "
        f"(95 % interval, {difference.count} scenes{dropped})"
    )


def _cells(found: Mapping[str, Any]) -> list[str]:
    reward, judge = found["reward"], found["judge"]
    return [
        f"{judge['measurable']:.0%}",
        _median_cell(judge["g_m_s2"], ".2f"),
        _median_cell(judge["g_error"], ".1%"),
        _median_cell(judge["within"], ".0%"),
        _median_cell(reward["g_m_s2"], ".2f"),
        _median_cell(reward["g_error"], ".1%"),
        f"{found['disagreement']:.1%}",
        f"{judge['area_ratio']:.2f}",
        f"{judge['aligned_iou']:.3f}",
        f"{judge['trajectory_l2_m'].estimate:.2f}",
        f"{found['background_psnr_db']:.1f}",
    ]


def _median_cell(interval: Interval, form: str) -> str:
    return f"{interval.estimate:{form}} [{interval.low:{form}}, {interval.high:{form}}]"

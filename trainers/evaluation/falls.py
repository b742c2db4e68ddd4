"""What an evaluation says of a world of falls: g and the object's path and shape by each instrument, and the scores.

A judge whose instruments give no metres has its score alone: its figures of the fall are NaN, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from reward_physics.drawing import charts
from reward_physics.figures.intervals import Interval
from reward_physics.figures.metrics import nan_median
from reward_physics.video import Video
from trainers.evaluation.clip_figures import clip_figures
from trainers.evaluation.fall_figures import comparison, summary
from trainers.evaluation.figures import INSTRUMENTS, cell, column, describe
from trainers.evaluation.measured import Evaluation, MeasuredArm
from trainers.evaluation.pictures import draw_track, falls_of
from trainers.evaluation.readings import Reading, blind_readings, read, why_blind
from trainers.evaluation.scores import JUDGE, SCORE_HEADER, Headline, Scores, score_cells, score_lines, score_text

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
    *SCORE_HEADER,
)

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
"""Columns of the second table: header, name in the judge's summary, form."""

PICTURE: tuple[tuple[str, str, str], ...] = (
    ("diversity", "diversity", ".3f"),
    ("background (dB)", "background_psnr_db", ".1f"),
    ("sharpness", "sharpness", ".2f"),
    ("colour shift", "colour_shift", ".3f"),
)
"""The same of the whole arm's summary."""


class Falls(Scores):
    """The report of a world whose law is gravity and whose truth is a `TrueFall`."""

    def read(self, observation: Any, video: Video) -> Sequence[Reading]:
        """One reading per clip; blind ones where the judge's instruments follow no object in metres."""
        reason = why_blind(observation)
        return read(observation) if reason is None else blind_readings(video, reason)

    def clip(
        self, frames_TCHW: Tensor, readings: Mapping[str, Reading], row: Mapping[str, Any], *, is_true: bool
    ) -> dict[str, Any]:
        """All figures of one clip: those of each instrument under its name, and how far the two part company."""
        return clip_figures(frames_TCHW, readings, self.truth(row), g_m_s2=self._g(row, is_true=is_true))

    def summary(self, figures: Sequence[Mapping[str, Any]], *, tolerance: float) -> dict[str, Any]:
        """An arm's summary: each instrument's, their disagreement, and the image-quality guard."""
        return summary(figures, tolerance=tolerance)

    def comparison(self, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """An arm against another on the same scenes and seeds."""
        return comparison(before, after)

    def table(self, record: Mapping[str, Any]) -> list[list[str]]:
        """Medians with 95 % intervals, shares of all clips, relative errors, mean scores."""
        rows = [[name.format(tolerance=record["settings"]["tolerance"]) for name in HEADER]]
        return rows + [[name, *_cells(arm["summary"])] for name, arm in record["arms"].items()]

    def details(self, record: Mapping[str, Any]) -> list[list[str]]:
        """By the judge: means over scenes (medians of rise, restitution, ratio, collision), 95 % intervals."""
        rows = [["arm", *(name for name, _, _ in (*COLUMNS, *PICTURE))]]
        for name, arm in record["arms"].items():
            figures = arm["summary"]
            cells = [cell(figures[JUDGE][key], form) for _, key, form in COLUMNS]
            rows.append([name, *cells, *(cell(figures[key], form) for _, key, form in PICTURE)])
        return rows

    def headline(self, evaluation: Evaluation, before: str, after: str) -> Headline:
        """g in two arms by the judge, or its score where it is blind."""
        arms = [evaluation.arm(name).figures for name in (before, after)]
        if all(_is_blind(clip) for clip in arms[0]):
            return super().headline(evaluation, before, after)
        changes = evaluation.record["comparisons"][after]
        medians = [nan_median(column(figures, "g_m_s2", JUDGE)) for figures in arms]
        return Headline(
            name="g",
            unit=" m/s²",
            before=medians[0],
            after=medians[1],
            difference=changes[f"{JUDGE}_g_m_s2_median"],
            mean_difference=changes[f"{JUDGE}_g_m_s2"],
            error_difference=changes[f"{JUDGE}_g_error_median"],
            better="the interval excludes zero: the fall has changed, toward 9.81 m/s²",
            worse="g has changed but not toward 9.81 m/s²: look at report.html",
        )

    def in_a_word(self, figures: Sequence[Mapping[str, Any]]) -> str:
        """The median g of an arm."""
        if all(_is_blind(clip) for clip in figures):
            return super().in_a_word(figures)
        return f"median g {nan_median(column(figures, 'g_scaled_m_s2', JUDGE)):.2f} m/s²"

    def differences(self, changes: Mapping[str, Any], against: str) -> list[str]:
        """The paired differences of g, the shape, and the scores; nothing of g by a judge that reads none."""
        lines = []
        for instrument in INSTRUMENTS:
            mean, median = changes[f"{instrument}_g_m_s2"], changes[f"{instrument}_g_m_s2_median"]
            if mean.count:
                lines.append(f"g by the {instrument}: median difference {describe(median)}; mean {describe(mean)}")
        ratio = changes["judge_aligned_iou_ratio"]
        shape = [f"aligned IoU {ratio:.1%} of {against}'s by the judge"] if math.isfinite(ratio) else []
        return lines + shape + score_lines(changes)

    def notes(self, record: Mapping[str, Any]) -> list[str]:
        """That true clips fall at g of their own."""
        if any(arm["source"]["kind"] in ("truth", "autoencoder") for arm in record["arms"].values()):
            return ["truth and autoencoder fall at their scene's own g; theirs is scaled so that right is 9.81."]
        return []

    def badness(self, clip: Mapping[str, Any]) -> float:
        """The error of g by the judge, or its score where it is blind: it then reads no clip at all."""
        return super().badness(clip) if _is_blind(clip) else clip[JUDGE]["g_error"]

    def note(self, clip: Mapping[str, Any]) -> str:
        """g by the judge, or its score where it is blind."""
        return super().note(clip) if _is_blind(clip) else g_text(clip[JUDGE]["g_m_s2"])

    def caption(self, clip: Mapping[str, Any], *, tolerance: float) -> tuple[str, bool | None, list[str]]:
        """g by both instruments, then why not, or the shape; the judge's score, which comes first where it is blind."""
        judge, reward_g = clip[JUDGE], g_text(clip[INSTRUMENTS[0]]["g_m_s2"])
        shape = f"area {judge['area_ratio']:.2f}, IoU {judge['aligned_iou']:.2f}"
        score = f"score {score_text(clip, JUDGE)}"
        lines = [f"reward's {reward_g}", judge["reason"] or shape]
        if _is_blind(clip):
            return score, None, lines
        lines.append(score)
        return g_text(judge["g_m_s2"]), judge["g_error"] <= tolerance, lines

    def true_note(self, row: Mapping[str, Any]) -> str:
        """The right g."""
        return g_text(self._g(row, is_true=False))

    def true_rows(self, row: Mapping[str, Any]) -> list[float]:
        """The picture row (px) of the first object's centre in every frame under the right g."""
        return self.truth(row).at(self._g(row, is_true=False)).centroid_T2[:, 1].tolist()

    def shows_truth(self, row: Mapping[str, Any]) -> bool:
        """Whether the rendered clip falls at the right g."""
        return abs(self._g(row, is_true=True) - self._g(row, is_true=False)) < 1e-3

    def draw(self, folder: Path, evaluation: Evaluation, *, tolerance: float) -> list[Path]:
        """The pictures of all arms together; those of g only by instruments that read any."""
        arms = evaluation.arms
        colours = charts.arm_colours([measured.arm.name for measured in arms])
        generated = [measured for measured in arms if not measured.arm.is_true]
        seeing = [name for name in arms[0].readings[0] if not arms[0].readings[0][name].blind]
        readings = {
            measured.arm.name: charts.Readings(
                label=measured.arm.name,
                g_m_s2={name: evaluation.g(measured.arm.name, name).tolist() for name in seeing},
                colour=colours[measured.arm.name],
            )
            for measured in arms
        }
        pictures = []
        if seeing:
            pictures.append(charts.g_by_arm(folder / "g_by_arm.png", list(readings.values()), tolerance=tolerance))
        if generated:
            pictures += self._falls(folder, generated, colours, seeing)
        for measured in generated[1:] if seeing else []:
            name, first = measured.arm.name, readings[generated[0].arm.name]
            path = folder / f"scatter_{name}.png"
            pictures.append(charts.paired_g(path, first, readings[name], instrument=seeing[-1], tolerance=tolerance))
        return pictures

    def _falls(
        self, folder: Path, generated: list[MeasuredArm], colours: dict[str, str], seeing: list[str]
    ) -> list[Path]:
        """The generated arms: falls of all clips, film strips of some, the track of one."""
        strips = self.strips(folder, generated)
        if not seeing:
            return strips
        falls = [falls_of(measured, seeing[-1], colours[measured.arm.name]) for measured in generated]
        last = generated[-1]
        track = draw_track(folder / "track.png", last, self.typical(last)[0], seeing[-1])
        return [charts.trajectories(folder / "trajectories.png", falls[:4]), *strips, track]

    def _g(self, row: Mapping[str, Any], *, is_true: bool) -> float:
        g_m_s2 = self.world.law(row, is_true=is_true)
        if g_m_s2 is None:
            raise ValueError(f"the world {self.world.name} has no g, which the report `falls` needs: give it another")
        return g_m_s2


def _is_blind(clip: Mapping[str, Any]) -> bool:
    """Whether the judge follows no object at all: a position that is lost has an error, one never sought has none."""
    return math.isnan(clip[JUDGE]["trajectory_l2_m"])


def g_text(g_m_s2: float) -> str:
    """g in words."""
    return f"{g_m_s2:.2f} m/s²" if math.isfinite(g_m_s2) else "not measured"


def _cells(figures: Mapping[str, Any]) -> list[str]:
    reward, judge = figures["reward"], figures["judge"]
    return [
        f"{judge['measurable']:.0%}",
        _median_cell(judge["g_m_s2"], ".2f"),
        _median_cell(judge["g_error"], ".1%"),
        _median_cell(judge["within"], ".0%"),
        _median_cell(reward["g_m_s2"], ".2f"),
        _median_cell(reward["g_error"], ".1%"),
        cell(figures["disagreement"], ".1%"),
        cell(judge["area_ratio"], ".2f"),
        cell(judge["aligned_iou"], ".3f"),
        cell(judge["trajectory_l2_m"].estimate, ".2f"),
        cell(figures["background_psnr_db"], ".1f"),
        *score_cells(figures),
    ]


def _median_cell(interval: Interval, form: str) -> str:
    if not math.isfinite(interval.estimate):
        return "-"
    return f"{interval.estimate:{form}} [{interval.low:{form}}, {interval.high:{form}}]"

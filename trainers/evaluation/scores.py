"""What an evaluation says of any world: the judges' scores, and the world's own figures against the truth.

A judge need measure nothing: a vision-language model, a server or a function of pixels has a score too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.worlds import World
from reward_physics.drawing import charts
from reward_physics.figures.intervals import Interval
from reward_physics.figures.metrics import nan_median
from reward_physics.video import Video
from trainers.evaluation.figures import (
    INSTRUMENTS,
    cell,
    describe,
    interval,
    nan_means,
    paired,
    scene_means,
    score_cell,
    score_summary,
    scores,
)
from trainers.evaluation.measured import Evaluation, MeasuredArm
from trainers.evaluation.pictures import draw_strip, spread_over

JUDGE = INSTRUMENTS[-1]
SCORE_HEADER = ("score, judge", "score, reward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """One figure before and after a training, by the judge, and what its change means in words.

    Args:
        name, unit: of the figure.
        before, after: medians over the clips.
        difference: median over scenes of after - before, with its bootstrap interval.
        mean_difference: its mean, with Student's t interval.
        error_difference: the same median of the figure's error.
        better, worse: what is said where it has changed by more than chance.
    """

    name: str
    unit: str
    before: float
    after: float
    difference: Interval
    mean_difference: Interval
    error_difference: Interval
    better: str
    worse: str


class Scores:
    """The report of a world without one of its own.

    Args:
        world: whose rows are evaluated.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._truths: dict[str, Any] = {}

    def truth(self, row: Mapping[str, Any]) -> Any:
        """What the world knows of a row's scene, asked once."""
        name = str(row["id"])
        if name not in self._truths:
            self._truths[name] = self.world.truth(row)
        return self._truths[name]

    def read(self, observation: Any, video: Video) -> Sequence[Any]:
        """What an instrument read of each clip: nothing beyond its score."""
        return [None] * video.batch_size

    def clip(
        self, frames_TCHW: Tensor, readings: Mapping[str, Any], row: Mapping[str, Any], *, is_true: bool
    ) -> dict[str, Any]:
        """The figures of one clip: a dictionary per instrument for its score, and the world's own figures."""
        own = self.world.figures(frames_TCHW, row, self.truth(row), is_true=is_true)
        return {name: {} for name in readings} | {"figures": dict(own)}

    def summary(self, figures: Sequence[Mapping[str, Any]], *, tolerance: float) -> dict[str, Any]:
        """An arm's means over scenes with bootstrap intervals; NaN figures are left out."""
        return {
            "clips": len(figures),
            **{name: score_summary(figures, name) for name in INSTRUMENTS},
            "figures": {
                column.name: interval(scene_means(figures, _own(figures, column.name)), nan_means)
                for column in self.world.figure_columns
            },
        }

    def comparison(self, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """An arm against another on the same scenes and seeds: paired differences of scores and figures."""
        changes: dict[str, Any] = {"figures": {}}
        for name in INSTRUMENTS:
            pair = paired(before, after, scores(before, name), scores(after, name))
            changes[f"{name}_score"], changes[f"{name}_score_median"] = pair
        for column in self.world.figure_columns:
            pair = paired(before, after, _own(before, column.name), _own(after, column.name))
            changes["figures"][column.name], changes["figures"][f"{column.name}_median"] = pair
        return changes

    def table(self, record: Mapping[str, Any]) -> list[list[str]]:
        """The arms as rows of cells, the header first."""
        rows = [["arm", "clips", *SCORE_HEADER, *(column.header for column in self.world.figure_columns)]]
        for name, arm in record["arms"].items():
            summary = arm["summary"]
            own = [cell(summary["figures"][column.name], column.form) for column in self.world.figure_columns]
            rows.append([name, str(summary["clips"]), *score_cells(summary), *own])
        return rows

    def details(self, record: Mapping[str, Any]) -> list[list[str]]:
        """The second table, the header first."""
        rows = [["arm", *(f"measured by the {name}" for name in INSTRUMENTS), "diversity"]]
        for name, arm in record["arms"].items():
            summary = arm["summary"]
            shares = [cell(summary[instrument]["scored"], ".0%") for instrument in INSTRUMENTS]
            rows.append([name, *shares, cell(summary["diversity"], ".3f")])
        return rows

    def headline(self, evaluation: Evaluation, before: str, after: str) -> Headline:
        """The judge's score in two arms."""
        changes = evaluation.record["comparisons"][after]
        difference: Interval = changes[f"{JUDGE}_score_median"]
        error = dataclasses.replace(
            difference, estimate=-difference.estimate, low=-difference.high, high=-difference.low
        )
        medians = [nan_median(scores(evaluation.arm(name).figures, JUDGE)) for name in (before, after)]
        return Headline(
            name="score",
            unit="",
            before=medians[0],
            after=medians[1],
            difference=difference,
            mean_difference=changes[f"{JUDGE}_score"],
            error_difference=error,
            better="the interval excludes zero: the judge's score has risen",
            worse="the judge's score has fallen: look at report.html",
        )

    def in_a_word(self, figures: Sequence[Mapping[str, Any]]) -> str:
        """An arm in a few words."""
        return f"median score {nan_median(scores(figures, JUDGE)):.3f}"

    def differences(self, changes: Mapping[str, Any], against: str) -> list[str]:
        """A comparison in words, one line each."""
        return score_lines(changes) + [
            f"{column.header}: median difference {describe(changes['figures'][f'{column.name}_median'], '', '+.3f')}"
            for column in self.world.figure_columns
        ]

    def notes(self, record: Mapping[str, Any]) -> list[str]:
        """What a reader of the table must know, one line each."""
        return []

    def badness(self, clip: Mapping[str, Any]) -> float:
        """How wrong a clip is, by which clips are ordered; NaN where it is unknown."""
        return -clip[JUDGE].get("score", math.nan)

    def note(self, clip: Mapping[str, Any]) -> str:
        """A clip in a word or two, beside its picture."""
        return score_text(clip, JUDGE)

    def caption(self, clip: Mapping[str, Any], *, tolerance: float) -> tuple[str, bool | None, list[str]]:
        """A clip below its video: its headline, whether that is good (None: not said), and further lines."""
        own = clip["figures"]
        lines = [f"{column.header} {cell(own[column.name], column.form)}" for column in self.world.figure_columns]
        return f"score {score_text(clip, JUDGE)}", None, [f"reward's {score_text(clip, INSTRUMENTS[0])}", *lines]

    def true_note(self, row: Mapping[str, Any]) -> str:
        """The note beside the rendered clip."""
        return ""

    def true_rows(self, row: Mapping[str, Any]) -> list[float] | None:
        """The picture row (px) of the object in every frame of a right clip, None where the world knows none."""
        return None

    def shows_truth(self, row: Mapping[str, Any]) -> bool:
        """Whether the rendered clip is what a generated one should be."""
        return True

    def draw(self, folder: Path, evaluation: Evaluation, *, tolerance: float) -> list[Path]:
        """The pictures of all arms together; returns their paths."""
        generated = [measured for measured in evaluation.arms if not measured.arm.is_true]
        return self.strips(folder, generated) if generated else []

    def strips(self, folder: Path, generated: list[MeasuredArm]) -> list[Path]:
        """Some scenes of the last arm in every generated arm, as film strips."""
        colours = charts.arm_colours([measured.arm.name for measured in generated])
        return [
            draw_strip(folder / f"strip_{number}.png", generated, index, colours, self)
            for number, index in enumerate(self.typical(generated[-1]))
        ]

    def typical(self, measured: MeasuredArm, *, count: int = 3) -> list[int]:
        """Clips of an arm from the best to the worst, the median first."""
        return spread_over([self.badness(clip) for clip in measured.figures], count=count)


def score_cells(summary: Mapping[str, Any]) -> list[str]:
    """The cells under `SCORE_HEADER`."""
    return [score_cell(summary[JUDGE]), score_cell(summary[INSTRUMENTS[0]])]


def score_lines(changes: Mapping[str, Any]) -> list[str]:
    """The paired differences of the scores in words; nothing of a judge without one."""
    pairs: list[tuple[str, Interval, Interval]] = [
        (name, changes[f"{name}_score_median"], changes[f"{name}_score"]) for name in INSTRUMENTS
    ]
    return [
        f"score by the {name}: median difference {describe(median, '', '+.3f')}; mean {describe(mean, '', '+.3f')}"
        for name, median, mean in pairs
        if math.isfinite(mean.estimate)
    ]


def score_text(clip: Mapping[str, Any], instrument: str) -> str:
    """A clip's score in words."""
    score = clip[instrument].get("score", math.nan)
    if not math.isfinite(score):
        return "none"
    return f"{score:.3f}" if clip[instrument]["scored"] else f"{score:.3f}, not measured"


def _own(figures: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    """One of the world's own figures of every clip."""
    return torch.tensor([float(clip["figures"].get(name, math.nan)) for clip in figures], dtype=torch.float64)

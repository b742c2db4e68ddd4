"""Adversarial noise: slow falls whose pixels are changed, within a bound, to please a recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from trainers.learning.scoring import Scorer
from trainers.redteam.attacks import adversarial_noise, apply
from trainers.redteam.scenes import TrueClip

BOUNDS = (2 / 255, 4 / 255, 8 / 255)


def attacked(clip: TrueClip, recipe: Any, judge: Scorer, steps: int) -> list[dict[str, float]]:
    """The gains on one clip, one record per bound.

    The clip is alone, so an unmeasurable clip has the recipe's own price.
    """
    true, slow = clip.video, apply("slow_motion", clip.cut, 1, torch.Generator())
    columns = {"reference_BTCHW": clip.reference_BTCHW, "caption": [clip.caption]}
    estimators = recipe.instruments
    # The gradient changes the frames in place of those seen before: nothing may be kept.
    bare = {name: getattr(getattr(estimators, name), "estimator", None) for name in ("flow", "depth")}
    live = dataclasses.replace(
        estimators, **{name: estimator for name, estimator in bare.items() if estimator is not None}
    )

    def by(scorer: Any, frames: Tensor, grad: bool = False) -> Tensor:
        return scorer.score(true.with_frames(frames), columns, grad=grad).total_B

    recipe.instruments = live
    try:
        start, mended = by(recipe, slow), by(recipe, true.frames_BTCHW)
        judged, judged_mended = by(judge, slow), by(judge, true.frames_BTCHW)
        records, best, most = [], slow, start
        for bound in BOUNDS:
            frames = adversarial_noise(slow, lambda frames: by(recipe, frames, True), bound=bound, steps=steps)
            # Noise within a smaller bound lies within this bound too.
            if by(recipe, frames) > most:
                best, most = frames, by(recipe, frames)
            records.append(
                {
                    "bound": round(bound * 255),
                    "gain": float(most - start),
                    "mended": float(mended - start),
                    "judge_gain": float(by(judge, best) - judged),
                    "judge_mended": float(judged_mended - judged),
                }
            )
    finally:
        recipe.instruments = estimators
    return records


def render_noise(records: list[dict[str, Any]]) -> str:
    """The means as a Markdown table."""
    lines = ["## Adversarial noise on slow falls", ""]
    lines += ["| recipe | bound | clips | gain | of a mended fall's | judge's gain | of a mended fall's |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for stem in dict.fromkeys(record["recipe"] for record in records):
        for bound in dict.fromkeys(record["bound"] for record in records):
            group = [record for record in records if (record["recipe"], record["bound"]) == (stem, bound)]
            mean = {
                key: sum(record[key] for record in group) / len(group)
                for key in ("gain", "mended", "judge_gain", "judge_mended")
            }
            lines.append(
                f"| {stem} | {bound}/255 | {len(group)} | {mean['gain']:+.3f} | {mean['gain'] / mean['mended']:.0%} | "
                f"{mean['judge_gain']:+.3f} | {mean['judge_gain'] / mean['judge_mended']:.0%} |"
            )
    return "\n".join([*lines, ""])

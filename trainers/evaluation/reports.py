"""The report of a world by the name that the world gives."""

from __future__ import annotations

from data.worlds import world_of
from trainers.evaluation.falls import Falls
from trainers.evaluation.scores import Scores
from trainers.evaluation.text_scores import TextScores

REPORTS: dict[str, type[Scores]] = {"scores": Scores, "falls": Falls}


def report_of(world: str, *, image_conditioning: bool | None = True) -> Scores:
    """What an evaluation says of a world's clips.

    Args:
        world: its name, see `data.worlds.world_of`.
        image_conditioning: False: the clips show scenes of the model's own, of which the world knows no truth.
    """
    source = world_of(world)
    if image_conditioning is False:
        return TextScores(source)
    if source.report not in REPORTS:
        raise ValueError(f"the world {world} names the report {source.report!r}: give one of {', '.join(REPORTS)}")
    return REPORTS[source.report](source)

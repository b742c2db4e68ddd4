"""The report of a world by the name that the world gives."""

from __future__ import annotations

from data.worlds import world_of
from trainers.evaluation.falls import Falls
from trainers.evaluation.scores import Scores

REPORTS: dict[str, type[Scores]] = {"scores": Scores, "falls": Falls}


def report_of(world: str) -> Scores:
    """What an evaluation says of a world's clips.

    Args:
        world: its name, see `data.worlds.world_of`.
    """
    source = world_of(world)
    if source.report not in REPORTS:
        raise ValueError(f"the world {world} names the report {source.report!r}: give one of {', '.join(REPORTS)}")
    return REPORTS[source.report](source)

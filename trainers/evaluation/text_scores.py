"""What an evaluation says of clips of text alone: scores, since nobody knows the truth of such a scene."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from data.worlds import World
from trainers.evaluation.scores import Scores

NOTE = "the clips are of text alone: scores are of what the clips show, and nothing is compared with the data's scenes."


class TextScores(Scores):
    """Scores without the world's own figures."""

    def __init__(self, world: World) -> None:
        super().__init__(cast(World, types.SimpleNamespace(name=world.name, figure_columns=())))

    def truth(self, row: Mapping[str, Any]) -> Any:
        return None

    def clip(
        self, frames_TCHW: Tensor, readings: Mapping[str, Any], row: Mapping[str, Any], *, is_true: bool
    ) -> dict[str, Any]:
        return {name: {} for name in readings} | {"figures": {}}

    def notes(self, record: Mapping[str, Any]) -> list[str]:
        return [NOTE]

    def shows_truth(self, row: Mapping[str, Any]) -> bool:
        """The rendered clip is of another scene."""
        return False

"""Worlds: where scenes with a known truth come from, and what is known of them.

A world draws the scenes of its splits by number, simulates and renders them to rows, and knows the truth of a row's
scene. `data.drops` is the first. A second one is a class like `Drops` in a folder beside it, named in `WORLDS`; a class
elsewhere is named as `package.module:Class`.

Axes: T frames, C colours, H rows, W columns, 3 colours last.
"""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from torch import Tensor

    from data.split import Split

WORLDS = {"drops": "data.drops.world:Drops"}
"""Module and class of each world by its name. A world is imported when it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One of a world's own figures in a table.

    Args:
        header: over the column.
        name: of the figure in `World.figures`.
        form: how a number is written, such as `.3f`.
    """

    header: str
    name: str
    form: str = ".3f"


class World(ABC):
    """Scenes with a known truth.

    Scenes, motions and truths are of the world's own types: callers hand them back to the world.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    """Names of the distributions that scenes are drawn from."""
    columns: ClassVar[Sequence[str]]
    """Columns of a row that judging needs; `data.rows.BASE_COLUMNS` are among them."""
    heavy_columns: ClassVar[Sequence[str]] = ()
    """Columns of `features` that only estimators learn from; a light split has none."""
    shipped: ClassVar[Path | None] = None
    """Folder of the splits that come with the project, one sub-folder per split."""
    report: ClassVar[str] = "scores"
    """What an evaluation shows of its clips, by a name of `trainers.evaluation.reports`: `scores` shows the judge's
    score and the world's own `figures`; `falls` reads g off the clips and needs a truth like `data.drops.truth`."""
    figure_columns: ClassVar[tuple[Column, ...]] = ()
    """Those of `figures` that a table shows."""

    @abstractmethod
    def draw(self, split: str, number: int, *, frames: int, side_px: int, law: float | None = None) -> Any:
        """Scene `number` of a split; `law` is another value of the law's constant than the scene's own.

        A world that takes `fps` as well draws its scenes at any frame rate.
        """

    @abstractmethod
    def simulate(self, scene: Any) -> Any:
        """The motion of a scene."""

    @abstractmethod
    def render(self, scene: Any, motion: Any) -> np.ndarray:
        """frames_THW3, uint8."""

    @abstractmethod
    def features(self, frames: int, height: int, width: int) -> datasets.Features:
        """The typed columns of a clip of `frames` images of `height` x `width` pixels."""

    @abstractmethod
    def row(self, scene: Any, split: str, motion: Any, frames_THW3: np.ndarray) -> dict[str, Any]:
        """One clip as a row of `features`."""

    @abstractmethod
    def truth(self, row: Mapping[str, Any]) -> Any:
        """What is known of a row's scene, also under another value of the law."""

    def law(self, row: Mapping[str, Any], *, is_true: bool) -> float | None:
        """The right value of the law's constant: a true clip obeys its own scene's, a generated one the world's.

        None: the world has no such constant.
        """
        return None

    def figures(self, frames_TCHW: Tensor, row: Mapping[str, Any], truth: Any, *, is_true: bool) -> Mapping[str, float]:
        """A clip compared with the truth of its scene, without any instrument; NaN where it cannot be compared.

        Figures that need what an instrument reads belong to the judging, in `trainers.evaluation`: see `report`.
        """
        return {}

    def rows(self, split: str, root: str | Path | None = None, columns: Sequence[str] | None = None) -> Split:
        """The rows of a split, below `root` or among those that ship, without the world's heavy columns.

        Raises:
            ValueError: no such split, or no folder where the world ships none.
        """
        from data.rows import load_split

        folder = root or self.shipped
        if folder is None:
            raise ValueError(f"the world {self.name} ships no clips: write some and give the folder of splits")
        return load_split(split, folder, columns, without=self.heavy_columns)


@functools.cache
def world_of(name: str) -> World:
    """The world of a name in `WORLDS`, or of `package.module:Class`.

    Raises:
        ValueError: no such world.
    """
    module, colon, attribute = WORLDS.get(name, name).partition(":")
    if not colon:
        raise ValueError(f"world must be one of {', '.join(WORLDS)} or package.module:Class, got {name!r}")
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"world {name!r} cannot be imported ({error}): give package.module:Class") from error
    if not isinstance(made, World):
        raise ValueError(f"world {name!r} must be a class of data.worlds.World, got {type(made).__name__}")
    return made

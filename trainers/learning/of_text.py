"""Clips that a model made of text alone: it drew a scene of its own, of which the data's row knows nothing.

The row's first mask, its camera, the object's distance and the true clip are another scene's. A recipe that needs one
of them is refused here, and the others are not shown any.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from typing import Any

from data.rows import TENSORS
from reward_physics.video import Video
from rewards.recipe.explain import needs
from trainers.learning.scoring import Scorer

METRES, MASK = "needs: metres", "the object's mask"
"""How `rewards.recipe.explain.needs` says what a reward looks at."""
SCENE_COLUMNS = frozenset({"reference_BTCHW", "radius_m_B", "height_m_B", "impact_times_s", "at_rest_B", "scene"}) | {
    name for name, _ in TENSORS.values()
}
"""Columns that describe the scene which the row's clip shows."""


def without_scene(video: Video) -> Video:
    """The clips with nothing known of their scene."""
    return Video(frames_BTCHW=video.frames_BTCHW, fps_B=video.fps_B)


def columns_of_text(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold for a clip of the row's caption too."""
    return {name: value for name, value in columns.items() if name not in SCENE_COLUMNS}


def scene_needs(recipe: Scorer, *, columns: Collection[str] | None = None) -> list[str]:
    """What a recipe needs to be told of the scene, part by part, by what its instruments and rewards say.

    Args:
        columns: those that there are; by default all that do not describe the row's scene.
    """
    found: Any = recipe
    instruments, config = getattr(found, "instruments", None), getattr(found, "config", None)
    if instruments is None or config is None:
        return []
    said: list[str] = []
    reads_mask, reads_metres = False, False
    for term in [*found.terms, *found.gates, *found.held_out]:
        required = [
            name
            for name, parameter in inspect.signature(term.reward).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and name != "observation"
            and name not in term.parameters
        ]
        lacking = [name for name in required if (name in SCENE_COLUMNS if columns is None else name not in columns)]
        if lacking:
            said.append(
                f"{term.name} needs the column{'s' * (len(lacking) > 1)} {', '.join(lacking)} of the data's row"
            )
            continue
        looked_at = " ".join(needs(term, config))
        reads_mask |= MASK in looked_at or METRES in looked_at
        if METRES in looked_at:
            reads_metres = True
            said.append(f"{term.name} needs metres, and so the camera")
    if reads_metres and instruments.known_distance:
        said.insert(0, "`depth: known` needs the object's distance in the first frame")
    if reads_mask and instruments.finder.needs_first_mask:
        said.insert(0, f"`mask: {instruments.finder.name}` needs the object's mask in the first frame")
    return said


def set_mask_aside(recipe: Scorer) -> None:
    """Let a recipe whose rewards look at no object find none by a first mask, which is not there."""
    judge: Any = getattr(recipe, "inner", recipe)
    instruments = getattr(judge, "instruments", None)
    if instruments is not None and instruments.finder.needs_first_mask:
        judge.instruments = dataclasses.replace(instruments, mask="motion")


def check_without_scene(
    recipe: Scorer, name: str, *, clips: str = "text-to-video", columns: Collection[str] | None = None
) -> None:
    """Refuse a recipe that cannot judge clips whose scene the model drew.

    Args:
        name: of the recipe, in the message.
        clips: what it is to judge, in the message.
        columns: those that there are; by default all that do not describe the row's scene.

    A finder by the first mask that no reward asks is set aside.

    Raises:
        ValueError: its parts that need the row's scene, and what to take in their place.
    """
    said = scene_needs(recipe, columns=columns)
    if said:
        raise ValueError(
            f"{name} cannot judge {clips}, which shares no first frame and no scene with a row of the data: "
            f"{'; '.join(said)}: take `mask: motion` and unit-free rewards such as arc_residual "
            "(configs/recipes/text_to_video.yaml), or a model that is given the row's first frame"
        )
    set_mask_aside(recipe)

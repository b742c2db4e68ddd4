"""Several objects in one clip: separated by the finder, each followed with its identity kept.

Axes: B clips, T frames, N objects, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from reward_physics.objects.finder import Found

if TYPE_CHECKING:
    from reward_physics.observation.observation import Observation
    from reward_physics.video import Video


def known_objects(observation: Observation) -> list[Found]:
    """Each object whose first mask the clips have; empty where they have none."""
    first_BNHW = observation.video.object_masks_BNHW
    return [] if first_BNHW is None else observation.instruments.finder.find_known(observation, first_BNHW)


def video_of_object(video: Video, number: int) -> Video:
    """The same clips with one of their objects for the object."""
    known_BNHW = video.object_masks_BNHW
    first_BHW = video.first_mask_BHW if known_BNHW is None else known_BNHW[:, number]
    return dataclasses.replace(video, first_mask_BHW=first_BHW, object_masks_BNHW=None)

"""The finder `motion`: what moves against the still background, with the camera's own motion taken out."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from reward_physics.objects.finder import Finder, Found, Measurements
from reward_physics.objects.motion import find_all_moving, find_moving

_LEAST_OVERLAP = 0.5


class Motion(Finder):
    """What moves by itself. It needs no network and no first mask, and takes a first mask where there is one.

    The blob of an object that is filmed changes with motion blur, light and what lies behind it, in proportion to its
    size; lens and shutter bend its path. A twentieth of its diameter holds all that.
    """

    name = "motion"
    description = "by what moves against the background, the camera's own motion taken out"
    needs = ("steady_frames_BTCHW", "camera_motions")
    steadies = True
    whole_picture = False
    noise_diameters = 0.05
    shared = ("depth", "camera_motions", "steady_frames_BTCHW")

    def find(self, seen: Measurements) -> Found:
        return _told(seen, find_moving(seen.steady_frames_BTCHW, seen.video.first_mask_BHW, _ticks(seen)))

    def find_all(self, seen: Measurements) -> list[Found]:
        known_BNHW = seen.video.object_masks_BNHW
        if known_BNHW is None and seen.video.first_mask_BHW is not None:
            return []
        objects = find_all_moving(seen.steady_frames_BTCHW, known_BNHW, _ticks(seen))
        return [_told(seen, moving) for moving in objects]


def _told(seen: Measurements, moving: Found) -> Found:
    """The same object; where the camera moves too much, that is the reason."""
    reasons = [
        "camera moves too much: some frames show less than half of the middle one"
        if camera.overlap < _LEAST_OVERLAP
        else reason
        for camera, reason in zip(seen.camera_motions, moving.reasons, strict=True)
    ]
    return dataclasses.replace(moving, reasons=reasons)


def _ticks(seen: Measurements) -> Tensor | None:
    """The frames' times in usual steps; None, for even ones, where the clips have no clock."""
    return getattr(seen.video, "ticks_BT", None)

"""The finder `appearance`: the colours that the object has in the first frame, against a clean background."""

from __future__ import annotations

from reward_physics.objects import masks
from reward_physics.objects.finder import Finder, Found, Measurements


class Appearance(Finder):
    """The pixels whose colours are the object's in the first frame. It needs no network and can serve a judge."""

    name = "appearance"
    description = "by the colours of the first frame"
    needs_first_mask = True

    def find(self, seen: Measurements) -> Found:
        first_BHW = seen.video.first_mask_BHW
        assert first_BHW is not None
        mask_BTHW = masks.by_appearance(seen.video.frames_BTCHW, first_BHW)
        return Found(mask_BTHW=mask_BTHW, reasons=[None] * seen.video.batch_size)

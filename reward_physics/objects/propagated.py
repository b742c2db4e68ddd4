"""The finder `propagated`: the object's first mask, carried along by the flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reward_physics.objects import masks
from reward_physics.objects.finder import Finder, Found, Measurements


class Propagated(Finder):
    """The first frame's mask, moved from frame to frame as the flow inside it goes."""

    name = "propagated"
    description = "the first frame's, carried by the flow"
    needs = ("flow_BSHW2",)
    needs_first_mask = True

    def check(self, *, flow: Callable[..., Any] | None, depth: Callable[..., Any] | None, flow_stride: int) -> None:
        if flow is None or flow_stride != 1:
            raise ValueError("instruments.mask propagated needs a flow estimator with flow_stride 1")

    def find(self, seen: Measurements) -> Found:
        first_BHW = seen.video.first_mask_BHW
        assert first_BHW is not None
        return Found(mask_BTHW=masks.propagated(first_BHW, seen.flow_BSHW2), reasons=[None] * seen.video.batch_size)

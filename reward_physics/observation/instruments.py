"""What an Observation measures with: estimators and settings.

Axes: B clips, T frames, S pairs of frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from reward_physics.estimators.probe import LatentProbe
from reward_physics.laws.kinematics import MIN_FRAMES
from reward_physics.objects.finder import Finder
from reward_physics.objects.finders import finder_of
from reward_physics.objects.probed import Probed

_PROBED = Probed()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruments:
    """What an Observation measures with.

    Args:
        flow: frames_BTCHW, stride -> flow_BSHW2 (a FlowEstimator), or None: positions only.
        depth: frames_BTCHW, camera -> Depth (a DepthEstimator), or None: nothing in metres.
        known_distance: take the object's distance from `Video.object_depth_m_B`, constant over the clip, instead of
            measuring depth.
        first_frame_distance: read the object's distance in the first frame alone and keep it for the clip. Where the
            first frame is given, as in image-to-video, a model cannot change the scale that it is measured with: an
            object that comes down too low in the picture would otherwise look nearer, and its fall slower. For what
            keeps its distance from the camera.
        mask: how the object is found: `segmenter` (the depth estimator's mask), `propagated`, `appearance` or `motion`
            (what moves against the background, with the camera's own motion taken out; flow is then measured in an
            enlarged crop that follows the object), or a `Finder` of one's own.
        probe: an estimator that reads positions off latents, or None. With it the object's path and mask are the
            probe's, `mask` is not consulted, and clips must be a `LatentVideo`. Frames are decoded only for what else
            asks for pixels.
        flow_stride: frames between the two images of a flow, >= 1.
        depth_gradient: let the gradient reach the pixels through depth too. Off by default: an object that seems
            farther seems to fall faster, which is no better fall.
        depth_bias: relative standard deviation of the depth estimator's error for a whole clip; widens the intervals.
        line_of_sight_speed_m_s: prior standard deviation of the speed towards or away from the camera; with 0 the
            distance is one constant per clip, read from all its frames, otherwise a line over the arc.
        floor_height_m: height (world z) of the floor, where it is known: the depth of an object near the floor, whose
            distance the picture shows, is then trusted more than that of one high in the air.
        centroid_noise_px: noise that a mask's centroid is expected to have.
        flow_noise_px: noise that the object's mean flow is expected to have.
        min_frames: shortest free flight that is measured.
    """

    flow: Callable[..., Tensor] | None = None
    depth: Callable[..., Any] | None = None
    known_distance: bool = False
    first_frame_distance: bool = False
    mask: str | Finder = "segmenter"
    probe: LatentProbe | None = None
    flow_stride: int = 1
    depth_gradient: bool = False
    depth_bias: float = 0.02
    line_of_sight_speed_m_s: float = 0.2
    floor_height_m: float | None = None
    centroid_noise_px: float = 0.1
    flow_noise_px: float = 0.2
    min_frames: int = MIN_FRAMES

    def __post_init__(self) -> None:
        finder = self.finder
        if self.flow_stride < 1:
            raise ValueError(f"instruments.flow_stride must be >= 1, got {self.flow_stride}")
        finder.check(flow=self.flow, depth=self.depth, flow_stride=self.flow_stride)

    @property
    def finder(self) -> Finder:
        """What finds the object: the probe's finder, or the one that `mask` names or is."""
        return finder_of(self.mask) if self.probe is None else _PROBED

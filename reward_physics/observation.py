"""Observation: a Video and everything measured on it, lazily and once.

Its grad mode is fixed when it is made: a measurement first read under `torch.no_grad()` still carries the gradient
of an Observation made with `grad=True`, and one made with `grad=False` never does. It is not to be built inside a
checkpointed region.

Axes: B clips, T frames, S pairs of frames, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reward_physics import masks, scale
from reward_physics.arcs import Arc, find_arc
from reward_physics.flights import Flights, Trajectory, find_flights
from reward_physics.homography import CameraMotion, camera_motion, stabilised
from reward_physics.kinematics import MIN_FRAMES, ArcFit, fit_arc
from reward_physics.motion import Moving, find_moving
from reward_physics.tracks import ImageTrack, track_in_image
from reward_physics.trajectories import tracks_of_objects, trajectory_of
from reward_physics.video import Video
from reward_physics.world_tracks import Line, Track, fit_distance, horizontal_distance, track_in_world, trust_near_floor
from reward_physics.zoom import object_flow

if TYPE_CHECKING:
    from reward_physics.camera import Camera
    from reward_physics.depth import Depth


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
        mask: `segmenter` (the depth estimator's mask), `propagated`, `appearance` or `motion` (what moves against the
            background, with the camera's own motion taken out; flow is then measured in an enlarged crop that follows
            the object).
        flow_stride: frames between the two images of a flow, >= 1.
        depth_gradient: let the gradient reach the pixels through depth too. Off by default: an object that seems
            farther seems to fall faster, which is no better fall.
        depth_bias: relative standard deviation of the depth estimator's error for a whole clip; widens the intervals.
        line_of_sight_speed_m_s: prior standard deviation of the speed towards or away from the camera; with 0 the
            distance is one constant a clip, read from all its frames, otherwise a line over the arc.
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
    mask: str = "segmenter"
    flow_stride: int = 1
    depth_gradient: bool = False
    depth_bias: float = 0.02
    line_of_sight_speed_m_s: float = 0.2
    floor_height_m: float | None = None
    centroid_noise_px: float = 0.1
    flow_noise_px: float = 0.2
    min_frames: int = MIN_FRAMES

    def __post_init__(self) -> None:
        if self.mask not in masks.NAMES:
            raise ValueError(f"instruments.mask must be one of {', '.join(masks.NAMES)}, got {self.mask!r}")
        if self.flow_stride < 1:
            raise ValueError(f"instruments.flow_stride must be >= 1, got {self.flow_stride}")
        if self.mask == "segmenter" and self.depth is None:
            raise ValueError(
                "instruments.mask segmenter needs a depth estimator with a mask: name one, or take appearance"
            )
        if self.mask == "propagated" and (self.flow is None or self.flow_stride != 1):
            raise ValueError("instruments.mask propagated needs a flow estimator with flow_stride 1")


def _once(measure: Callable[[Observation], Any]) -> functools.cached_property:
    """A measurement computed at its first reading, in the Observation's own grad mode.

    What it saves for its backward pass is its own: a checkpoint around the first reading would look for it again when
    it computes its region anew, where the measurement is there already.
    """

    @functools.wraps(measure)
    def in_own_grad_mode(self: Observation) -> Any:
        own = torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved)
        with torch.inference_mode(False), torch.set_grad_enabled(self.grad), own:
            return measure(self)

    return functools.cached_property(in_own_grad_mode)


class Observation:
    """Everything measured on a batch of clips.

    Args:
        video: the clips.
        instruments: estimators and settings.
        grad: whether measurements are differentiable to the pixels; fixed here.

    Raises:
        ValueError: `grad=True` with frames that carry no gradient or were made under `torch.inference_mode()`; a mask
            method whose first mask is missing.
    """

    def __init__(self, video: Video, instruments: Instruments, *, grad: bool) -> None:
        frames = video.frames_BTCHW
        if grad and frames.is_inference():
            raise ValueError(
                "frames were made under torch.inference_mode() and can carry no gradient: use torch.no_grad()"
            )
        if grad and not frames.requires_grad:
            raise ValueError("grad=True needs frames that require a gradient: call frames.requires_grad_() first")
        if instruments.mask not in ("segmenter", "motion") and video.first_mask_BHW is None:
            raise ValueError(
                f"mask {instruments.mask!r} needs the object's mask in the first frame: give first_mask_BHW"
            )
        if video.num_frames <= instruments.flow_stride:
            raise ValueError(
                f"a clip of {video.num_frames} frames has no pair {instruments.flow_stride} frames apart: "
                "lower flow_stride"
            )
        self.video = video if grad else video.detached()
        self.instruments = instruments
        self.grad = grad

    @property
    def batch_size(self) -> int:
        return self.video.batch_size

    @_once
    def flow_BSHW2(self) -> Tensor | None:
        """Flow over `flow_stride` frames, px; None without a flow estimator."""
        flow = self.instruments.flow
        return None if flow is None else flow(self.video.frames_BTCHW, stride=self.instruments.flow_stride)

    @_once
    def depth(self) -> Depth | None:
        """Depth and mask logits by the depth estimator; None without one."""
        estimate = self.instruments.depth
        return None if estimate is None else estimate(self.video.frames_BTCHW, self.video.camera)

    @_once
    def mask_BTHW(self) -> Tensor:
        """Soft object mask in [0, 1], by the method that the instruments name."""
        if self.instruments.mask == "segmenter":
            if self.depth.mask_logits_BTHW is None:
                raise ValueError("mask segmenter: the depth estimator gives no mask: choose appearance or propagated")
            return masks.segmenter(self.depth.mask_logits_BTHW)
        if self.instruments.mask == "motion":
            return self.moving.mask_BTHW
        first_mask = self.video.first_mask_BHW
        assert first_mask is not None
        if self.instruments.mask == "propagated":
            return masks.propagated(first_mask, self.flow_BSHW2)
        return masks.by_appearance(self.video.frames_BTCHW, first_mask)

    @_once
    def camera_motions(self) -> list[CameraMotion]:
        """How the camera of every clip moved against its background; detached."""
        return [camera_motion(frames) for frames in self.video.frames_BTCHW]

    @_once
    def steady_frames_BTCHW(self) -> Tensor:
        """The frames as a camera that stands still would have seen them."""
        pairs = zip(self.video.frames_BTCHW, self.camera_motions, strict=True)
        return torch.stack([stabilised(frames, motion) for frames, motion in pairs])

    @_once
    def moving(self) -> Moving:
        """The moving object of every clip."""
        return find_moving(self.steady_frames_BTCHW, self.video.first_mask_BHW)

    @_once
    def image_track(self) -> ImageTrack:
        """The object in pixels."""
        following = self.instruments.mask == "motion"
        depth = None
        if self.depth is not None and self.depth.metric:
            layer = self.depth.object_depth_BTHW
            depth = self.depth.depth_BTHW if layer is None else layer
            depth = depth if self.instruments.depth_gradient else depth.detach()
        track = track_in_image(
            self.mask_BTHW,
            first_mask_BHW=self.video.first_mask_BHW,
            flow_BSHW2=None if following else self.flow_BSHW2,
            stride=self.instruments.flow_stride,
            depth_BTHW=depth,
            camera=self.video.camera,
            window_BTHW=self.moving.window_BTHW if following else None,
        )
        if not following or self.instruments.flow is None:
            return track
        flow, trust = object_flow(
            self.steady_frames_BTCHW,
            self.mask_BTHW * track.window_BTHW,
            centre_BT2=self.moving.centre_BT2,
            radius_B=self.moving.radius_B,
            flow=self.instruments.flow,
            stride=self.instruments.flow_stride,
        )
        # A flow that carries the object elsewhere than its mask went has lost it, however sure of itself.
        centroid, stride = track.centroid_BT2.detach(), self.instruments.flow_stride
        apart_px = (flow.detach() - centroid[:, stride:] + centroid[:, :-stride]).norm(dim=-1)
        trust = trust * (apart_px < 1.0 + 0.1 * self.moving.radius_B[:, None])
        return dataclasses.replace(track, flow_BS2=flow, flow_weight_BS=trust)

    @property
    def no_metres(self) -> str | None:
        """Why nothing can be said in metres, or None. Costs no measurement."""
        if self._scale_is_known:
            return None
        if self.video.camera is None:
            return "the camera is unknown"
        if self.instruments.known_distance:
            known = self.video.object_depth_m_B is not None
            return None if known else "the object's distance is said to be known but the clips lack it"
        if self.instruments.depth is None:
            return "there is no depth estimator"
        if getattr(self.instruments.depth, "metric", True) is False:
            return "the depth estimator gives relative depth"
        return None

    def camera_for_metres(self) -> Camera:
        """The camera, or a ValueError that says why metres are refused."""
        why = self.no_metres
        if why is not None:
            raise ValueError(
                f"metres per second squared are refused: {why}. Give a camera and metric depth, "
                "or use a unit-free reward"
            )
        return self._facing_camera if self.video.camera is None else self.video.camera

    @property
    def _scale_is_known(self) -> bool:
        return self.video.px_per_m_B is not None or self.video.object_diameter_m_B is not None

    @_once
    def _facing_camera(self) -> Camera:
        """Where the scale is known and the camera is not: one that looks straight at the plane of the motion."""
        px_per_m = self.video.px_per_m_B
        if px_per_m is None:
            assert self.video.object_diameter_m_B is not None
            usual = scale.typical_diameter_px(self.diameter_px_BT, self.image_track.weight_BT)
            px_per_m = usual / self.video.object_diameter_m_B.to(usual)
        return scale.facing_camera(px_per_m, self.video.height_px, self.video.width_px)

    @_once
    def diameter_px_BT(self) -> Tensor:
        """Diameter of the object in the picture, px, across its motion blur; detached."""
        return scale.apparent_diameter_px(self.mask_BTHW.detach() * self.image_track.window_BTHW)

    @_once
    def arc(self) -> Arc:
        """The first free flight of every clip; detached."""
        with torch.no_grad():
            camera, image, times = self.camera_for_metres(), self.image_track, self.video.times_BT
            line = self._line(image.weight_BT)
            track = track_in_world(image, camera, line, times, self.instruments.flow_stride)
            right = camera.world_from_camera_B44[:, None, :3, 0].to(track.position_BT3)
            lateral = (track.position_BT3 * right).sum(-1)
            return find_arc(
                time_BT=times,
                position_BTD=torch.stack((lateral, track.position_BT3[..., 2]), dim=-1),
                weight_BT=image.weight_BT,
                sigma_floor_B=self.centroid_noise_px() * track.metres_per_px_BT.median(dim=1).values,
                min_frames=self.instruments.min_frames,
                reasons=self._unseen(),
                at_rest_B=self.video.at_rest_B,
            )

    @_once
    def track(self) -> Track:
        """The object in metres, its distance fitted once over the free flight."""
        camera = self.camera_for_metres()
        weight = self.image_track.weight_BT
        if self.instruments.line_of_sight_speed_m_s > 0:
            flying = self.arc.weights_BT.sum(1, keepdim=True) > 0
            weight = torch.where(flying, self.arc.weights_BT.to(weight), weight)
        line = self._line(weight)
        return track_in_world(self.image_track, camera, line, self.video.times_BT, self.instruments.flow_stride)

    @_once
    def fit(self) -> ArcFit:
        """Constant acceleration fitted to the free flight, with its covariance and the reason where there is none."""
        track, arc = self.track, self.arc
        weight = arc.weights_BT * track.weight_BT.to(arc.weights_BT)
        metres_per_px = (weight * track.metres_per_px_BT).sum(1) / weight.sum(1).clamp(min=1e-6)
        metres_per_px = torch.where(metres_per_px > 0, metres_per_px, torch.ones_like(metres_per_px))
        fit = fit_arc(
            time_BT=track.time_BT,
            position_BTD=track.position_BT3,
            weight_BT=weight,
            sigma_position_B=arc.sigma_B,
            displacement_BSD=track.displacement_BS3,
            displacement_weight_BS=track.image.flow_weight_BS,
            sigma_displacement_B=self._blob_noise_px(self.instruments.flow_noise_px) * metres_per_px,
            stride=self.instruments.flow_stride,
            min_frames=self.instruments.min_frames,
            reasons=arc.reasons,
            at_rest_B=self.video.at_rest_B,
        )
        return fit.with_scale_error(track.scale_sd_B, track.approach_sd_B)

    @_once
    def trajectory(self) -> Trajectory:
        """The object's path in metres, or in the best unit that is known."""
        return trajectory_of(self)

    @_once
    def flights(self) -> Flights:
        """Every free flight and rest of the object, each fitted, with the times at which they meet."""
        return find_flights(self.trajectory, min_frames=self.instruments.min_frames)

    @_once
    def object_tracks(self) -> list[ImageTrack]:
        """One track in pixels for each object whose first mask the clips have; empty where they have none."""
        return tracks_of_objects(self)

    @property
    def track_reasons(self) -> list[str | None]:
        """Why the object of each clip cannot be followed, None where it can."""
        return self._unseen()

    @_once
    def visibility_B(self) -> Tensor:
        """How much of the object is seen over the clip, in [0, 1], differentiable: mean over frames of 1.25 v / (v +
        0.25) with v the share of the object's usual area, so that the last sliver of an object counts most."""
        seen = self.image_track.visible_BT
        return (1.25 * seen / (seen + 0.25)).mean(dim=1)

    @property
    def reasons(self) -> list[str | None]:
        """Why each clip cannot be measured in metres, None where it can."""
        return self.fit.reasons

    def centroid_noise_px(self) -> Tensor:
        """Noise that a centroid is expected to have, (B,) px.

        The blob of an object that is filmed changes with motion blur, light and what lies behind it, in proportion to
        its size; lens and shutter bend its path. A twentieth of its diameter holds all that.
        """
        return self._blob_noise_px(self.instruments.centroid_noise_px)

    def _blob_noise_px(self, least_px: float) -> Tensor:
        least = torch.full_like(self.video.fps_B, least_px)
        if self.instruments.mask != "motion":
            return least
        diameter = scale.typical_diameter_px(self.diameter_px_BT, self.image_track.weight_BT)
        return torch.maximum(least, 0.05 * diameter.to(least))

    def _line(self, weight_BT: Tensor) -> Line:
        camera, image = self.camera_for_metres(), self.image_track
        if self._scale_is_known:
            known_camera = self.video.camera is not None
            return scale.distance_from_scale(
                camera,
                centroid_BT2=image.centroid_BT2.detach(),
                weight_BT=weight_BT,
                time_BT=self.video.times_BT,
                px_per_m_B=self.video.px_per_m_B,
                diameter_m_B=self.video.object_diameter_m_B,
                diameter_BT=None if self.video.px_per_m_B is not None else self.diameter_px_BT,
                speed_sd_m_s=self.instruments.line_of_sight_speed_m_s if known_camera else 0.0,
            )
        if self.instruments.known_distance:
            assert self.video.object_depth_m_B is not None
            first = image.centroid_BT2.detach()[:, :1]
            return Line.constant(
                horizontal_distance(camera, first, self.video.object_depth_m_B.to(first)[:, None])[:, 0].double(),
                relative_sd=self.instruments.depth_bias,
            )
        if image.centre_depth_BT is None:
            raise ValueError("metres per second squared are refused: the depth estimator gave relative depth")
        if self.instruments.first_frame_distance:
            return Line.constant(self._distance_in_first_frame(camera), relative_sd=self.instruments.depth_bias)
        # Where the pixel lies within the arc's parabola is the position's business: distance takes it detached.
        distance = horizontal_distance(camera, image.centroid_BT2.detach(), image.centre_depth_BT)
        if self.instruments.floor_height_m is not None:
            rough = camera.unproject(image.centroid_BT2.detach(), image.centre_depth_BT.detach())
            weight_BT = weight_BT * trust_near_floor(rough[..., 2] - self.instruments.floor_height_m)
        return fit_distance(
            distance,
            self.video.times_BT,
            weight_BT,
            speed_sd_m_s=self.instruments.line_of_sight_speed_m_s,
            bias_sd=self.instruments.depth_bias,
        )

    @torch.no_grad()
    def _distance_in_first_frame(self, camera: Camera) -> Tensor:
        """Horizontal distance of the object (B,), m, by the depth estimator on the first frame alone."""
        assert self.instruments.depth is not None
        depth = self.instruments.depth(self.video.frames_BTCHW[:, :1].detach(), camera)
        layer = depth.depth_BTHW if depth.object_depth_BTHW is None else depth.object_depth_BTHW
        first = track_in_image(
            self.mask_BTHW[:, :1].detach(),
            first_mask_BHW=self.video.first_mask_BHW,
            depth_BTHW=layer,
            camera=camera,
        )
        assert first.centre_depth_BT is not None
        return horizontal_distance(camera, first.centroid_BT2, first.centre_depth_BT)[:, 0].double()

    def _unseen(self) -> list[str | None]:
        image, reasons = self.image_track, []
        enough = (image.weight_BT > 0.1).sum(1) >= self.instruments.min_frames
        seen = (image.visible_BT.detach() > 0.5).sum(1) >= self.instruments.min_frames
        camera = self.camera_for_metres()
        axis_is_level = camera.world_from_camera_B44[:, 2, 2].abs() < 0.9
        for clip in range(self.batch_size):
            if self.instruments.mask == "motion" and self.camera_motions[clip].overlap < 0.5:
                reasons.append("camera moves too much: some frames show less than half of the middle one")
            elif self.instruments.mask == "motion" and self.moving.reasons[clip] is not None:
                reasons.append(self.moving.reasons[clip])
            elif not axis_is_level[clip]:
                reasons.append("camera looks along the fall: steeper than 64 degrees")
            elif enough[clip]:
                reasons.append(None)
            else:
                reasons.append("object leaves the picture" if seen[clip] else "object not visible in enough frames")
        return reasons

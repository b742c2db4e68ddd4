"""Observation: a Video and everything measured on it, lazily and once.

Its grad mode is fixed when it is made: a measurement first read under `torch.no_grad()` still carries the gradient
of an Observation made with `grad=True`, and one made with `grad=False` never does. It is not to be built inside a
checkpointed region.

Axes: B clips, T frames, S pairs of frames, H rows, W columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reward_physics.laws.arcs import Arc, find_arc
from reward_physics.laws.flights import Flights, Trajectory, find_flights
from reward_physics.laws.kinematics import ArcFit, fit_arc
from reward_physics.objects.finder import THE_OBJECT, Found, Positions
from reward_physics.objects.homography import CameraMotion, camera_motion, stabilised
from reward_physics.observation.distance import camera_facing_the_motion, distance_line, why_no_metres
from reward_physics.observation.image import least_noise_px, read_probe, track_of, tracks_of_objects
from reward_physics.observation.instruments import Instruments
from reward_physics.observation.several import known_objects, video_of_object
from reward_physics.observation.trajectories import trajectory_of
from reward_physics.once import once
from reward_physics.tracks import scale
from reward_physics.tracks.in_image import ImageTrack
from reward_physics.tracks.in_metres import Track, track_in_world
from reward_physics.video import Video

if TYPE_CHECKING:
    from reward_physics.camera import Camera
    from reward_physics.estimators.depth import Depth


class Observation:
    """Everything measured on a batch of clips.

    Args:
        video: the clips.
        instruments: estimators and settings.
        grad: whether measurements are differentiable to the pixels, or to the latents of a `LatentVideo`; fixed here.

    Raises:
        ValueError: `grad=True` with frames (or latents) that carry no gradient or were made under
            `torch.inference_mode()`; a finder whose first mask is missing.
    """

    def __init__(self, video: Video, instruments: Instruments, *, grad: bool) -> None:
        thing, source = video.source
        if grad and source.is_inference():
            raise ValueError(
                f"{thing} were made under torch.inference_mode() and can carry no gradient: use torch.no_grad()"
            )
        if grad and not source.requires_grad:
            raise ValueError(f"grad=True needs {thing} that require a gradient: call {thing}.requires_grad_() first")
        if instruments.finder.needs_first_mask and video.first_mask_BHW is None:
            raise ValueError(
                f"mask {instruments.finder.name!r} needs {THE_OBJECT} in the first frame: give first_mask_BHW"
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

    def like_clips(self, values_B: Tensor) -> Tensor:
        """What is said of the clips, on their device and in the type of their frames; nothing is decoded for it."""
        return values_B.to(self.video.device, self.video.dtype)

    @once
    def flow_BSHW2(self) -> Tensor | None:
        """Flow over `flow_stride` frames, px; None without a flow estimator."""
        flow = self.instruments.flow
        return None if flow is None else flow(self.video.frames_BTCHW, stride=self.instruments.flow_stride)

    @once
    def depth(self) -> Depth | None:
        """Depth and mask logits by the depth estimator; None without one."""
        estimate = self.instruments.depth
        return None if estimate is None else estimate(self.video.frames_BTCHW, self.video.camera)

    @once
    def positions(self) -> list[Positions]:
        """What the latent probe reads, one path per object; no frame is decoded for it."""
        return read_probe(self)

    @once
    def found(self) -> Found:
        """The object of every clip, by the instruments' finder."""
        return self.instruments.finder.find(self)

    @once
    def mask_BTHW(self) -> Tensor:
        """Soft object mask with values from 0 to 1, by the instruments' finder."""
        return self.found.mask_BTHW

    @once
    def camera_motions(self) -> list[CameraMotion]:
        """How the camera of every clip moved against its background; detached."""
        return [camera_motion(frames) for frames in self.video.frames_BTCHW]

    @once
    def steady_frames_BTCHW(self) -> Tensor:
        """The frames as a camera that stands still would have seen them."""
        pairs = zip(self.video.frames_BTCHW, self.camera_motions, strict=True)
        return torch.stack([stabilised(frames, motion) for frames, motion in pairs])

    @once
    def image_track(self) -> ImageTrack:
        """The object in pixels."""
        return track_of(self)

    @property
    def no_metres(self) -> str | None:
        """Why nothing can be said in metres, or None. Costs no measurement."""
        return why_no_metres(self)

    def camera_for_metres(self) -> Camera:
        """The camera, or a ValueError that says why metres are refused."""
        why = self.no_metres
        if why is not None:
            raise ValueError(
                f"metres per second squared are refused: {why}. Give a camera and metric depth, "
                "or px_per_m (with training data as a column), or use a unit-free reward"
            )
        return self._facing_camera if self.video.camera is None else self.video.camera

    @once
    def _facing_camera(self) -> Camera:
        return camera_facing_the_motion(self)

    @once
    def diameter_px_BT(self) -> Tensor:
        """Diameter of the object in the picture, px, across its motion blur; detached."""
        return scale.apparent_diameter_px(self.mask_BTHW.detach() * self.image_track.window_BTHW)

    @once
    def arc(self) -> Arc:
        """The first free flight of every clip; detached."""
        with torch.no_grad():
            camera, image, times = self.camera_for_metres(), self.image_track, self.video.times_BT
            line = distance_line(self, image.weight_BT)
            track = track_in_world(image, camera, line, times, self.instruments.flow_stride)
            right = camera.world_from_camera_B44[:, None, :3, 0].to(track.position_BT3)
            lateral = (track.position_BT3 * right).sum(-1)
            return find_arc(
                time_BT=times,
                position_BTD=torch.stack((lateral, track.position_BT3[..., 2]), dim=-1),
                weight_BT=image.weight_BT,
                sigma_floor_B=self.centroid_noise_px() * track.metres_per_px_BT.median(dim=1).values,
                min_frames=self.instruments.min_frames,
                reasons=self.track_reasons,
                at_rest_B=self.video.at_rest_B,
            )

    @once
    def track(self) -> Track:
        """The object in metres, its distance fitted once over the free flight."""
        camera = self.camera_for_metres()
        weight = self.image_track.weight_BT
        if self.instruments.line_of_sight_speed_m_s > 0:
            flying = self.arc.weights_BT.sum(1, keepdim=True) > 0
            weight = torch.where(flying, self.arc.weights_BT.to(weight), weight)
        line = distance_line(self, weight)
        return track_in_world(self.image_track, camera, line, self.video.times_BT, self.instruments.flow_stride)

    @once
    def fit(self) -> ArcFit:
        """Constant acceleration fitted to the free flight, with its covariance and the reason where there is none."""
        track, arc = self.track, self.arc
        weight = arc.weights_BT * track.weight_BT.to(arc.weights_BT)
        metres_per_px = (weight * track.metres_per_px_BT).sum(1) / weight.sum(1).clamp(min=1e-6)
        metres_per_px = torch.where(metres_per_px > 0, metres_per_px, torch.ones_like(metres_per_px))
        flow_noise_px = torch.full_like(self.video.fps_B, self.instruments.flow_noise_px)
        fit = fit_arc(
            time_BT=track.time_BT,
            position_BTD=track.position_BT3,
            weight_BT=weight,
            sigma_position_B=arc.sigma_B,
            displacement_BSD=track.displacement_BS3,
            displacement_weight_BS=track.image.flow_weight_BS,
            sigma_displacement_B=self._blob_noise_px(flow_noise_px) * metres_per_px,
            stride=self.instruments.flow_stride,
            min_frames=self.instruments.min_frames,
            reasons=arc.reasons,
            at_rest_B=self.video.at_rest_B,
        )
        return fit.with_scale_error(track.scale_sd_B, track.approach_sd_B)

    @once
    def trajectory(self) -> Trajectory:
        """The object's path in metres, or in the best unit that is known."""
        return trajectory_of(self)

    @once
    def flights(self) -> Flights:
        """Every free flight and rest of the object, each fitted, with the times at which they meet."""
        return find_flights(self.trajectory, min_frames=self.instruments.min_frames)

    @once
    def known_objects(self) -> list[Found]:
        """Each object whose first mask the clips have; empty where they have none."""
        return known_objects(self)

    @property
    def object_masks(self) -> list[Tensor]:
        """One soft mask (B, T, H, W) for each object whose first mask the clips have; empty where they have none."""
        return [body.mask_BTHW for body in self.known_objects]

    @once
    def object_tracks(self) -> list[ImageTrack]:
        """One track in pixels for each object whose first mask the clips have; empty where they have none."""
        return tracks_of_objects(self)

    @once
    def objects(self) -> list[Observation]:
        """One Observation per object, with everything that this one has, identities kept over the frames.

        Where the first frame's masks are known (`Video.object_masks_BNHW`) they are in that order; otherwise the object
        that this Observation follows comes first. Clips that have fewer objects than others say so in their reasons.
        The estimators are not asked again. A list of this Observation alone where nothing separates several objects.
        """
        objects = self.instruments.finder.find_all(self)
        if len(objects) < 2:
            return [self]
        return [self._of(body, n) for n, body in enumerate(objects)]

    def _of(self, body: Found, number: int) -> Observation:
        """An Observation of one of the objects; measurements of whole clips are taken over."""
        observation = Observation(video_of_object(self.video, number), self.instruments, grad=self.grad)
        observation.__dict__["found"] = body
        observation.__dict__.update({name: getattr(self, name) for name in self.instruments.finder.shared})
        return observation

    @property
    def track_reasons(self) -> list[str | None]:
        """Why the object of each clip cannot be followed, None where it can."""
        image, reasons = self.image_track, []
        enough = (image.weight_BT > 0.1).sum(1) >= self.instruments.min_frames
        seen = (image.visible_BT.detach() > 0.5).sum(1) >= self.instruments.min_frames
        camera = self.camera_for_metres()
        axis_is_level = camera.world_from_camera_B44[:, 2, 2].abs() < 0.9
        for clip in range(self.batch_size):
            if self.found.reasons[clip] is not None:
                reasons.append(self.found.reasons[clip])
            elif not axis_is_level[clip]:
                reasons.append("camera looks along the fall: steeper than 64 degrees")
            elif enough[clip]:
                reasons.append(None)
            else:
                reasons.append(_why_not_whole(image, clip) if seen[clip] else "object not visible in enough frames")
        return reasons

    @once
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
        """Noise that a centroid is expected to have, (B,) px: the instruments', the track's own, or the finder's share
        of the object's diameter, whichever is the most."""
        return self._blob_noise_px(self.least_noise_px())

    def least_noise_px(self) -> Tensor:
        """The same without what grows with the object's size, (B,) px."""
        return least_noise_px(self)

    def _blob_noise_px(self, least_px_B: Tensor) -> Tensor:
        share = self.instruments.finder.noise_diameters
        if share == 0:
            return least_px_B
        diameter = scale.typical_diameter_px(self.diameter_px_BT, self.image_track.weight_BT)
        return torch.maximum(least_px_B, share * diameter.to(least_px_B))


def _why_not_whole(image: ImageTrack, clip: int) -> str:
    """Why an object that is seen is not seen whole: it leaves, or goes along the border, which cuts it all the time."""
    seen = image.visible_BT[clip].detach() > 0.5
    centre, radius = image.centroid_BT2[clip, seen].detach(), image.radius_px_BT[clip, seen].median()
    across = (centre.amax(0) - centre.amin(0)).amin()
    if bool((seen.float().mean() > 0.8) & (across < radius)):
        return "no free flight: the object goes along the picture's border, which cuts it"
    return "object leaves the picture"

"""How far an Observation's object is from its camera, and so how long a metre is: by a known scale or size, a known
distance, or metric depth; or why nothing is known in metres.

Axes: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reward_physics.tracks import scale
from reward_physics.tracks.in_image import track_in_image
from reward_physics.tracks.in_metres import Line, fit_distance, horizontal_distance, trust_near_floor

if TYPE_CHECKING:
    from reward_physics.camera import Camera
    from reward_physics.observation.observation import Observation


def scale_is_known(observation: Observation) -> bool:
    """Whether pixels a metre, or the object's own size, are given."""
    video = observation.video
    return video.px_per_m_B is not None or video.object_diameter_m_B is not None


def why_no_metres(observation: Observation) -> str | None:
    """Why nothing can be said in metres, or None. Costs no measurement."""
    video, instruments = observation.video, observation.instruments
    if scale_is_known(observation):
        return None
    if video.camera is None:
        return "the camera is unknown"
    if instruments.known_distance:
        known = video.object_depth_m_B is not None
        return None if known else "the object's distance is said to be known but the clips lack it"
    if instruments.depth is None:
        return "there is no depth estimator"
    if getattr(instruments.depth, "metric", True) is False:
        return "the depth estimator gives relative depth"
    return None


def reads_depth(observation: Observation) -> bool:
    """Whether metres come from the depth estimator's reading of every frame, and from nothing that is given."""
    instruments = observation.instruments
    given = scale_is_known(observation) or instruments.known_distance or instruments.first_frame_distance
    return not given and why_no_metres(observation) is None


def camera_facing_the_motion(observation: Observation) -> Camera:
    """Where the scale is known and the camera is not: one that looks straight at the plane of the motion."""
    video = observation.video
    px_per_m = video.px_per_m_B
    if px_per_m is None:
        assert video.object_diameter_m_B is not None
        usual = scale.typical_diameter_px(observation.diameter_px_BT, observation.image_track.weight_BT)
        px_per_m = usual / video.object_diameter_m_B.to(usual)
    return scale.facing_camera(px_per_m, video.height_px, video.width_px)


def distance_line(observation: Observation, weight_BT: Tensor) -> Line:
    """Horizontal distance of the object from the camera over the frames of `weight_BT`."""
    video, instruments = observation.video, observation.instruments
    camera, image = observation.camera_for_metres(), observation.image_track
    if scale_is_known(observation):
        known_camera = video.camera is not None
        return scale.distance_from_scale(
            camera,
            centroid_BT2=image.centroid_BT2.detach(),
            weight_BT=weight_BT,
            time_BT=video.times_BT,
            px_per_m_B=video.px_per_m_B,
            diameter_m_B=video.object_diameter_m_B,
            diameter_BT=None if video.px_per_m_B is not None else observation.diameter_px_BT,
            speed_sd_m_s=instruments.line_of_sight_speed_m_s if known_camera else 0.0,
        )
    if instruments.known_distance:
        assert video.object_depth_m_B is not None
        first = image.centroid_BT2.detach()[:, :1]
        return Line.constant(
            horizontal_distance(camera, first, video.object_depth_m_B.to(first)[:, None])[:, 0].double(),
            relative_sd=instruments.depth_bias,
        )
    if image.centre_depth_BT is None:
        raise ValueError("metres per second squared are refused: the depth estimator gave relative depth")
    if instruments.first_frame_distance:
        return Line.constant(_distance_in_first_frame(observation, camera), relative_sd=instruments.depth_bias)
    # Where the pixel lies within the arc's parabola is the position's business: distance takes it detached.
    distance = horizontal_distance(camera, image.centroid_BT2.detach(), image.centre_depth_BT)
    if instruments.floor_height_m is not None:
        rough = camera.unproject(image.centroid_BT2.detach(), image.centre_depth_BT.detach())
        weight_BT = weight_BT * trust_near_floor(rough[..., 2] - instruments.floor_height_m)
    line = fit_distance(
        distance,
        video.times_BT,
        weight_BT,
        speed_sd_m_s=instruments.line_of_sight_speed_m_s,
        bias_sd=instruments.depth_bias,
    )
    size_sd_B = _sd_by_size(observation, camera).to(line.relative_sd_B)
    return dataclasses.replace(line, relative_sd_B=(line.relative_sd_B.square() + size_sd_B.square()).sqrt())


@torch.no_grad()
def _distance_in_first_frame(observation: Observation, camera: Camera) -> Tensor:
    """Horizontal distance of the object (B,), m, by the depth estimator on the first frame alone."""
    assert observation.instruments.depth is not None
    depth = observation.instruments.depth(observation.video.frames_BTCHW[:, :1].detach(), camera)
    layer = depth.depth_BTHW if depth.object_depth_BTHW is None else depth.object_depth_BTHW
    first = track_in_image(
        observation.mask_BTHW[:, :1].detach(),
        first_mask_BHW=observation.video.first_mask_BHW,
        depth_BTHW=layer,
        camera=camera,
    )
    assert first.centre_depth_BT is not None
    return horizontal_distance(camera, first.centroid_BT2, first.centre_depth_BT)[:, 0].double()


@torch.no_grad()
def _sd_by_size(observation: Observation, camera: Camera) -> Tensor:
    """Relative standard error (B,) of the depth estimator's distance for the object's size; 0 where it says none."""
    image, estimator = observation.image_track, observation.instruments.depth
    assert image.centre_depth_BT is not None
    seen = image.weight_BT > 0.1
    radius_px, depth_m = (
        torch.where(seen, x.detach(), torch.nan).nanmedian(1).values.nan_to_num(1.0)
        for x in (image.radius_px_BT, image.centre_depth_BT)
    )
    by_size = getattr(estimator, "size_sd", None)
    if by_size is None:
        return torch.zeros_like(radius_px)
    radius_m = radius_px * depth_m / camera.focal_px_B.to(depth_m)
    return by_size(radius_m, radius_px, min(observation.video.height_px, observation.video.width_px))

"""The paths of objects in the best unit that is known: metres, the camera's distance, or pixels.

What is unit-free (ratios of heads, restitution, Galileo's ratio) needs no scale. Without depth a known camera still
says which way is down: positions are then put at the distance one. Without a camera, down in the image is down.

Axes: B clips, T frames, N objects, K colours of an object, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reward_physics.grid import principal_variances, second_moments
from reward_physics.laws.collisions import Pair
from reward_physics.laws.flights import Trajectory
from reward_physics.tracks.in_image import ImageTrack
from reward_physics.tracks.in_metres import place_at_distance

if TYPE_CHECKING:
    from reward_physics.camera import Camera
    from reward_physics.observation.observation import Observation


def trajectory_of(observation: Observation) -> Trajectory:
    """The object's path with axes (right, away from the camera, up), or (right, up) in pixels."""
    image, times, instruments = observation.image_track, observation.video.times_BT, observation.instruments
    noise_px = observation.centroid_noise_px().double()
    if observation.no_metres is None:
        track, camera = observation.track, observation.camera_for_metres()
        per_px = track.metres_per_px_BT.median(1).values
        moved = track.displacement_BS3
        return Trajectory(
            time_BT=times,
            position_BTD=_facing(track.position_BT3, camera).double(),
            weight_BT=track.weight_BT,
            sigma_B=(noise_px * per_px).double(),
            radius_B=_radius_px(image) * per_px,
            unit="m",
            at_rest_B=observation.video.at_rest_B,
            displacement_BSD=None if moved is None else _facing(moved, camera).double(),
            sigma_displacement_B=instruments.flow_noise_px * per_px,
            stride=instruments.flow_stride,
            reasons=list(observation.track_reasons),
        )
    camera = observation.video.camera
    if camera is None:
        return path_in_pixels(image, times, noise_px, observation.video.at_rest_B)
    uv = image.centroid_BT2.double()
    per_px = 1 / camera.focal_px_B.double()
    return Trajectory(
        time_BT=times,
        position_BTD=_facing(place_at_distance(camera, uv, torch.ones_like(uv[..., 0])), camera),
        weight_BT=image.weight_BT,
        sigma_B=noise_px * per_px,
        radius_B=_radius_px(image) * per_px,
        unit="distance",
        at_rest_B=observation.video.at_rest_B,
    )


def path_in_pixels(
    image: ImageTrack, time_BT: Tensor, noise_px: float | Tensor, at_rest_B: Tensor | None = None
) -> Trajectory:
    """A track in the image as a path (right, up) in pixels."""
    flip = image.centroid_BT2.new_tensor([1.0, -1.0]).double()
    radius = _radius_px(image)
    return Trajectory(
        time_BT=time_BT,
        position_BTD=image.centroid_BT2.double() * flip,
        weight_BT=image.weight_BT,
        sigma_B=torch.ones_like(radius) * _noise_px(image, noise_px),
        radius_B=radius,
        unit="px",
        at_rest_B=at_rest_B,
    )


def pair_in_pixels(observation: Observation) -> tuple[Pair | None, Tensor]:
    """The first two objects as a pair of bodies in the picture (None without `object_masks_BNHW`), and which clips have
    both, (B,)."""
    first_BNHW = observation.video.object_masks_BNHW
    missing_B = torch.zeros(observation.batch_size, dtype=torch.bool, device=observation.video.device)
    if first_BNHW is None or first_BNHW.shape[1] < 2:
        return None, missing_B
    times, noise_px = observation.video.times_BT, observation.instruments.centroid_noise_px
    paths = [path_in_pixels(track, times, noise_px) for track in observation.object_tracks[:2]]
    area_B2 = first_BNHW[:, :2].double().sum((2, 3))
    radius_B2 = _half_extent_px(first_BNHW[:, :2].double(), torch.stack([p.position_BTD[:, 0] for p in paths], dim=1))
    pair = Pair(
        time_BT=times,
        position_B2TD=torch.stack([path.position_BTD for path in paths], dim=1),
        weight_B2T=torch.stack([path.weight_BT for path in paths], dim=1),
        radius_B2=radius_B2,
        sigma_B=paths[0].sigma_B,
        longest_B2=_longest_half_extent_px(first_BNHW[:, :2].double()),
    )
    return pair, (area_B2 >= 1).all(1)


_SDS = 1.87
"""Standard deviations in half an extent: of a square that makes it 8 % too large, of a disc 7 % too small."""


def _longest_half_extent_px(mask_B2HW: Tensor) -> Tensor:
    """Half the extent of two masks along their long axes, (B, 2), px."""
    longest, _ = principal_variances(second_moments(mask_B2HW, least_area=1.0))
    return _SDS * (longest + 1 / 12).sqrt()


def _half_extent_px(mask_B2HW: Tensor, centre_B22: Tensor) -> Tensor:
    """Half the extent of two masks along the line between them, (B, 2), px."""
    line_B2 = (centre_B22[:, 1] - centre_B22[:, 0]).detach() * centre_B22.new_tensor([1.0, -1.0])
    line_B2 = line_B2 / line_B2.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    moments_B222 = second_moments(mask_B2HW, least_area=1.0)
    along_B2 = torch.einsum("bi,bnij,bj->bn", line_B2, moments_B222.to(line_B2), line_B2)
    return _SDS * (along_B2 + 1 / 12).sqrt()


def _noise_px(image: ImageTrack, least_px: float | Tensor) -> float | Tensor:
    """Noise of a position, px: the least one, or what the track itself reports where that is more."""
    if image.noise_px_B is None:
        return least_px
    noise_px = image.noise_px_B.double()
    return torch.maximum(noise_px, torch.as_tensor(least_px, dtype=noise_px.dtype, device=noise_px.device))


def _radius_px(image: ImageTrack) -> Tensor:
    """The object's usual radius, from the frames that show it whole."""
    area = torch.where(image.weight_BT > 0.5, image.area_BT.detach(), torch.nan).nanmedian(1).values
    return (area.nan_to_num(1.0).clamp(min=1.0) / math.pi).sqrt().double()


def _facing(xyz: Tensor, camera: Camera) -> Tensor:
    """World vectors (B, T, 3) with the axes right, away from the camera, up."""
    pose = camera.world_from_camera_B44.to(xyz)
    right = pose[:, None, :3, 0]
    flat = pose[:, None, :3, 2] * xyz.new_tensor([1.0, 1.0, 0.0])
    away = flat / flat.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return torch.stack(((xyz * right).sum(-1), (xyz * away).sum(-1), xyz[..., 2]), dim=-1)

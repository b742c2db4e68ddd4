"""From a track in pixels to metres, seconds and a frame with z up.

The horizontal distance of the object from the camera is fitted once per arc, as a line in time; every pixel position is
then placed on its ray at that distance. Depth noise so never reads as motion from frame to frame.

Axes: B clips, T frames, S pairs of frames (S = T - stride).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.tracks.in_image import ImageTrack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """The object in the world: metres, seconds, z up.

    Args:
        position_BT3: the object's centre, m.
        displacement_BS3: its displacement by flow from frame s to s + stride, m; None without flow.
        time_BT: s.
        weight_BT: trust in [0, 1], detached.
        distance_BT: horizontal distance from the camera that the positions were placed at, m.
        metres_per_px_BT: size of a pixel at the object, m, detached.
        scale_sd_B: relative standard error of that distance, detached.
        approach_sd_B: standard error of the speed along the line of sight over that distance, 1/s, detached.
        image: the track in pixels it was made from.
    """

    position_BT3: Tensor
    displacement_BS3: Tensor | None
    time_BT: Tensor
    weight_BT: Tensor
    distance_BT: Tensor
    metres_per_px_BT: Tensor
    scale_sd_B: Tensor
    approach_sd_B: Tensor
    image: ImageTrack

    @property
    def centroid_BT2(self) -> Tensor:
        return self.image.centroid_BT2

    @property
    def depth_BT(self) -> Tensor | None:
        return self.image.centre_depth_BT

    @property
    def visible_BT(self) -> Tensor:
        return self.image.visible_BT

    @property
    def area_BT(self) -> Tensor:
        return self.image.area_BT


def horizontal_distance(camera: Camera, uv_px: Tensor, depth_m: Tensor) -> Tensor:
    """Distance from the camera along the horizontal part of its optical axis, m, of pixels (B, T, 2) at z-depth (B,
    T)."""
    offset = camera.unproject(uv_px, depth_m) - _origin(camera).to(depth_m)[:, None]
    return (offset * _forward(camera).to(depth_m)[:, None]).sum(-1)


def place_at_distance(camera: Camera, uv_px: Tensor, distance_m: Tensor) -> Tensor:
    """World points (B, T, 3) seen at pixels (B, T, 2) at a horizontal distance (B, T) from the camera."""
    unit = torch.ones_like(uv_px[..., 0])
    along = horizontal_distance(camera, uv_px, unit).clamp(min=0.05)
    return camera.unproject(uv_px, distance_m / along)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """Horizontal distance over one arc, D(t) = distance + slope (t - t_mid), the relative standard error of D, and the
    standard error of the slope, m/s."""

    distance_B: Tensor
    slope_B: Tensor
    mid_time_B: Tensor
    relative_sd_B: Tensor
    slope_sd_B: Tensor

    @classmethod
    def constant(cls, distance_B: Tensor, *, relative_sd: float) -> Line:
        """One distance for the whole clip."""
        zero = torch.zeros_like(distance_B)
        return cls(
            distance_B=distance_B,
            slope_B=zero,
            mid_time_B=zero,
            relative_sd_B=torch.full_like(zero, relative_sd),
            slope_sd_B=zero,
        )

    def at(self, time_BT: Tensor) -> Tensor:
        tau = (time_BT - self.mid_time_B[:, None]).to(self.distance_B)
        return (self.distance_B[:, None] + self.slope_B[:, None] * tau).clamp(min=0.05)


def fit_distance(
    distance_BT: Tensor, time_BT: Tensor, weight_BT: Tensor, *, speed_sd_m_s: float, bias_sd: float
) -> Line:
    """One line through the distances of an arc.

    In free flight the horizontal distance changes linearly in time whatever the camera's pitch, which the z-depth does
    not. The slope is shrunk towards zero by a prior of standard deviation `speed_sd_m_s`: noisy depth would
    otherwise read as motion along the line of sight, and through perspective as acceleration.

    Args:
        distance_BT: horizontal distance in every frame, m.
        time_BT: s.
        weight_BT: weights of the arc's frames, detached.
        speed_sd_m_s: prior of the speed along the line of sight; 0 keeps the distance constant.
        bias_sd: relative standard deviation of the instrument's own scale error.
    """
    weight, time = weight_BT.detach().double(), time_BT.double()
    distance = torch.where(weight > 0, distance_BT.double(), torch.ones_like(time))
    total = weight.sum(1).clamp(min=1e-9)
    mid = (weight * time).sum(1) / total
    tau = time - mid[:, None]
    robust, slope = weight, torch.zeros_like(total)
    slope_variance = torch.full_like(total, speed_sd_m_s**2)
    for _ in range(4):
        mass = robust.sum(1).clamp(min=1e-9)
        mean = (robust * distance).sum(1) / mass
        centred = tau - ((robust * tau).sum(1) / mass)[:, None]
        moment = (robust * centred.square()).sum(1).clamp(min=1e-12)
        raw = (robust * centred * (distance - mean[:, None])).sum(1) / moment
        residual = (distance - mean[:, None] - raw[:, None] * centred).detach()
        # Where no frame is trusted all of this is zero, and would divide zero by zero.
        least = (0.005 * mean.detach()).square().clamp(min=1e-12)
        variance = (robust * residual.square()).sum(1) / (mass - 2).clamp(min=1) + least
        # Depth errors of neighbouring frames are alike: three frames count as one.
        noise_of_slope = 3 * variance / moment
        shrunk = speed_sd_m_s**2 / (speed_sd_m_s**2 + noise_of_slope)
        slope, slope_variance = raw * shrunk, shrunk * noise_of_slope
        at_mid = mean - slope * ((robust * tau).sum(1) / mass)
        robust = weight * (1 - residual.square() / (16 * variance[:, None])).clamp(min=0).square()
    relative = (3 * variance / mass.clamp(min=1)).sqrt() / mean.detach().abs().clamp(min=1e-6)
    return Line(
        distance_B=at_mid,
        slope_B=slope,
        mid_time_B=mid,
        relative_sd_B=(relative.square() + bias_sd**2).sqrt().detach(),
        slope_sd_B=slope_variance.detach().sqrt(),
    )


def trust_near_floor(height_m: Tensor) -> Tensor:
    """Weight in (0, 1] of a depth at a height above the floor: s0^2 / (s0^2 + (k h)^2), s0 = 0.02, k = 0.1 / m.

    Monocular depth of an object in the air is a guess; where it meets the floor, the picture shows where it stands.
    These are the relative errors of the embedded network, about 2 % on the floor and 10 % a metre above it.
    """
    return 0.02**2 / (0.02**2 + (0.1 * height_m.clamp(min=0)).square())


def centre_seen(centroid_BT2: Tensor, radius_px_BT: Tensor, camera: Camera) -> Tensor:
    """Pixels (B, T, 2) at which the centre of a ball is seen whose silhouette has its centroid at `centroid_BT2`.

    In perspective a ball of radius r at z-depth z is an ellipse that lies farther out than the ball's centre,

        c_silhouette = c / (1 - (r / z)^2)     from the principal point, with r / z = radius_px / f,

    by 0.6 % for a radius of 0.08 z; a scale that is wrong by as much makes g wrong by as much. Boxes, cylinders and
    capsules are treated as balls of the same area.
    """
    principal = camera.intrinsics_B33[:, None, :2, 2].to(centroid_BT2)
    share = (radius_px_BT.detach() / camera.focal_px_B[:, None].to(radius_px_BT)).square().clamp(max=0.25)
    return centroid_BT2 - share[..., None].to(centroid_BT2) * (centroid_BT2 - principal)


def track_in_world(image: ImageTrack, camera: Camera, line: Line, time_BT: Tensor, stride: int) -> Track:
    """Unproject the image track at the horizontal distances of `line`."""
    distance = line.at(time_BT).to(image.centroid_BT2)
    centre_BT2 = centre_seen(image.centroid_BT2, image.radius_px_BT, camera)
    position = place_at_distance(camera, centre_BT2, distance)
    displacement = None
    if image.flow_BS2 is not None:
        start = centre_BT2[:, :-stride]
        # The visible surface is nearer than the centre, so its pixels move farther than the centre does.
        if image.surface_depth_BT is not None and image.centre_depth_BT is not None:
            nearer = (image.surface_depth_BT / image.centre_depth_BT).detach()
        else:
            nearer = 1 - (2 / 3) * image.radius_px_BT / camera.focal_px_B[:, None].to(image.radius_px_BT)
        nearer = nearer[:, :-stride, None]
        end = place_at_distance(camera, start + image.flow_BS2 * nearer, distance[:, stride:])
        displacement = end - position[:, :-stride]
    with torch.no_grad():
        right = centre_BT2 + centre_BT2.new_tensor([1.0, 0.0])
        per_px = (place_at_distance(camera, right, distance) - position).norm(dim=-1)
    return Track(
        position_BT3=position,
        displacement_BS3=displacement,
        time_BT=time_BT,
        weight_BT=image.weight_BT,
        distance_BT=distance,
        metres_per_px_BT=per_px,
        scale_sd_B=line.relative_sd_B,
        approach_sd_B=line.slope_sd_B / line.distance_B.detach().abs().clamp(min=0.05),
        image=image,
    )


def _origin(camera: Camera) -> Tensor:
    return camera.world_from_camera_B44[:, :3, 3]


def _forward(camera: Camera) -> Tensor:
    """Horizontal unit vector along the optical axis, (B, 3)."""
    axis = camera.world_from_camera_B44[:, :3, 2] * camera.intrinsics_B33.new_tensor([1.0, 1.0, 0.0])
    return axis / axis.norm(dim=-1, keepdim=True).clamp(min=1e-6)

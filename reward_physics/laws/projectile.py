"""Projectiles: the acceleration of a throw points straight down and is the same on the way up and on the way down.

    tilt        1 - cos(angle between the acceleration and down)                        0 for a throw, 1 without any
    asymmetry   relative change of the acceleration from the flight's start to its end, by a cubic:  z''' T / |a|
    range       2 v_x v_z / a_z: where the parabola comes back to the height that it started at
    height      v_z^2 / (2 a_z): its apex above the start

Axes: B clips, T frames, K pieces of a clip (see `flights`), P coefficients of the cubic.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from reward_physics.laws.flights import Flights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projectile:
    """What every flight says; zeros where there is none.

    Args:
        accel_BK: size of the acceleration, track units / s^2.
        tilt_BK: in [0, 2].
        asymmetry_BK, asymmetry_sd_BK: relative change of the vertical acceleration, and its standard error (detached);
            zero where fewer than seven frames allow no cubic.
        range_BK, apex_BK: in the track's unit; zero for a flight that starts downwards.
        measured_BK: True for flights.
    """

    accel_BK: Tensor
    tilt_BK: Tensor
    asymmetry_BK: Tensor
    asymmetry_sd_BK: Tensor
    range_BK: Tensor
    apex_BK: Tensor
    measured_BK: Tensor


def measure_projectile(flights: Flights) -> Projectile:
    """Tilt, asymmetry, range and apex of every flight; differentiable in the track's positions."""
    flight, accel = flights.flight_BK, flights.accel_BKD
    duration = flights.duration_s_BK.detach().to(accel).clamp(min=1e-6)
    # An acceleration that moves the object by less than the noise within the flight has no direction.
    faint = 8 * flights.sigma_B[:, None] / duration.square()
    size = (accel.square().sum(-1) + faint.square()).sqrt()
    down = -accel[..., -1]
    tilt = torch.where(flight, 1 - down / size, torch.zeros_like(size))
    jerk, jerk_sd = _jerk(flights)
    launch = flights.velocity_at(flights.start_s_BK[..., None])[:, :, 0]
    upwards = flight & (launch[..., -1].detach() > 0) & (down.detach() > 0)
    pull = torch.where(upwards, down, torch.ones_like(down))
    climb = torch.where(upwards, launch[..., -1], torch.zeros_like(down))
    return Projectile(
        accel_BK=torch.where(flight, (accel.square().sum(-1) + 1e-24).sqrt(), torch.zeros_like(size)),
        tilt_BK=tilt,
        asymmetry_BK=jerk * duration / size,
        asymmetry_sd_BK=(jerk_sd * duration / size).detach(),
        range_BK=2 * launch[..., 0] * climb / pull,
        apex_BK=climb.square() / (2 * pull),
        measured_BK=flight,
    )


def _jerk(flights: Flights) -> tuple[Tensor, Tensor]:
    """Third derivative of the height over each flight by weighted least squares, and its standard error, (B, K)."""
    time = flights.trajectory.time_BT[:, None] - flights.mid_time_BK.detach()[..., None]
    weight = (flights.weights_BKT * flights.flight_BK[..., None]).to(time)
    enough = (weight > 0.1).sum(-1) >= 7
    weight = weight * enough[..., None]
    half = (0.5 * flights.duration_s_BK.detach()).to(time).clamp(min=1e-6)
    tau = time / half[..., None]
    design = tau[..., None] ** torch.arange(4, device=tau.device)
    height = torch.where(weight > 0, flights.trajectory.position_BTD[:, None, :, -1].to(time), torch.zeros_like(time))
    normal = (design * weight[..., None]).mT @ design
    eye = torch.eye(4, dtype=normal.dtype, device=normal.device)
    inverse = torch.linalg.inv(torch.where(enough[..., None, None], normal, eye))
    cubic = (inverse @ (design * weight[..., None]).mT @ height[..., None])[..., 3, 0]
    sd = flights.sigma_B[:, None].to(cubic) * inverse[..., 3, 3].sqrt()
    per_s3 = 6 / half**3
    zero = torch.zeros_like(cubic)
    like = flights.position_BKD
    return torch.where(enough, cubic * per_s3, zero).to(like), torch.where(enough, sd * per_s3, zero).to(like)

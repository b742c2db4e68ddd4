"""The projectile: is a throw drawn straight down, alike on both of its sides?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.projectile import measure_projectile
from reward_physics.observation import Observation
from rewards.flights.airborne import airborne


def projectile(observation: Observation, *, g_m_s2: float | None = None) -> Tensor:
    """Minus the errors of a throw's acceleration, averaged over the flights:

        r = -(2 tilt + relu(|asymmetry| - 2 sd)^2 [+ (a / g - 1)^2])

    Only flights in the air count (see `rewards.flights.airborne`): what rolls on after a fall is no throw.

    tilt = 1 - cos of the angle between the acceleration and down; asymmetry its relative change over the flight (drag,
    or a push), as far as it exceeds twice its standard error; with g_m_s2 also its size, which is the error of the
    range 2 v_x v_z / a. 0 for a true throw or fall; -2 for one without acceleration, -4 for one drawn upwards.

    Args:
        observation: any track; in metres where g_m_s2 is given.
        g_m_s2: the true acceleration, m/s^2, or None: unit-free.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN without a flight: a frozen clip.

    Raises:
        ValueError: metres refused where g_m_s2 is given, or g_m_s2 not positive.
    """
    if g_m_s2 is not None:
        if not 0 < g_m_s2 < float("inf"):
            raise ValueError(f"projectile: g_m_s2 must be > 0, got {g_m_s2}")
        observation.camera_for_metres()
    throw = measure_projectile(airborne(observation.flights))
    error = 2 * throw.tilt_BK + (throw.asymmetry_BK.abs() - 2 * throw.asymmetry_sd_BK).clamp(min=0).square()
    if g_m_s2 is not None:
        error = error + (throw.accel_BK / g_m_s2 - 1).square()
    count = throw.measured_BK.sum(1)
    score = -torch.where(throw.measured_BK, error, torch.zeros_like(error)).sum(1) / count.clamp(min=1)
    return observation.like_clips(torch.where(count > 0, score, torch.nan))

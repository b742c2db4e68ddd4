"""The energy drift: does the mechanical energy keep its value within a flight?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.energy import measure_energy
from reward_physics.observation import Observation


def energy_drift(observation: Observation, *, g_m_s2: float | None = 9.81) -> Tensor:
    """Minus the drift of the head H = h + v^2 / (2 g) within flights (see `reward_physics.laws.energy`):

        r = -mean over flights of |H_end - H_start| / H_0,

    with H_0 the head at the start above the lowest point. 0 where energy is conserved; -(1 - a / g) for a slow fall
    from rest with acceleration a.
    What an impact takes away does not count.

    Args:
        observation: in metres for a known g; with `g_m_s2: null` any track will do, even in pixels.
        g_m_s2: the true acceleration, m/s^2; or None: each flight is judged by the g of the clip's other flights (unit-
            free, since a g fitted on the flight itself would make it circular).

    Returns:
        (B,), no unit, in (-inf, 0]. NaN without a flight (a frozen clip), and for g None without a second one.

    Raises:
        ValueError: metres refused where g_m_s2 is a number, or g_m_s2 not positive.
    """
    if g_m_s2 is not None:
        observation.camera_for_metres()
    energy = measure_energy(observation.flights, g=g_m_s2)
    return observation.like_clips(torch.where(energy.conserved_measured_B, -energy.drift_B, torch.nan))

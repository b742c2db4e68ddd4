"""The energy rise: does an impact, or anything else, give the object energy?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.energy import measure_energy
from reward_physics.observation import Observation


def energy_rise(observation: Observation, *, tolerance: float = 0.05, spin_share: float = 0.0) -> Tensor:
    """Minus the rises of the head H = h + v^2 / (2 g) from each flight or rest to the next:

        r = -sum relu(H_after - H_before - allowed) / H_0

    0 where energy is kept or lost, however much; -1 for a kick that brings as much as the object had. Unit-free: g,
    from all of the clip's flights, only says what a speed is worth in height.

    Args:
        observation: any track, even in pixels.
        tolerance: rise that noise is allowed, in shares of H_0, >= 0.
        spin_share: for bodies that tumble: what a contact near the lowest point may give back of what earlier impacts
            took, at most this share of H_0; 1 sets no other limit (of 60 simulated boxes a quarter regained height at
            an impact, up to 0.37 of H_0). 0 for bodies that do not rotate: there each kick counts.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN without a flight and a second piece: a frozen clip, a single fall.
    """
    if not tolerance >= 0 or not 0 <= spin_share <= 1:
        raise ValueError(f"energy_rise: needs tolerance >= 0 and spin_share in [0, 1], got {tolerance}, {spin_share}")
    energy = measure_energy(observation.flights, tolerance=tolerance, spin_share=spin_share)
    return observation.like_clips(torch.where(energy.rise_measured_B, -energy.rise_B, torch.nan))

"""The pendulum: does a swing take the time that its length asks for?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.pendulum import measure_pendulum
from reward_physics.observation import Observation


def pendulum(observation: Observation, *, length_m: float | None = None, g_m_s2: float = 9.81) -> Tensor:
    """Minus the squared relative error of the period:

        r = -(T / T_true - 1)^2 - (residual / amplitude)^2,    T_true = 2 pi sqrt(L / g) (1 + theta^2 / 16)

    Args:
        observation: with `length_m` any track, even in pixels; without it the length is that of the bob's circle, and
            metres are needed.
        length_m: from the pivot to the bob's centre, m, > 0, or None.
        g_m_s2: m/s^2, > 0.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN where nothing swings for 0.6 of a period (a frozen clip), or where the circle
        of a small swing cannot be distinguished from a line.

    Raises:
        ValueError: metres refused without `length_m`, or a parameter that is not positive.
    """
    if not 0 < g_m_s2 < float("inf") or (length_m is not None and not 0 < length_m < float("inf")):
        raise ValueError(f"pendulum: needs g_m_s2 > 0 and length_m > 0 or null, got {g_m_s2}, {length_m}")
    if length_m is None:
        observation.camera_for_metres()
    path = observation.trajectory
    swing = measure_pendulum(
        time_BT=path.time_BT,
        position_BT2=path.position_BTD[..., [0, -1]],
        weight_BT=path.weight_BT,
        sigma_B=path.sigma_B,
    )
    length = swing.length_B if length_m is None else torch.full_like(swing.length_B, length_m)
    # The period goes as 1 / sqrt(g): T / T_true = sqrt(g_true / g_seen).
    ratio = (g_m_s2 / swing.gravity(length)).sqrt()
    measured = swing.measured_B if length_m is not None else swing.length_measured_B
    score = -(ratio - 1).square() - swing.residual_B.square()
    return observation.like_clips(torch.where(measured, score, torch.nan))

"""The incline: does a body slide down a slope as gravity and friction let it?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.incline import measure_incline
from reward_physics.observation import Observation


def incline(
    observation: Observation, *, g_m_s2: float = 9.81, friction: float | None = None, angle_deg: float | None = None
) -> Tensor:
    """Minus the squared relative error of the acceleration along and across a slope:

        r = -((a_along - g (sin(theta) -+ mu cos(theta)))^2 + a_across^2) / g^2

    friction against the motion. With unknown mu only what no friction explains counts: speeding up by more than
    g sin(theta). 0 for a true slide.

    Args:
        observation: needs a camera and a scale.
        g_m_s2: m/s^2, > 0.
        friction: mu >= 0, or None.
        angle_deg: of the slope, in (0, 90), or None: that of the path.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN where nothing moves up or down: a frozen clip.

    Raises:
        ValueError: metres refused, or a parameter out of its range.
    """
    if not 0 < g_m_s2 < float("inf") or (friction is not None and not friction >= 0):
        raise ValueError(f"incline: needs g_m_s2 > 0 and friction >= 0 or null, got {g_m_s2}, {friction}")
    observation.camera_for_metres()
    slide = measure_incline(observation.flights, angle_deg=angle_deg)
    mu = slide.friction(g_m_s2)
    error = (-mu).clamp(min=0) if friction is None else mu - friction
    error = (error * slide.cos_B).square() + (slide.across_B / g_m_s2).square()
    return observation.like_clips(torch.where(slide.measured_B, -error, torch.nan))

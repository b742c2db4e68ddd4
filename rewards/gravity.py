"""The gravity reward: does the object fall as things fall?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.observation import Observation


def gravity(observation: Observation, *, g_m_s2: float = 9.81) -> Tensor:
    """Minus the squared relative error of the acceleration in free flight, as a vector:

        r = -(|a - g| / g)^2,    g = (0, 0, -g_m_s2) in a frame with z up.

    0 for a true fall, -1 for an object that floats or is frozen, -4 for one that falls upwards as fast; unbounded
    below, without clipping, so that a clip far off still has a gradient. Sideways acceleration counts. NaN where the
    acceleration cannot be measured (see `observation.reasons`).

    Args:
        observation: needs a camera and metric depth.
        g_m_s2: the true acceleration, m/s^2, > 0. With drag that matters, name the effective one.

    Returns:
        (B,), no unit, in (-inf, 0].

    Raises:
        ValueError: g not positive, or metres refused (no camera, no metric depth).
    """
    if not 0 < g_m_s2 < float("inf"):
        raise ValueError(f"gravity: g_m_s2 must be > 0, got {g_m_s2}")
    observation.camera_for_metres()
    fit = observation.fit
    error = (fit.accel_B3 - fit.accel_B3.new_tensor([0.0, 0.0, -g_m_s2])) / g_m_s2
    # The fit holds zeros where it means nothing: NaN is put in last, so that no gradient meets it.
    return torch.where(fit.measurable_B, -error.square().sum(-1), torch.nan)

"""The gravity reward: does the object fall as things fall?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reward_physics.observation import Observation


def gravity(observation: Observation, *, g_m_s2: float = 9.81, delta: float | None = None) -> Tensor:
    """Minus the squared relative error of the acceleration in free flight, as a vector:

        r = -e^2,    e = |a - g| / g,    g = (0, 0, -g_m_s2) in a frame with z up,

    or with `delta` d the pseudo-Huber loss (Charbonnier et al., "Two deterministic half-quadratic regularization
    algorithms for computed imaging", ICIP 1994), a line beyond e = d:

        r = -e^2 (sqrt(1 + d^2) + d) / (sqrt(e^2 + d^2) + d)

    0 for a true fall, -1 for an object that floats or is frozen; unbounded below, without clipping, so that a clip far
    off still has a gradient. The square hardly feels an error of a tenth beside one of a half; the line feels both
    alike. Sideways acceleration counts. NaN where the acceleration cannot be measured (see `observation.reasons`).

    Args:
        observation: needs a camera and metric depth.
        g_m_s2: the true acceleration, m/s^2, > 0. With drag that matters, name the effective one.
        delta: relative error, > 0, beyond which the penalty grows as a line; None for the square.

    Returns:
        (B,), no unit, in (-inf, 0].

    Raises:
        ValueError: g or delta not positive, or metres refused (no camera, no metric depth).
    """
    if not 0 < g_m_s2 < float("inf"):
        raise ValueError(f"gravity: g_m_s2 must be > 0, got {g_m_s2}")
    if delta is not None and not 0 < delta < float("inf"):
        raise ValueError(f"gravity: delta must be > 0, or left out for the square, got {delta}")
    observation.camera_for_metres()
    fit = observation.fit
    error = (fit.accel_B3 - fit.accel_B3.new_tensor([0.0, 0.0, -g_m_s2])) / g_m_s2
    penalty_B = error.square().sum(-1)
    if delta is not None:
        penalty_B = penalty_B * (math.hypot(1, delta) + delta) / ((penalty_B + delta**2).sqrt() + delta)
    # The fit holds zeros where it means nothing: NaN is put in last, so that no gradient meets it.
    return torch.where(fit.measurable_B, -penalty_B, torch.nan)

"""Restitution: does a bounce give back no more than it got, and do three ways of reading it agree?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.bounces import measure_bounces
from reward_physics.observation import Observation
from rewards.flights.airborne import airborne


def restitution(observation: Observation, *, coefficient: float | None = None) -> Tensor:
    """Minus the mean squared error of the coefficient of restitution over a clip's bounces, unit-free:

        r = -mean (relu(e - 1)^2 + relu(-e)^2 + spread^2 [+ (e - coefficient)^2])

    with e = v+ / v-, and spread the largest less the smallest of v+ / v-, sqrt(h2 / h1) and T2 / T1. 0 for every true
    bounce, elastic or not; one that never rises above its radius is none (see `flights.airborne`). A body that goes on
    downwards through the floor has e < 0.

    Args:
        observation: any track, even in pixels.
        coefficient: the true one in [0, 1], where it is known.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN where nothing bounces: a frozen clip, a single fall.
    """
    if coefficient is not None and not 0 <= coefficient <= 1:
        raise ValueError(f"restitution: coefficient must lie in [0, 1], got {coefficient}")
    bounces = measure_bounces(airborne(observation.flights))
    e = bounces.by_speed_BK
    error = (e - 1).clamp(min=0).square() + (-e).clamp(min=0).square() + bounces.spread_BK.square()
    if coefficient is not None:
        error = error + (e - coefficient).square()
    count = bounces.measured_BK.sum(1)
    score = -torch.where(bounces.measured_BK, error, torch.zeros_like(error)).sum(1) / count.clamp(min=1)
    return observation.like_clips(torch.where(count > 0, score, torch.nan))

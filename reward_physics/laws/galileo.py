"""Galileo's ratio: distances fallen from rest are as the squares of the times, t1^2 / t2^2 = h1 / h2.

Unit-free: neither scale, nor frame rate, nor g enters. Two readings:

    within a fall from rest    (h(T/2) / h(T)) / (1/4)            on the fitted flight of duration T; 1 by the law
    between two flights        (h1 / h2) / (T1^2 / T2^2)          h the height and T the time of the fall or rise beside
                                                                   their common impact

A body that drifts down evenly has h(T/2) / h(T) = 1/2 and reads 2.

Reference: Galileo, Discorsi (1638), third day, proposition II.

Axes: B clips, K pieces of a clip (see `flights`).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from reward_physics.laws.bounces import measure_bounces
from reward_physics.laws.flights import Flights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Galileo:
    """Galileo's ratio, 1 by the law; 1 also where it is not measured.

    Args:
        fall_ratio_BK: of each flight that begins at rest.
        fall_measured_BK: where that is known.
        between_BK: of the two flights beside the impact k.
        between_measured_BK: where that is known.
    """

    fall_ratio_BK: Tensor
    fall_measured_BK: Tensor
    between_BK: Tensor
    between_measured_BK: Tensor


def measure_galileo(flights: Flights) -> Galileo:
    """Both readings; differentiable in the track's positions."""
    start, whole = flights.start_s_BK, flights.duration_s_BK
    times = torch.stack((start, start + 0.5 * whole, start + whole), dim=-1)
    height = flights.position_at(times)[..., -1]
    half, full = height[..., 0] - height[..., 1], height[..., 0] - height[..., 2]
    measured = flights.flight_BK & flights.from_rest_BK & (full.detach() > 6 * flights.sigma_B[:, None])
    ratio = torch.where(measured, 4 * half, torch.ones_like(half)) / torch.where(measured, full, torch.ones_like(full))
    bounces = measure_bounces(flights)
    both = bounces.three_BK
    # h1 / h2 = 1 / e_h^2 and T1^2 / T2^2 = 1 / e_t^2 beside the same impact.
    by_time = torch.where(both, bounces.by_time_BK, torch.ones_like(half))
    by_height = torch.where(both, bounces.by_height_BK, torch.ones_like(half))
    return Galileo(
        fall_ratio_BK=ratio,
        fall_measured_BK=measured,
        between_BK=(by_time / by_height).square(),
        between_measured_BK=both,
    )

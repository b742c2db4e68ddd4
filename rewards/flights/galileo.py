"""Galileo's ratio: do distances fallen from rest grow as the squares of the times?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.galileo import measure_galileo
from reward_physics.observation import Observation
from rewards.flights.airborne import airborne


def galileo(observation: Observation) -> Tensor:
    """Minus the mean squared error of Galileo's ratio, unit-free:

        r = -mean (q - 1)^2,    q = (h1 / h2) / (t1^2 / t2^2),

    over each fall that is known to begin at rest (half of its time against all of it) and each pair of flights beside
    an impact. 0 by the law; -1 for a drift at constant speed. Neither scale, frame rate nor the size of g enters: slow
    motion does not change it. Only flights in the air count (see `flights.airborne`). Source: Galileo, Discorsi, third
    day, proposition II.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN where nothing falls from rest (a frozen clip) and nothing bounces.
    """
    ratio = measure_galileo(airborne(observation.flights))
    fall = torch.where(ratio.fall_measured_BK, (ratio.fall_ratio_BK - 1).square(), torch.zeros_like(ratio.between_BK))
    pair = torch.where(ratio.between_measured_BK, (ratio.between_BK - 1).square(), torch.zeros_like(ratio.between_BK))
    count = ratio.fall_measured_BK.sum(1) + ratio.between_measured_BK.sum(1)
    score = -(fall + pair).sum(1) / count.clamp(min=1)
    return observation.like_clips(torch.where(count > 0, score, torch.nan))

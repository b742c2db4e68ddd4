"""The arc residual: is every flight a parabola, and does one go on where the last one ended?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.path_errors import place_sd
from reward_physics.observation import Observation


def arc_residual(observation: Observation, *, first_only: bool = False) -> Tensor:
    """Minus the mean squared distance of the track from its parabolas, in shares of the way, unit-free:

        r = -(mean_t |x_t - p(t)|^2 + sum_k relu(gap_k - 3 s_k)^2) / way^2

    over the frames of all flights; gap is the distance between neighbouring pieces where they meet, which a body that
    jumps from place to place leaves open, s its standard error (short pieces are known badly at their ends), and way
    the diagonal of the box that the flights fill. 0 for parabolas that meet, whatever their acceleration: it says
    nothing of g.

    Args:
        observation: any track, even in pixels.
        first_only: of the first flight alone, and no gaps: what `gravity` is read from.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN without a flight: a frozen clip never scores.
    """
    flights = observation.flights
    path = flights.trajectory
    chosen_BK = flights.flight_BK
    if first_only:
        chosen_BK = chosen_BK & (chosen_BK.cumsum(1) == 1)
    weight = flights.weights_BKT * chosen_BK[..., None]
    time = path.time_BT[:, None].expand_as(weight)
    away = torch.where(
        weight[..., None] > 0,
        path.position_BTD[:, None] - flights.position_at(time),
        flights.position_BKD[:, :, None] * 0,
    )
    total = weight.sum((1, 2)).clamp(min=1e-6)
    mean = (weight * away.square().sum(-1)).sum((1, 2)) / total
    flown = (weight.sum(1) > 0)[..., None]
    high = torch.where(flown, path.position_BTD, -torch.inf).amax(1)
    low = torch.where(flown, path.position_BTD, torch.inf).amin(1)
    flies = flights.flies_B
    way = torch.where(flies[:, None], high - low, torch.ones_like(high)).square().sum(-1).detach()
    beside = flights.flight_BK | torch.nn.functional.pad(flights.flight_BK[:, 1:], (0, 1))
    ends, starts = place_sd(flights, flights.end_s_BK), place_sd(flights, flights.start_s_BK).roll(-1, 1)
    open_BK = (flights.gap_BK - 3 * (ends.square() + starts.square()).sqrt().to(flights.gap_BK)).clamp(min=0)
    gaps = torch.where(beside, open_BK, torch.zeros_like(open_BK)).square().sum(1)
    gaps = torch.zeros_like(gaps) if first_only else gaps
    return observation.like_clips(torch.where(flies, -(mean + gaps) / way, torch.nan))

"""Bounces: the coefficient of restitution three ways, and how far the three disagree.

    from speeds    e_v = v+ / v-              vertical speeds just after and just before the impact
    from heights   e_h = sqrt(h2 / h1)        h = v^2 / (2 a), the height of each flight's own parabola above the impact
    from times     e_t = T2 / T1              between impacts, or twice the time between impact and apex

They are one number where the same gravity acts before and after and the clock runs evenly, and it lies in [0, 1].

Axes: B clips, K pieces of a clip (see `flights`; entry k is the impact between the pieces k and k + 1).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from reward_physics.laws.flights import Flights
from reward_physics.laws.path_errors import speed_sd

_VISIBLE_SIGMAS = 3.0
_LEAST_PUSH = 0.25
"""An impact takes this share of the speed of the fall at least. What a path's own curves, a blurred frame or a hand at
the end of a toss change is less, and no ground pushed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounces:
    """Restitution at every impact between two flights; zeros where `measured_BK` is False.

    Args:
        by_speed_BK, by_height_BK, by_time_BK: the coefficient three ways, no unit. Negative speeds' ratio: the body
            went on downwards.
        time_BK: when, s.
        measured_BK: True where a falling flight meets another flight, and something pushed it up there: by more than
            three standard errors of the change of its speed, and by a quarter of that speed.
        three_BK: True where all three ways are known: the body went up again, under a gravity that pulls down.
        spread_BK: largest less smallest of the three, zero where they are not all known.
    """

    by_speed_BK: Tensor
    by_height_BK: Tensor
    by_time_BK: Tensor
    time_BK: Tensor
    measured_BK: Tensor
    three_BK: Tensor
    spread_BK: Tensor


def measure_bounces(flights: Flights) -> Bounces:
    """Every bounce of every clip; differentiable in the track's positions."""
    end = flights.end_s_BK[..., None]
    fallen = -flights.velocity_at(end)[:, :, 0, -1]
    after_flies = torch.nn.functional.pad(flights.flight_BK[:, 1:], (0, 1))
    risen = flights.velocity_at(flights.start_s_BK[..., None])[:, :, 0, -1].roll(-1, 1)
    time_BT = flights.trajectory.time_BT
    step_B = (time_BT[:, 1:] - time_BT[:, :-1]).median(1).values if time_BT.shape[1] > 1 else time_BT[:, 0] + 1
    fast = fallen.detach() * step_B[:, None].to(fallen) > _VISIBLE_SIGMAS * flights.sigma_B[:, None]
    push_sd = (
        speed_sd(flights, flights.end_s_BK).square() + speed_sd(flights, flights.start_s_BK).roll(-1, 1).square()
    ).sqrt()
    push = (risen + fallen).detach()
    pushed = (push > _VISIBLE_SIGMAS * push_sd.to(push)) & (push > _LEAST_PUSH * fallen.detach())
    measured = flights.flight_BK & after_flies & flights.meets_BK & fast & pushed
    fallen_safe = torch.where(measured, fallen, torch.ones_like(fallen))
    risen = torch.where(measured, risen, torch.zeros_like(risen))
    by_speed = risen / fallen_safe

    g = -flights.accel_BKD[..., -1]
    sure = flights.flight_BK & (g.detach() > 3 * flights.accel_var_BK.sqrt())
    three = measured & (by_speed.detach() > 1e-3) & sure & torch.nn.functional.pad(sure[:, 1:], (0, 1))
    g_before = torch.where(three, g, torch.ones_like(g))
    g_after = torch.where(three, g.roll(-1, 1), torch.ones_like(g))
    rise = torch.where(three, by_speed, torch.ones_like(by_speed))
    by_height = rise * (g_before / g_after).sqrt()
    by_time = _by_time(flights, three, fallen_safe / g_before, rise * fallen_safe / g_after)
    ways = torch.stack((rise, by_height, by_time))
    zero = torch.zeros_like(by_speed)
    return Bounces(
        by_speed_BK=by_speed,
        by_height_BK=torch.where(three, by_height, zero),
        by_time_BK=torch.where(three, by_time, zero),
        time_BK=torch.where(measured, flights.end_s_BK, torch.zeros_like(flights.end_s_BK)),
        measured_BK=measured,
        three_BK=three,
        spread_BK=torch.where(three, ways.amax(0) - ways.amin(0), zero),
    )


def _by_time(flights: Flights, three: Tensor, fall_s: Tensor, climb_s: Tensor) -> Tensor:
    """T2 / T1 from the times of neighbouring impacts where both are seen, else from a release at rest or an apex."""
    start, end = flights.start_s_BK, flights.end_s_BK
    from_impact = torch.nn.functional.pad(three[:, :-1], (1, 0))
    full = (end - start).to(fall_s)
    before = torch.where(from_impact, full, torch.where(flights.from_rest_BK, 2 * full, 2 * fall_s))
    ends_in_impact = three.roll(-1, 1) & (torch.arange(three.shape[1], device=three.device) + 1 < three.shape[1])
    after = torch.where(ends_in_impact, full.roll(-1, 1), 2 * climb_s)
    return after / torch.where(three, before, torch.ones_like(before)).clamp(min=1e-9)

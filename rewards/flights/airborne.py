"""Which pieces of a path are in the air: what slides, rolls or settles after a fall is no flight."""

from __future__ import annotations

import dataclasses

import torch

from reward_physics.laws.flights import Flights

_ABOVE_RADII, _BELOW_RADII = 1.0, 1.5


@torch.no_grad()
def airborne(flights: Flights) -> Flights:
    """The flights less those that stay on the ground.

    The ground is the lowest place at which an earlier flight ended. A piece that never rises more than a radius above
    it and never sinks more than one and a half below it slides, rolls or settles there: noise makes a parabola of it,
    with no acceleration to speak of. A clip's first flight is never left out.
    """
    ends = torch.stack((flights.start_s_BK, flights.end_s_BK), dim=-1)
    times = torch.cat((ends, ends.mean(-1, keepdim=True)), dim=-1)
    height = flights.position_at(times)[..., -1]
    landed = torch.where(flights.flight_BK, height[..., 1], torch.inf).cummin(1).values
    ground = torch.nn.functional.pad(landed[:, :-1], (1, 0), value=torch.inf)
    radius = flights.trajectory.radius_B.to(height)[:, None]
    low = height.amax(-1) < ground + _ABOVE_RADII * radius
    near = low & (height.amin(-1) > ground - _BELOW_RADII * radius) & ground.isfinite()
    return dataclasses.replace(flights, flight_BK=flights.flight_BK & ~near)

"""How well the place and the velocity of a fitted piece are known at any time, from the error of its acceleration.

A parabola through N even samples of noise s over the duration T has, at the share u of T / 2 from its middle,

    var(a) = 720 s^2 / (N T^4)
    var(v) = 12 s^2 (1 + 15 u^2) / (N T^2)                      = var(a) T^2 (1 + 15 u^2) / 60
    var(x) = s^2 (1 + 3 u^2 + 5 (3 u^2 - 1)^2 / 4) / N          = var(a) T^4 (...) / 720

so that the error of var(a), correlated noise and all, goes over to the other two. All of it is detached.

Axes: B clips, K pieces of a clip.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Pieces(Protocol):
    """What is asked of `reward_physics.laws.flights.Flights`, which itself asks here."""

    @property
    def accel_var_BK(self) -> Tensor: ...
    @property
    def mid_time_BK(self) -> Tensor: ...
    @property
    def rest_BK(self) -> Tensor: ...
    @property
    def weights_BKT(self) -> Tensor: ...
    @property
    def sigma_B(self) -> Tensor: ...
    @property
    def trajectory(self) -> Any: ...


@torch.no_grad()
def speed_sd(flights: Pieces, time_BK: Tensor) -> Tensor:
    """Standard error (B, K) of a component of each piece's velocity at a time (s); 0 for a rest."""
    u2, duration = _share(flights, time_BK)
    return (flights.accel_var_BK * duration.square() / 60 * (1 + 15 * u2)).sqrt() * ~flights.rest_BK


@torch.no_grad()
def place_sd(flights: Pieces, time_BK: Tensor) -> Tensor:
    """Standard error (B, K) of a coordinate of each piece's place at a time (s); for a rest that of the mean."""
    u2, duration = _share(flights, time_BK)
    spread = 1 + 3 * u2 + 1.25 * (3 * u2 - 1).square()
    flown = (flights.accel_var_BK * duration**4 / 720 * spread).sqrt()
    frames = (flights.weights_BKT > 0.1).sum(-1).clamp(min=1).to(flown)
    return torch.where(flights.rest_BK, flights.sigma_B[:, None].to(flown) * frames.rsqrt(), flown)


def _share(flights: Pieces, time_BK: Tensor) -> tuple[Tensor, Tensor]:
    """u^2 and T of every piece."""
    time, used = flights.trajectory.time_BT[:, None], flights.weights_BKT > 0.1
    first, last = torch.where(used, time, torch.inf).amin(-1), torch.where(used, time, -torch.inf).amax(-1)
    frames = used.sum(-1).clamp(min=2)
    duration = (last - first).clamp(min=1e-9) * frames / (frames - 1)
    u = 2 * (time_BK - flights.mid_time_BK) / duration
    return u.square().to(flights.accel_var_BK), duration.to(flights.accel_var_BK)

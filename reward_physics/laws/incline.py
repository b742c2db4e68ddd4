"""Sliding on an incline: along the slope  a = g (sin(theta) - mu cos(theta))  downhill (friction against the motion),
and nothing across it.

theta is known, or read off the path itself: a body that slides stays on a straight line.

Axes: B clips, K pieces of a clip (see `flights`).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from reward_physics.laws.flights import Flights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Incline:
    """What the longest slide of every clip says; zeros where there is none.

    Args:
        sin_B, cos_B: of the slope's angle below the horizontal, in [0, 1].
        along_B: acceleration along the slope, downhill positive, track units / s^2.
        across_B: acceleration across it.
        downhill_B: True where the body moves downhill.
        measured_B: True where something slides.
    """

    sin_B: Tensor
    cos_B: Tensor
    along_B: Tensor
    across_B: Tensor
    downhill_B: Tensor
    measured_B: Tensor

    def friction(self, g: float) -> Tensor:
        """mu of each clip for a gravity g in the track's unit; negative where the body speeds up by itself."""
        sign = torch.where(self.downhill_B, 1.0, -1.0).to(self.along_B)
        return sign * (g * self.sin_B - self.along_B) / (g * self.cos_B.clamp(min=1e-3))


def measure_incline(flights: Flights, *, angle_deg: float | None = None) -> Incline:
    """The slide of every clip: its longest piece that moves vertically.

    Args:
        flights: fitted pieces.
        angle_deg: the slope's angle, in (0, 90), or None: that of the path.
    """
    if angle_deg is not None and not 0 < angle_deg < 90:
        raise ValueError(f"incline: angle_deg must lie in (0, 90), got {angle_deg}")
    duration = torch.where(flights.flight_BK, flights.duration_s_BK.detach(), -1.0)
    piece = duration.argmax(1)
    rows = torch.arange(len(piece), device=piece.device)
    measured = flights.flight_BK[rows, piece]
    accel, speed = flights.accel_BKD[rows, piece], flights.velocity_BKD[rows, piece]
    start, end = flights.start_s_BK[rows, piece], flights.end_s_BK[rows, piece]
    ends = flights.position_at(torch.stack((start, end), dim=-1)[:, None].expand(-1, flights.flight_BK.shape[1], -1))
    way = (ends[:, :, 1] - ends[:, :, 0])[rows, piece]
    downhill = way[:, -1].detach() < 0
    way = way * torch.where(downhill, 1.0, -1.0)[:, None].to(way)
    safe = torch.where(measured[:, None], way, torch.ones_like(way))
    level = safe[:, :-1] / (safe[:, :-1].square().sum(-1, keepdim=True) + 1e-18).sqrt()
    if angle_deg is None:
        length = safe.square().sum(-1).sqrt()
        sin, cos = -safe[:, -1] / length, (safe[:, :-1].square().sum(-1) + 1e-18).sqrt() / length
    else:
        sin, cos = (torch.full_like(safe[:, 0], f(math.radians(angle_deg))) for f in (math.sin, math.cos))
    slope = torch.cat((cos[:, None] * level, -sin[:, None]), dim=-1)
    along = (accel * slope).sum(-1)
    across = accel - along[:, None] * slope
    zero = torch.zeros_like(along)
    return Incline(
        sin_B=torch.where(measured, sin, zero),
        cos_B=torch.where(measured, cos, zero + 1),
        along_B=torch.where(measured, along, zero),
        across_B=torch.where(measured, (across.square().sum(-1) + 1e-24).sqrt(), zero),
        downhill_B=torch.where(measured, (speed * slope).sum(-1).detach() > 0, measured),
        measured_B=measured,
    )

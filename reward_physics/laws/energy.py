"""Mechanical energy of a track without any mass: the head, and what it does in flight and at impacts.

The head is the height that a body would rise to,

    H(t) = h(t) + |v(t)|^2 / (2 g),

in the track's own unit: metres, or pixels. It is read off the fitted flights, never off raw differences, with h above
the lowest point of the pieces. With H_0 the head of the first piece:

    drift    = mean over flights of |H_end - H_start| / H_0         (weighted by their durations)
    variance = mean over flights of Var_t(H) / H_0^2
    rise     = sum over transitions of relu(H_after - H_before - allowed) / H_0

Falling at an impact is dissipation, and never an error. A g that was fitted on the same flight would make its drift
circular: it is known, or comes from the other flights.

Axes: B clips, K pieces of a clip (see `flights`), D coordinates, N moments of a flight.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from reward_physics.laws.flights import Flights

_MOMENTS = 9
_VISIBLE_SIGMAS = 6.0
_LEAST_SHARE_OF_LARGEST = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy:
    """What the energy of every clip does; zeros where it is not measured.

    Args:
        head_start_BK, head_end_BK: head at the first and last moment of each piece, above the lowest point.
        head_scale_B: H_0: the first piece's head, at least a quarter of the largest.
        drift_B, variance_B: within flights, in shares of H_0 and of its square.
        rise_B: at impacts and other transitions, in shares of H_0.
        conserved_measured_B: True where drift and variance mean something: a flight, and a g that is not its own.
        rise_measured_B: True where two pieces follow each other.
    """

    head_start_BK: Tensor
    head_end_BK: Tensor
    head_scale_B: Tensor
    drift_B: Tensor
    variance_B: Tensor
    rise_B: Tensor
    conserved_measured_B: Tensor
    rise_measured_B: Tensor


def gravity_of_others(flights: Flights) -> tuple[Tensor, Tensor]:
    """g of every flight from the clip's other flights, weighted by precision, and where there is one, (B, K) each.

    A g within three standard errors of zero says nothing.
    """
    precision = _precision(flights)
    precision_of_others = precision.sum(1, keepdim=True) - precision
    g_BK = -flights.accel_BKD[..., -1]
    sums = (precision * g_BK).sum(1, keepdim=True) - precision * g_BK
    return _significant(sums, precision_of_others, flights.flight_BK & (precision_of_others > 0))


def gravity_of_all(flights: Flights) -> tuple[Tensor, Tensor]:
    """g of a clip from all of its flights, weighted by precision, and where there is one, (B,) each."""
    precision = _precision(flights)
    total = precision.sum(1)
    return _significant((precision * -flights.accel_BKD[..., -1]).sum(1), total, total > 0)


def measure_energy(
    flights: Flights, *, g: float | None = None, tolerance: float = 0.02, spin_share: float = 0.0
) -> Energy:
    """Drift, variance and rise of the head.

    Args:
        flights: the fitted pieces of every clip.
        g: the true gravity in the track's unit per s^2, or None: from the other flights for drift and variance, and
            from all for the rise, whose size it only scales.
        tolerance: rise, in shares of H_0, that a transition is allowed.
        spin_share: what a body that rotates may turn from spin into height at a contact, in shares of H_0, as far as
            its earlier impacts have taken it away. A contact lies within a radius of the lowest point: a kick in the
            air is never spin. 0 for bodies that do not rotate.
    """
    if g is not None and not 0 < g < float("inf"):
        raise ValueError(f"energy: g must be > 0, got {g}")
    ones = torch.ones_like(flights.position_BKD[..., -1])
    if g is None:
        (own_BK, own_known_BK), (g_B, known_B) = gravity_of_others(flights), gravity_of_all(flights)
    else:
        own_BK, own_known_BK, g_B = g * ones, flights.flight_BK, g * ones[:, 0]
        known_B = torch.ones_like(flights.flies_B)
    ends = torch.stack((flights.start_s_BK, flights.end_s_BK), dim=-1)
    lowest_B = _lowest(flights, ends)
    heads = _head(flights, ends, g_B[:, None], lowest_B)
    start, end = heads[..., 0], heads[..., 1]
    scale_B, visible_B = _scale(flights, start, end)
    drift, variance = _within(flights, own_BK, lowest_B, scale_B)
    weight = flights.duration_s_BK.detach().to(ones) * (flights.flight_BK & own_known_BK)
    total = weight.sum(1)

    def mean(x: Tensor) -> Tensor:
        return (weight * torch.where(weight > 0, x, torch.zeros_like(x))).sum(1) / total.clamp(min=1e-9)

    rise = _rise(flights, start, end, lowest_B, scale_B, tolerance, spin_share)
    moves = flights.flies_B & visible_B
    return Energy(
        head_start_BK=start,
        head_end_BK=end,
        head_scale_B=scale_B,
        drift_B=mean(drift),
        variance_B=mean(variance),
        rise_B=torch.where(known_B & moves, rise, torch.zeros_like(rise)),
        conserved_measured_B=moves & (total > 0),
        rise_measured_B=moves & known_B & (flights.measured_BK.sum(1) >= 2),
    )


def _precision(flights: Flights) -> Tensor:
    variance = flights.accel_var_BK.clamp(min=1e-12)
    return torch.where(flights.flight_BK, 1 / variance, torch.zeros_like(variance))


def _significant(weighted_sum: Tensor, weight: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    safe = torch.where(weight > 0, weight, torch.ones_like(weight))
    g = weighted_sum / safe
    known = given & (g.detach() > 3 * safe.rsqrt())
    return torch.where(known, g, torch.ones_like(g)), known


def _lowest(flights: Flights, ends_BK2: Tensor) -> Tensor:
    height = flights.position_at(ends_BK2)[..., -1].amin(-1)
    far = torch.full_like(height, torch.inf)
    lowest = torch.where(flights.measured_BK, height, far).amin(1)
    return torch.where(flights.measured_BK.any(1), lowest, torch.zeros_like(lowest))


def _head(flights: Flights, time_BKN: Tensor, g_BK: Tensor, lowest_B: Tensor) -> Tensor:
    """Heads (B, K, N) above the lowest point at N times; zero for pieces that are not measured."""
    height = flights.position_at(time_BKN)[..., -1] - lowest_B[:, None, None]
    head = height + flights.velocity_at(time_BKN).square().sum(-1) / (2 * g_BK[..., None])
    return torch.where(flights.measured_BK[..., None], head, torch.zeros_like(head))


def _scale(flights: Flights, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """H_0 and whether it stands out of noise; 1 where it cannot."""
    first = flights.measured_BK.float().argmax(1, keepdim=True)
    largest = torch.maximum(start, end).amax(1)
    scale = torch.maximum(start.gather(1, first)[:, 0], _LEAST_SHARE_OF_LARGEST * largest)
    visible = scale.detach() > _VISIBLE_SIGMAS * flights.sigma_B
    return torch.where(visible, scale, torch.ones_like(scale)), visible


def _within(flights: Flights, g_BK: Tensor, lowest_B: Tensor, scale_B: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.linspace(0, 1, _MOMENTS, device=scale_B.device).to(flights.start_s_BK)
    times = flights.start_s_BK[..., None] + flights.duration_s_BK[..., None] * share
    head = _head(flights, times, g_BK, lowest_B) / scale_B[:, None, None]
    return (head[..., -1] - head[..., 0]).abs(), head.var(-1, unbiased=False)


def _rise(flights, start, end, lowest_B, scale_B, tolerance: float, spin_share: float) -> Tensor:
    """Sum of the rises from each measured piece to the next, beyond the tolerance and the spin that can be there."""
    rise, stored = torch.zeros_like(scale_B), torch.zeros_like(scale_B)
    before, begun = torch.zeros_like(scale_B), torch.zeros_like(scale_B, dtype=torch.bool)
    height = flights.position_at(flights.start_s_BK[..., None])[:, :, 0, -1] - lowest_B[:, None]
    touches = height.detach() < flights.trajectory.radius_B[:, None].to(height)
    for k in range(start.shape[1]):
        here = flights.measured_BK[:, k]
        change = (start[:, k] - before) / scale_B
        spin = torch.where(touches[:, k], stored.clamp(max=spin_share), torch.zeros_like(stored))
        step = here & begun
        rise = rise + torch.where(step, (change - tolerance - spin).clamp(min=0), torch.zeros_like(change))
        with torch.no_grad():
            used = torch.minimum(change.clamp(min=0), spin)
            stored = stored + torch.where(step, (-change).clamp(min=0) - used, torch.zeros_like(change))
        before, begun = torch.where(here, end[:, k], before), begun | here
    return rise

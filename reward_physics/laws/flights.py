"""All flights and rests of a track, each fitted, with the sub-frame times at which they meet.

Every moving piece is a parabola by `kinematics.fit_arc`, every rest a point. Two neighbouring pieces meet where their
fitted paths come nearest: found on a grid, then by Gauss-Newton; the last step is differentiable,

    t = t_0 - (d . w) / (w . w),    d = x_k(t_0) - x_k+1(t_0),  w = v_k - v_k+1 (detached),

which is the derivative of the intersection by the implicit function theorem. Frames on the wrong side of a meeting are
dropped, and the pieces fitted again.

Axes: B clips, T frames, K pieces of a clip in the order of time, D coordinates (the last of them up), S displacements.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from reward_physics.laws.arcs import Segments, find_segments
from reward_physics.laws.kinematics import MIN_FRAMES, ArcFit, fit_arc
from reward_physics.laws.path_errors import speed_sd

_NEIGHBOURS_FRAMES = 3
_GRID = 65


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The path of one object, in whatever unit is known.

    Args:
        time_BT: s.
        position_BTD: (right, up), or (right, away from the camera, up).
        weight_BT: trust in [0, 1]; frames under 0.1 are missing.
        sigma_B: noise that no position can fall under, in the unit of the positions.
        radius_B: the object's radius in that unit, detached.
        unit: `m`; `distance` (the camera's distance from the object is one, gravity points down); or `px` (down in the
            image is taken for the direction of gravity).
        at_rest_B: True where the object is known to be released at rest in the first frame, or None.
        displacement_BSD: displacement by flow from frame s to s + stride, or None.
        sigma_displacement_B: its noise.
        stride: frames between its ends.
        reasons: why a clip has no track, None where it has.
    """

    time_BT: Tensor
    position_BTD: Tensor
    weight_BT: Tensor
    sigma_B: Tensor
    radius_B: Tensor
    unit: Literal["m", "distance", "px"]
    at_rest_B: Tensor | None = None
    displacement_BSD: Tensor | None = None
    sigma_displacement_B: Tensor | None = None
    stride: int = 1
    reasons: list[str | None] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flights:
    """The fitted pieces of every clip. Pieces that are not measured hold zeros, never NaN.

    Args:
        position_BKD, velocity_BKD, accel_BKD: at the mid time of each piece, in the trajectory's unit and seconds; zero
            velocity and acceleration for a rest.
        accel_var_BK: variance of one component of the acceleration, detached.
        mid_time_BK: s.
        start_s_BK, end_s_BK: first and last moment: the meeting with the neighbour, else the first and last frame.
        meets_BK: True where a piece meets the next one: at an impact, a release, a landing or a kick.
        gap_BK: distance between the two paths where they meet, zero elsewhere.
        measured_BK: True where a piece is fitted.
        flight_BK: True where it moves vertically too.
        rest_BK: True where it stands still.
        from_rest_BK: True where a flight is known to begin without velocity: after a rest that it meets, unless it
            begins upwards (a hand throws it), or by `at_rest_B`.
        weights_BKT: the frames of each piece, detached.
        sigma_B: noise of the positions.
        trajectory: what was fitted.
        reasons: None, or why a clip has no flight.
    """

    position_BKD: Tensor
    velocity_BKD: Tensor
    accel_BKD: Tensor
    accel_var_BK: Tensor
    mid_time_BK: Tensor
    start_s_BK: Tensor
    end_s_BK: Tensor
    meets_BK: Tensor
    gap_BK: Tensor
    measured_BK: Tensor
    flight_BK: Tensor
    rest_BK: Tensor
    from_rest_BK: Tensor
    weights_BKT: Tensor
    sigma_B: Tensor
    trajectory: Trajectory
    reasons: list[str | None]

    @property
    def time_BT(self) -> Tensor:
        """When each frame was taken, s."""
        return self.trajectory.time_BT

    def position_at(self, time_BKN: Tensor) -> Tensor:
        """Positions (B, K, N, D) on each fitted path at N times (s)."""
        tau = (time_BKN - self.mid_time_BK[..., None]).to(self.position_BKD)[..., None]
        line = self.position_BKD[:, :, None] + self.velocity_BKD[:, :, None] * tau
        return line + 0.5 * self.accel_BKD[:, :, None] * tau.square()

    def velocity_at(self, time_BKN: Tensor) -> Tensor:
        """Velocities (B, K, N, D) on each fitted path at N times (s)."""
        tau = (time_BKN - self.mid_time_BK[..., None]).to(self.position_BKD)[..., None]
        return self.velocity_BKD[:, :, None] + self.accel_BKD[:, :, None] * tau

    @property
    def duration_s_BK(self) -> Tensor:
        return (self.end_s_BK - self.start_s_BK).clamp(min=0)

    @property
    def impact_time_BK(self) -> Tensor:
        """Times (s) at which flights end in the next piece, detached; NaN where they do not."""
        return torch.where(self.flight_BK & self.meets_BK, self.end_s_BK.detach(), torch.nan)

    @property
    def flies_B(self) -> Tensor:
        """True where a clip has a flight at all: what stands still, or is not seen, has none."""
        return self.flight_BK.any(1)


def find_flights(trajectory: Trajectory, *, min_frames: int = MIN_FRAMES) -> Flights:
    """Cut a trajectory into flights and rests, fit each, and find where they meet.

    Returns:
        Flights, differentiable in `position_BTD` and `displacement_BSD`; the cut itself is detached.
    """
    # The cut is made in the plane of the picture (right, up): what happens along the line of sight is a guess.
    position = trajectory.position_BTD
    seen_plane = position if position.shape[-1] == 2 else position[..., [0, 2]]
    segments = find_segments(
        time_BT=trajectory.time_BT,
        position_BTD=seen_plane,
        weight_BT=trajectory.weight_BT,
        sigma_floor_B=trajectory.sigma_B,
        min_frames=min_frames,
        reasons=trajectory.reasons,
        at_rest_B=trajectory.at_rest_B,
    )
    weights = segments.weights_BKT * trajectory.weight_BT.detach().to(segments.weights_BKT)[:, None]
    with torch.no_grad():
        rough = _fitted(trajectory, segments, weights, min_frames)
        weights = _without_wrong_side(rough, trajectory.time_BT, min_frames)
    return _fitted(trajectory, segments, weights, min_frames)


def _fitted(trajectory: Trajectory, segments: Segments, weights_BKT: Tensor, min_frames: int) -> Flights:
    batch, pieces, frames = weights_BKT.shape
    position, like = trajectory.position_BTD, trajectory.position_BTD
    used = weights_BKT > 0.1
    moving = segments.moving_BK & (used.sum(-1) >= min_frames)
    rest = segments.rest_BK & (used.sum(-1) >= 2)
    fit = _arcs(trajectory, segments.sigma_B, weights_BKT * moving[..., None], moving, min_frames)
    fitted, accel, velocity = (
        x.unflatten(0, (batch, pieces))[..., : position.shape[-1]]
        for x in (fit.position_B3, fit.accel_B3, fit.velocity_B3)
    )
    weight = weights_BKT.to(like)
    total = weight.sum(-1).clamp(min=1e-6)[..., None]
    inside = torch.where(weight[..., None] > 0, position[:, None], torch.zeros_like(position[:, None]))
    mean = (inside * weight[..., None]).sum(2) / total
    measured = moving | rest
    time = trajectory.time_BT[:, None].expand(-1, pieces, -1)
    first = torch.where(used, time, torch.inf).amin(-1).nan_to_num(posinf=0.0)
    last = torch.where(used, time, -torch.inf).amax(-1).nan_to_num(neginf=0.0)
    flights = Flights(
        position_BKD=torch.where(rest[..., None], mean, fitted),
        velocity_BKD=velocity,
        accel_BKD=accel,
        accel_var_BK=fit.accel_cov_B33[:, 0, 0].unflatten(0, (batch, pieces)),
        mid_time_BK=torch.where(measured, fit.mid_time_B.unflatten(0, (batch, pieces)), torch.zeros_like(first)),
        start_s_BK=first,
        end_s_BK=last,
        meets_BK=torch.zeros_like(measured),
        gap_BK=torch.zeros_like(fitted[..., 0]),
        measured_BK=measured,
        flight_BK=segments.flight_BK & moving,
        rest_BK=rest,
        from_rest_BK=torch.zeros_like(measured),
        weights_BKT=weights_BKT * measured[..., None],
        sigma_B=segments.sigma_B,
        trajectory=trajectory,
        reasons=segments.reasons,
    )
    return _met(flights)


def _arcs(trajectory: Trajectory, sigma_B: Tensor, weights_BKT: Tensor, moving_BK: Tensor, min_frames: int) -> ArcFit:
    """Constant acceleration fitted to every piece as if it were a clip, (B K,)."""
    pieces = weights_BKT.shape[1]

    def flat(x: Tensor) -> Tensor:
        return x.repeat_interleave(pieces, 0)

    moved, noise = trajectory.displacement_BSD, trajectory.sigma_displacement_B
    return fit_arc(
        time_BT=flat(trajectory.time_BT),
        position_BTD=flat(trajectory.position_BTD),
        weight_BT=weights_BKT.flatten(0, 1),
        sigma_position_B=flat(sigma_B),
        displacement_BSD=None if moved is None else flat(moved),
        sigma_displacement_B=None if noise is None else flat(noise),
        stride=trajectory.stride,
        min_frames=min_frames,
        reasons=[None if moves else "not a moving piece" for moves in moving_BK.flatten().tolist()],
    )


def _met(flights: Flights) -> Flights:
    """The same pieces with the times at which neighbours meet."""
    first, last = flights.start_s_BK, flights.end_s_BK
    time_BT = flights.trajectory.time_BT
    step = (time_BT[:, 1:] - time_BT[:, :-1]).median(1).values if time_BT.shape[1] > 1 else torch.ones_like(first[:, 0])
    near = first[:, 1:] - last[:, :-1] <= (_NEIGHBOURS_FRAMES + 0.5) * step[:, None]
    meets = torch.nn.functional.pad(flights.measured_BK[:, :-1] & flights.measured_BK[:, 1:] & near, (0, 1))
    after = dataclasses.replace(
        flights,
        **{name: getattr(flights, name).roll(-1, 1) for name in ("position_BKD", "velocity_BKD", "accel_BKD")},
        mid_time_BK=flights.mid_time_BK.roll(-1, 1),
    )
    low, high = last - step[:, None], torch.where(meets, first.roll(-1, 1), last) + step[:, None]
    with torch.no_grad():
        grid = low[..., None] + (high - low)[..., None] * torch.linspace(0, 1, _GRID, device=low.device).to(low)
        away = (flights.position_at(grid) - after.position_at(grid)).square().sum(-1)
        time = grid.gather(-1, away.argmin(-1, keepdim=True))[..., 0]
        for _ in range(3):
            time = torch.minimum(torch.maximum(_nearer(flights, after, time, step), low), high)
    time = torch.where(meets, _nearer(flights, after, time, step), last)
    gap = (flights.position_at(time[..., None]) - after.position_at(time[..., None]))[:, :, 0]
    # The norm has no derivative at zero: there its gradient is zero.
    length = torch.where(gap.detach().norm(dim=-1) > 0, (gap.square().sum(-1) + 1e-24).sqrt(), 0 * gap.sum(-1))
    start = torch.cat((first[:, :1], torch.where(meets[:, :-1], time[:, :-1], first[:, 1:])), dim=1)
    climb = flights.velocity_at(start[..., None])[:, :, 0, -1].detach()
    thrown = climb > 3 * speed_sd(flights, start.detach())
    from_rest = torch.nn.functional.pad(meets[:, :-1] & flights.rest_BK[:, :-1], (1, 0)) & ~thrown
    if flights.trajectory.at_rest_B is not None:
        trusted = flights.trajectory.weight_BT.detach() > 0.1
        clip_starts = torch.where(trusted, time_BT, torch.inf).amin(1)
        from_rest = from_rest | (flights.trajectory.at_rest_B[:, None] & (first == clip_starts[:, None]))
    return dataclasses.replace(
        flights,
        start_s_BK=start,
        end_s_BK=time,
        meets_BK=meets,
        gap_BK=torch.where(meets, length, torch.zeros_like(length)),
        from_rest_BK=from_rest & flights.flight_BK,
    )


def _nearer(flights: Flights, after: Flights, time_BK: Tensor, step_B: Tensor) -> Tensor:
    """One Gauss-Newton step of the time at which two paths come nearest; none where their velocities are alike."""
    apart = (flights.position_at(time_BK[..., None]) - after.position_at(time_BK[..., None]))[:, :, 0]
    relative = (flights.velocity_at(time_BK[..., None]) - after.velocity_at(time_BK[..., None]))[:, :, 0].detach()
    speed2 = relative.square().sum(-1)
    alike = speed2.sqrt() * step_B[:, None] < 2 * flights.sigma_B[:, None]
    move = (apart * relative).sum(-1) / torch.where(alike, torch.ones_like(speed2), speed2)
    return time_BK - torch.where(alike, torch.zeros_like(move), move).to(time_BK)


def _without_wrong_side(flights: Flights, time_BT: Tensor, min_frames: int) -> Tensor:
    """The pieces' weights less the frames that lie beyond a meeting, where enough frames remain."""
    time = time_BT[:, None]
    weights = flights.weights_BKT
    outside = (time > flights.end_s_BK[..., None] - 1e-3) & flights.meets_BK[..., None]
    met_before = torch.nn.functional.pad(flights.meets_BK[:, :-1], (1, 0))[..., None]
    outside = outside | ((time < flights.start_s_BK[..., None] + 1e-3) & met_before)
    kept = torch.where(outside, torch.zeros_like(weights), weights)
    least = torch.where(flights.rest_BK, 2, min_frames)
    return torch.where(((kept > 0.1).sum(-1) >= least)[..., None], kept, weights)

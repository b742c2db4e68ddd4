"""Collisions of two bodies on their tracks: contact, non-penetration, causality, momentum with unknown masses.

Around the contact each body's track is fitted by a parabola before and one after (`kinematics.fit_arc`); with
dv = v_after - v_before at the contact and n the unit vector from body 1 to body 2:

    non-penetration   relu(r1 + r2 - d) / (r1 + r2)
    momentum          m1 dv1 + m2 dv2 = 0, so dv1 and dv2 are antiparallel and |dv1| / |dv2| = m2 / m1 at every contact
    Coulomb           |dv_t| <= mu |dv_n|
    restitution       e = -(v_after . n) / (v_before . n) of the relative velocity, in [0, 1]
    causality         no jump of velocity without contact; no contact with approach and no jump (e < 0: passing through)

Contact is sought detached: the moment at which the relative track changes its velocity most, against the error of that
change, among the frames where the bodies touch; a jump without contact is the same among those where they do not.

Axes: B clips, T frames, D coordinates (the last of them up), C contacts of a pair, 2 bodies.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.laws.kinematics import fit_arc

MIN_FRAMES = 4
_WINDOW_FRAMES = 12
_VISIBLE_SIGMAS, _VISIBLE_SDS = 3.0, 2.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two bodies.

    Args:
        time_BT: s.
        position_B2TD: any one unit.
        weight_B2T: trust in [0, 1].
        radius_B2: half of each body's extent along the line between them, in the same unit.
        sigma_B: noise of a position.
        longest_B2: half of each body's largest extent, for bodies that turn.
    """

    time_BT: Tensor
    position_B2TD: Tensor
    weight_B2T: Tensor
    radius_B2: Tensor
    sigma_B: Tensor
    longest_B2: Tensor

    @property
    def both_BT(self) -> Tensor:
        """True where both bodies are seen."""
        return (self.weight_B2T.detach() > 0.1).all(1)

    @property
    def travels_B(self) -> Tensor:
        """True where the bodies move against each other by more than the noise."""
        apart = (self.position_B2TD[:, 1] - self.position_B2TD[:, 0]).detach()
        high = torch.where(self.both_BT[..., None], apart, -torch.inf).amax(1)
        low = torch.where(self.both_BT[..., None], apart, torch.inf).amin(1)
        return ((high - low).amax(-1) > 2 * _VISIBLE_SIGMAS * self.sigma_B) & self.both_BT.any(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jump:
    """How both velocities change at one moment; zeros where it is not measured.

    Args:
        dv_B2D: change of each velocity.
        dv_sd_B2: standard error of a component of each, from the noise of the positions, detached.
        before_BD, after_BD: relative velocity v2 - v1.
        normal_BD: unit vector from body 1 to body 2, detached.
        time_B: s.
        measured_B: True where both sides are fitted.
    """

    dv_B2D: Tensor
    dv_sd_B2: Tensor
    before_BD: Tensor
    after_BD: Tensor
    normal_BD: Tensor
    time_B: Tensor
    measured_B: Tensor

    @property
    def closing_B(self) -> Tensor:
        """Speed of approach before, >= 0 when they come nearer."""
        return -(self.before_BD * self.normal_BD).sum(-1)

    @property
    def parting_B(self) -> Tensor:
        """Speed of separation after; negative where they pass through each other."""
        return (self.after_BD * self.normal_BD).sum(-1)


def penetration(pair: Pair) -> Tensor:
    """relu(r1 + r2 - d) / (r1 + r2) in every frame, (B, T), in [0, 1]; 0 where a body is not seen."""
    reach = pair.radius_B2.sum(1, keepdim=True)
    depth = (1 - _distance(pair) / reach.clamp(min=1e-9)).clamp(min=0)
    return torch.where(pair.both_BT, depth, torch.zeros_like(depth))


def contact_jump(pair: Pair, *, reach: float = 0.25) -> Jump:
    """The contact of every clip: bodies nearer than (1 + reach)(r1 + r2), or nearer than that between two frames, that
    change their relative velocity most. Here r is half of a body's largest extent: it may turn before it touches."""
    near = _near(pair, reach)
    return _jump_at(pair, _best_split(pair, near, pair.both_BT), pair.both_BT)


def jump_without_contact(pair: Pair, *, reach: float = 0.25) -> Jump:
    """The largest change of relative velocity while the bodies are farther apart than that, before they come near or
    after, whichever is longer."""
    near = _near(pair, reach)
    stretch = near.cumsum(1)
    free = ~near & pair.both_BT
    first, last = (torch.where(free, stretch, fill) for fill in (near.shape[1] + 1, -1))
    sides = [free & (stretch == end) for end in (first.amin(1, keepdim=True), last.amax(1, keepdim=True))]
    larger = (sides[0].sum(1) >= sides[1].sum(1))[:, None]
    apart = torch.where(larger, sides[0], sides[1])
    return _jump_at(pair, _best_split(pair, apart, apart), apart)


def momentum_error(jump: Jump, mass_ratio: float | None = None) -> Tensor:
    """How far the velocity changes are from conserving momentum, (B,), in [0, 1].

    Masses unknown: (1 + cos(dv1, dv2)) / 2. Known: relu(|m1 dv1 + m2 dv2| - s) / (|m1 dv1| + |m2 dv2|), mass_ratio
    = m2 / m1, with s the standard error of a component of the sum.
    """
    dv1, dv2 = _safe_changes(jump)
    if mass_ratio is None:
        cosine = (dv1 * dv2).sum(-1) / (_norm(dv1) * _norm(dv2))
        return torch.where(jump.measured_B, 0.5 * (1 + cosine), torch.zeros_like(cosine))
    noise = (jump.dv_sd_B2 * jump.dv_sd_B2.new_tensor([1.0, mass_ratio])).norm(dim=-1)
    away = (_norm(dv1 + mass_ratio * dv2) - noise.to(dv1)).clamp(min=0)
    error = away / (_norm(dv1) + mass_ratio * _norm(dv2))
    return torch.where(jump.measured_B, error, torch.zeros_like(error))


def direction_error(jump: Jump) -> Tensor:
    """Standard error of the angle between both velocity changes, rad, (B,), detached: sqrt(sum (sd / |dv|)^2)."""
    dv1, dv2 = _safe_changes(jump)
    size_B2 = torch.stack((_norm(dv1), _norm(dv2)), dim=1).detach()
    return (jump.dv_sd_B2 / size_B2).square().sum(1).sqrt()


def change_error(jump: Jump) -> Tensor:
    """Standard error of a component of the change of the relative velocity, (B,), detached."""
    return jump.dv_sd_B2.square().sum(1).sqrt()


def mass_ratio(jump: Jump) -> Tensor:
    """m2 / m1 = |dv1| / |dv2|, (B,); 1 where not measured."""
    dv1, dv2 = _safe_changes(jump)
    return _norm(dv1) / _norm(dv2)


def coulomb_excess(jump: Jump, friction: float) -> Tensor:
    """relu(|dv_t| - mu |dv_n|) / |dv| of the first body, (B,), in [0, 1]."""
    dv1, _ = _safe_changes(jump)
    along = (dv1 * jump.normal_BD).sum(-1)
    across = _norm(dv1 - along[:, None] * jump.normal_BD)
    excess = (across - friction * along.abs()).clamp(min=0) / _norm(dv1)
    return torch.where(jump.measured_B, excess, torch.zeros_like(excess))


def restitution(jump: Jump) -> tuple[Tensor, Tensor]:
    """e = parting / closing speed and where it is known (they approached), (B,) each; 0 elsewhere."""
    known = jump.measured_B & (jump.closing_B.detach() > 0)
    closing = torch.where(known, jump.closing_B, torch.ones_like(jump.closing_B))
    return torch.where(known, jump.parting_B / closing, torch.zeros_like(closing)), known


def is_visible(jump: Jump, pair: Pair) -> Tensor:
    """True where the relative velocity changes by more than 2.5 times its error, and by more than the noise a frame
    (what is followed exactly may still tremble), detached."""
    change = (jump.after_BD - jump.before_BD).detach().norm(dim=-1)
    large = change * _step(pair.time_BT) > pair.sigma_B
    return jump.measured_B & large & (change > _VISIBLE_SDS * change_error(jump))


def _norm(x: Tensor) -> Tensor:
    return (x.square().sum(-1) + 1e-24).sqrt()


def _step(time_BT: Tensor) -> Tensor:
    if time_BT.shape[1] < 2:
        return torch.ones_like(time_BT[:, 0])
    return (time_BT[:, 1:] - time_BT[:, :-1]).median(1).values


def _distance(pair: Pair) -> Tensor:
    """Distance of the centres (B, T); its gradient at zero is zero."""
    apart = pair.position_B2TD[:, 1] - pair.position_B2TD[:, 0]
    apart = torch.where(pair.both_BT[..., None], apart, torch.ones_like(apart))
    return _norm(apart)


def _near(pair: Pair, reach: float) -> Tensor:
    apart = _distance(pair).detach()
    moved = F.pad((apart[:, 1:] - apart[:, :-1]).abs(), (1, 1))
    # Between two frames they may have been nearer by half of what they move.
    nearest = apart - torch.maximum(moved[:, 1:], moved[:, :-1]) / 2
    return (nearest < (1 + reach) * pair.longest_B2.sum(1, keepdim=True)) & pair.both_BT


def _safe_changes(jump: Jump) -> tuple[Tensor, Tensor]:
    dv = torch.where(jump.measured_B[:, None, None], jump.dv_B2D, torch.ones_like(jump.dv_B2D))
    return dv[:, 0], dv[:, 1]


@torch.no_grad()
def _best_split(pair: Pair, allowed_BT: Tensor, used_BT: Tensor) -> Tensor:
    """Last frame before the jump, (B,), -1 where no split is allowed: where the relative track changes its velocity
    most, against the error of that change. A split between two frames is allowed where one of them is.

    The change is that of a parabola with a kink midway between the two frames, dv (X^T X)^-1 dv: by so much the kink
    lessens the squared residual. A split of least residual would be any quiet stretch beside the contact.
    """
    batch, frames = allowed_BT.shape
    best, most = torch.full((batch,), -1, device=allowed_BT.device), pair.time_BT.new_full((batch,), -torch.inf)
    apart = pair.position_B2TD[:, 1] - pair.position_B2TD[:, 0]
    for s in range(MIN_FRAMES - 1, frames - MIN_FRAMES):
        sides = [used_BT & side for side in _windows(torch.full_like(best, s), frames)]
        good = (allowed_BT[:, s] | allowed_BT[:, s + 1]) & torch.stack([x.sum(1) >= MIN_FRAMES for x in sides]).all(0)
        change = _kink(apart, sides[0] | sides[1], s + 0.5).to(most)
        better = good & (change > most)
        best, most = torch.where(better, s, best), torch.where(better, change, most)
    return best


def _kink(position: Tensor, inside: Tensor, at: float) -> Tensor:
    """Squared residual that a kink at the frame `at` takes from a parabola through the frames inside, (B,)."""
    weight = inside.double()
    tau = torch.arange(position.shape[1], device=position.device).double() - at
    design = torch.stack((torch.ones_like(tau), tau, tau.square(), tau.clamp(min=0)), dim=-1)
    target = torch.where(inside[..., None], position, torch.zeros_like(position)).double()
    weighted = (design * weight[..., None]).mT
    eye = torch.eye(4, dtype=tau.dtype, device=tau.device)
    inverse = torch.linalg.inv(weighted @ design + 1e-9 * eye)
    change = (inverse @ (weighted @ target))[:, 3]
    return change.square().sum(-1) / inverse[:, 3, 3].clamp(min=1e-12)


def _windows(split_B: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    frame = torch.arange(frames, device=split_B.device)
    before = (frame <= split_B[:, None]) & (frame > split_B[:, None] - _WINDOW_FRAMES)
    after = (frame > split_B[:, None]) & (frame <= split_B[:, None] + _WINDOW_FRAMES)
    return before, after


def _jump_at(pair: Pair, split_B: Tensor, used_BT: Tensor) -> Jump:
    frames, dims = pair.time_BT.shape[1], pair.position_B2TD.shape[-1]
    hit_B = split_B >= 0
    at = split_B.clamp(0, max(frames - 2, 0))
    rows = torch.arange(len(at), device=at.device)
    time_B = 0.5 * (pair.time_BT[rows, at] + pair.time_BT[rows, (at + 1).clamp(max=frames - 1)])
    windows = torch.stack(_windows(at, frames), dim=1) & hit_B[:, None, None]
    weight = (windows & used_BT[:, None])[:, None] * pair.weight_B2T.detach()[:, :, None]
    fit = fit_arc(
        time_BT=pair.time_BT.repeat_interleave(4, 0),
        position_BTD=pair.position_B2TD.repeat_interleave(2, 1).flatten(0, 1),
        weight_BT=weight.flatten(0, 2),
        sigma_position_B=pair.sigma_B.repeat_interleave(4, 0),
        min_frames=MIN_FRAMES,
    )
    away = (time_B.repeat_interleave(4, 0) - fit.mid_time_B)[:, None].to(fit.velocity_B3)
    velocity = (fit.velocity_B3 + fit.accel_B3 * away)[:, :dims].unflatten(0, (-1, 2, 2))
    measured = hit_B & fit.measurable_B.unflatten(0, (-1, 4)).all(1)
    velocity = torch.where(measured[:, None, None, None], velocity, torch.zeros_like(velocity))
    apart = (pair.position_B2TD[:, 1] - pair.position_B2TD[:, 0]).detach()[rows, at]
    apart = torch.where(measured[:, None], apart, torch.ones_like(apart))
    share_B22 = _speed_variance(pair.time_BT[:, None, None], time_B[:, None, None, None], weight)
    sd_B2 = pair.sigma_B[:, None].to(velocity) * share_B22.sum(-1).sqrt().to(velocity)
    return Jump(
        dv_B2D=velocity[:, :, 1] - velocity[:, :, 0],
        dv_sd_B2=torch.where(measured[:, None], sd_B2, torch.zeros_like(sd_B2)),
        before_BD=velocity[:, 1, 0] - velocity[:, 0, 0],
        after_BD=velocity[:, 1, 1] - velocity[:, 0, 1],
        normal_BD=apart / apart.norm(dim=-1, keepdim=True).clamp(min=1e-9),
        time_B=time_B,
        measured_B=measured,
    )


@torch.no_grad()
def _speed_variance(time: Tensor, at: Tensor, weight: Tensor) -> Tensor:
    """Variance of a parabola's slope at a time, for positions of unit variance: c (X^T W X)^-1 c, c = (0, 1, tau)."""
    tau = (time - at).double()
    design = torch.stack((torch.ones_like(tau), tau, tau.square() / 2), dim=-1).expand(*weight.shape, 3)
    normal = (design * weight.double()[..., None]).mT @ design
    # Fewer than three frames know no slope: those jumps are not measured.
    return torch.linalg.inv(normal + 1e-12 * torch.eye(3, dtype=tau.dtype, device=tau.device))[..., 1, 1]

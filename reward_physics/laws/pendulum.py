"""Pendulums: the period of a small swing depends on the length alone,  T = 2 pi sqrt(L / g) (1 + theta^2 / 16).

The swing is fitted by  x(t) = c + A cos(w t) + B sin(w t):  w on a grid (variable projection), then Gauss-Newton, whose
last step is differentiable with a detached Jacobian. The length is known, or the radius of the circle that the bob
moves on, fitted by least squares of its distance to the track.

Reference: the first correction for finite swings, theta the amplitude in radians, is in any mechanics textbook
(Landau and Lifshitz, Mechanics, section 11).

Axes: B clips, T frames, G frequencies, P parameters.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

_LEAST_SWINGS = 0.6
_GRID = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pendulum:
    """What the swing of every clip says; ones where there is none.

    Args:
        period_s_B: of one swing to and fro.
        amplitude_B: of the sideways motion, track units.
        length_B: radius of the bob's circle, track units.
        angle_B: amplitude in radians, detached.
        residual_B: RMS distance from the sinusoid over its amplitude.
        measured_B: True where the bob swings visibly for at least 0.6 of a period.
        length_measured_B: True where its circle differs measurably from a line.
    """

    period_s_B: Tensor
    amplitude_B: Tensor
    length_B: Tensor
    angle_B: Tensor
    residual_B: Tensor
    measured_B: Tensor
    length_measured_B: Tensor

    def gravity(self, length_B: Tensor | None = None) -> Tensor:
        """g = 4 pi^2 L / T^2 (1 + theta^2 / 16)^2, (B,), in the unit of the length."""
        length = self.length_B if length_B is None else length_B
        return (2 * math.pi / self.period_s_B).square() * length * (1 + self.angle_B.square() / 16).square()


def measure_pendulum(*, time_BT: Tensor, position_BT2: Tensor, weight_BT: Tensor, sigma_B: Tensor) -> Pendulum:
    """Period, amplitude and length; differentiable in the positions.

    Args:
        time_BT: s.
        position_BT2: (sideways, up), any unit.
        weight_BT: trust in [0, 1].
        sigma_B: noise of a position.
    """
    weight = weight_BT.detach().double() * (weight_BT.detach() > 0.1)
    enough = (weight > 0).sum(1) >= 7
    position = torch.where(weight[..., None] > 0, position_BT2, torch.zeros_like(position_BT2)).double()
    time = time_BT.double()
    x = position[..., 0]
    with torch.no_grad():
        omega = _best_frequency(time, x, weight)
        linear = _solve_linear(time, x, weight, omega)
        for _ in range(6):
            linear, omega = _gauss_newton(time, x, weight, linear, omega)
    linear, omega = _gauss_newton(time, x, weight, linear, omega)
    amplitude = (linear[:, 1:].square().sum(-1) + 1e-30).sqrt()
    residual = x - _model(time, linear, omega)
    total = weight.sum(1).clamp(min=1e-9)
    rms = ((weight * residual.square()).sum(1) / total + 1e-30).sqrt()
    span = _span(time, weight)
    positive = omega.detach() > 1e-6
    swings = span * omega.detach() / (2 * math.pi) > _LEAST_SWINGS
    shaken = rms.detach() < 0.5 * amplitude.detach()
    measured = enough & positive & swings & shaken & (amplitude.detach() > 6 * sigma_B)
    length, sagitta = _circle(position, weight, measured)
    long_enough = measured & (sagitta > 3 * sigma_B)
    ones = torch.ones_like(amplitude)
    like = position_BT2
    length = torch.where(long_enough, length, ones)
    angle = torch.where(long_enough, (amplitude / length).detach().clamp(max=1).asin(), torch.zeros_like(ones))
    return Pendulum(
        period_s_B=(2 * math.pi / torch.where(measured, omega, ones)).to(like),
        amplitude_B=torch.where(measured, amplitude, ones).to(like),
        length_B=length.to(like),
        angle_B=angle.to(like),
        residual_B=(torch.where(measured, rms, ones) / torch.where(measured, amplitude, ones)).to(like),
        measured_B=measured,
        length_measured_B=long_enough,
    )


def _span(time: Tensor, weight: Tensor) -> Tensor:
    last = torch.where(weight > 0, time, -torch.inf).amax(1)
    first = torch.where(weight > 0, time, torch.inf).amin(1)
    return (last - first).clamp(min=0).nan_to_num(0.0, 0.0, 0.0)


def _design(time: Tensor, omega_B: Tensor) -> Tensor:
    phase = omega_B[:, None] * time
    return torch.stack((torch.ones_like(phase), phase.cos(), phase.sin()), dim=-1)


def _model(time: Tensor, linear_B3: Tensor, omega_B: Tensor) -> Tensor:
    return (_design(time, omega_B) * linear_B3[:, None]).sum(-1)


def _regularised(normal: Tensor) -> Tensor:
    eye = torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    size = normal.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-9)
    return normal + 1e-9 * size[..., None, None] * eye


def _solve_linear(time: Tensor, x: Tensor, weight: Tensor, omega: Tensor) -> Tensor:
    design = _design(time, omega)
    weighted = (design * weight[..., None]).mT
    return torch.linalg.solve(_regularised(weighted @ design), (weighted @ x[..., None])[..., 0])


def _best_frequency(time: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The frequency of least residual between a third of a swing in the clip and a quarter of the frame rate."""
    step = (time[:, 1:] - time[:, :-1]).median(1).values if time.shape[1] > 1 else time[:, 0] + 1
    low = 2 * math.pi / 3 / _span(time, weight).clamp(min=1e-6)
    high = torch.maximum(math.pi / (2 * step), 1.01 * low)
    share = torch.linspace(0, 1, _GRID, dtype=time.dtype, device=time.device)
    grid = low[:, None] * (high / low)[:, None] ** share
    rss = []
    for omega in grid.unbind(1):
        residual = x - _model(time, _solve_linear(time, x, weight, omega), omega)
        rss.append((weight * residual.square()).sum(1))
    return grid.gather(1, torch.stack(rss, 1).argmin(1, keepdim=True))[:, 0]


def _gauss_newton(time: Tensor, x: Tensor, weight: Tensor, linear: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    design = _design(time, omega)
    phase = omega[:, None] * time
    slope = time * (-linear[:, 1:2] * phase.sin() + linear[:, 2:] * phase.cos())
    jacobian = torch.cat((design, slope[..., None]), dim=-1)
    weighted = (jacobian * weight[..., None]).mT
    residual = x - (design * linear[:, None]).sum(-1)
    step = torch.linalg.solve(_regularised(weighted @ jacobian), (weighted @ residual[..., None])[..., 0])
    return linear + step[:, :3], omega + step[:, 3]


def _circle(position: Tensor, weight: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
    """Radius of the circle through the track, and how far it bends within the track (detached)."""
    centred = position - _weighted_mean(position, weight)[:, None]
    scale = (weight[..., None] * centred.square()).sum((1, 2)) / weight.sum(1).clamp(min=1e-9)
    scale = torch.where(measured, scale, torch.ones_like(scale)).clamp(min=1e-18).sqrt().detach()
    p = centred / scale[:, None, None]
    with torch.no_grad():
        design = torch.cat((2 * p, torch.ones_like(p[..., :1])), dim=-1)
        weighted = (design * weight[..., None]).mT
        normal = _regularised(weighted @ design)
        solution = torch.linalg.solve(normal, (weighted @ p.square().sum(-1, keepdim=True))[..., 0])
        radius = (solution[:, 2] + solution[:, :2].square().sum(-1)).clamp(min=1e-6).sqrt()
        unknown = torch.cat((solution[:, :2], radius[:, None]), dim=-1)
        for _ in range(20):
            unknown = _circle_step(p, weight, unknown)
    unknown = _circle_step(p, weight, unknown)
    sideways = torch.where(weight > 0, p[..., 0].detach() - unknown[:, None, 0].detach(), torch.zeros_like(weight))
    radius = unknown[:, 2]
    bend = radius.detach() - (radius.detach().square() - sideways.abs().amax(1).square()).clamp(min=0).sqrt()
    return radius * scale, bend * scale


def _circle_step(p: Tensor, weight: Tensor, unknown: Tensor) -> Tensor:
    """One Gauss-Newton step of sum w (|p - c| - R)^2."""
    offset = p - unknown[:, None, :2]
    away = (offset.square().sum(-1) + 1e-18).sqrt()
    jacobian = torch.cat((-offset / away[..., None], -torch.ones_like(away)[..., None]), dim=-1).detach()
    weighted = (jacobian * weight[..., None]).mT
    residual = away - unknown[:, None, 2]
    return unknown - torch.linalg.solve(_regularised(weighted @ jacobian), (weighted @ residual[..., None])[..., 0])


def _weighted_mean(position: Tensor, weight: Tensor) -> Tensor:
    return (position * weight[..., None]).sum(1) / weight.sum(1).clamp(min=1e-9)[:, None]

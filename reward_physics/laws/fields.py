"""Fields: derivatives of a velocity field on a grid, and how far it obeys a conservation law.

Stencils are central inside and one-sided (of second order) at the borders. Every residual is divided by a size of the
field's own, since a field of zeros obeys everything: where there is nothing to divide by, the answer is NaN.

The divergence of an image flow is not that of the 3-D velocity: it holds the growth of what comes nearer.

Axes: B clips, T frames, H rows, W columns, 2 = (right, down).
"""

from __future__ import annotations

import torch
from torch import Tensor

_NOTHING = 1e-12


def derivative(field: Tensor, dim: int, step: float = 1.0) -> Tensor:
    """Derivative along an axis of at least two samples: (f[i+1] - f[i-1]) / 2 inside, (-3 f[0] + 4 f[1] - f[2]) / 2 at
    the ends, or (f[1] - f[0]) where the axis has two samples.

    Raises:
        ValueError: an axis of one sample.
    """
    f = field.movedim(dim, -1)
    if f.shape[-1] < 2:
        raise ValueError(f"fields: axis {dim} needs at least 2 samples, got {f.shape[-1]}")
    if f.shape[-1] == 2:
        slope = (f[..., 1:] - f[..., :1]).expand_as(f)
    else:
        first = -1.5 * f[..., :1] + 2 * f[..., 1:2] - 0.5 * f[..., 2:3]
        last = 1.5 * f[..., -1:] - 2 * f[..., -2:-1] + 0.5 * f[..., -3:-2]
        slope = torch.cat((first, 0.5 * (f[..., 2:] - f[..., :-2]), last), dim=-1)
    return (slope / step).movedim(-1, dim)


def divergence(velocity_BTHW2: Tensor, step: float = 1.0) -> Tensor:
    """du/dx + dv/dy, (B, T, H, W), per unit of time."""
    return derivative(velocity_BTHW2[..., 0], -1, step) + derivative(velocity_BTHW2[..., 1], -2, step)


def gradient_energy(velocity_BTHW2: Tensor, step: float = 1.0) -> Tensor:
    """Squared size of the velocity gradient, sum_ij (d_i v_j)^2, (B, T, H, W)."""
    along = (derivative(velocity_BTHW2, dim, step).square().sum(-1) for dim in (-2, -3))
    return sum(along, torch.zeros_like(velocity_BTHW2[..., 0]))


def divergence_share(velocity_BTHW2: Tensor, weight_BTHW: Tensor | None = None) -> Tensor:
    """Share of the gradient that is divergence,  sum w (div v)^2 / sum w |grad v|^2,  (B,), in [0, 2].

    0 for a flow of constant volume, 1 for a shear along one axis that stretches, 2 for pure expansion. NaN for a field
    without gradient: still, or moving as one.
    """
    weight = _weight(velocity_BTHW2[..., 0], weight_BTHW)
    above = weight * divergence(velocity_BTHW2).square()
    below = weight * gradient_energy(velocity_BTHW2)
    largest = (weight * velocity_BTHW2.square().sum(-1)).sum((1, 2, 3))
    return _ratio(above.sum((1, 2, 3)), below.sum((1, 2, 3)), least=1e-9 * largest)


def advection_residual(quantity_BTHW: Tensor, velocity_BTHW2: Tensor, dt: float = 1.0, step: float = 1.0) -> Tensor:
    """Share of change that transport does not explain, for  dq/dt + v . grad q = 0:

        sum r^2 / sum ((dq/dt)^2 + (v . grad q)^2),  (B,), in [0, 2].

    Args:
        quantity_BTHW: what is carried, at the same moments as the velocity, T >= 2.
        velocity_BTHW2: in `step` per `dt`; the motion from frame to frame is to stay under the size of what is carried.
    """
    change = derivative(quantity_BTHW, 1, dt)
    carried = _along(quantity_BTHW, velocity_BTHW2, step)
    return _balance(change, carried)


def continuity_residual(density_BTHW: Tensor, velocity_BTHW2: Tensor, dt: float = 1.0, step: float = 1.0) -> Tensor:
    """Share of change that no flux explains, for  d rho/dt + div(rho v) = 0,  (B,), in [0, 2]: mass is neither made nor
    lost. Arguments as in `advection_residual`."""
    change = derivative(density_BTHW, 1, dt)
    return _balance(change, divergence(density_BTHW[..., None] * velocity_BTHW2, step))


def inertia_residual(velocity_BTHW2: Tensor, dt: float = 1.0, step: float = 1.0) -> Tensor:
    """The same for  dv/dt + (v . grad) v = 0  (Burgers without viscosity): every parcel keeps its velocity; (B,)."""
    change = derivative(velocity_BTHW2, 1, dt)
    carried = torch.stack([_along(velocity_BTHW2[..., i], velocity_BTHW2, step) for i in (0, 1)], dim=-1)
    return _balance(change, carried)


def _along(quantity: Tensor, velocity: Tensor, step: float) -> Tensor:
    return velocity[..., 0] * derivative(quantity, -1, step) + velocity[..., 1] * derivative(quantity, -2, step)


def _balance(change: Tensor, transport: Tensor) -> Tensor:
    axes = tuple(range(1, change.ndim))
    return _ratio((change + transport).square().sum(axes), (change.square() + transport.square()).sum(axes))


def _weight(like: Tensor, weight: Tensor | None) -> Tensor:
    return torch.ones_like(like) if weight is None else weight.detach().to(like)


def _ratio(above_B: Tensor, below_B: Tensor, least: Tensor | None = None) -> Tensor:
    """above / below, NaN where below is nothing; the NaN comes last, so that no gradient meets it."""
    floor = torch.full_like(below_B, _NOTHING) if least is None else least.detach().clamp(min=_NOTHING)
    something = below_B.detach() > floor
    ratio = torch.where(something, above_B, torch.zeros_like(above_B)) / torch.where(
        something, below_B, torch.ones_like(below_B)
    )
    return torch.where(something, ratio, torch.nan)

"""Divergence and conservation laws of fields whose derivatives are known."""

import math

import pytest
import torch
from paths import spearman

from reward_physics.laws import fields


def grid(height=20, width=24):
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return u - width / 2, v - height / 2


def vortex(frames=3):
    u, v = grid()
    return torch.stack((-v, u), dim=-1).expand(1, frames, -1, -1, 2) * 0.1


def expansion(frames=3):
    u, v = grid()
    return torch.stack((u, v), dim=-1).expand(1, frames, -1, -1, 2) * 0.1


def test_derivatives_of_a_parabola_are_exact_also_at_the_borders():
    x = torch.arange(6).double() * 0.5
    torch.testing.assert_close(fields.derivative(x.square(), 0, 0.5), 2 * x)
    torch.testing.assert_close(fields.derivative(torch.tensor([1.0, 4.0]), 0), torch.tensor([3.0, 3.0]))
    with pytest.raises(ValueError, match="needs at least 2 samples, got 1"):
        fields.derivative(torch.zeros(1), 0)


def test_divergence_by_hand():
    torch.testing.assert_close(fields.divergence(expansion()), torch.full((1, 3, 20, 24), 0.2).double())
    assert fields.divergence(vortex()).abs().max() < 1e-12
    torch.testing.assert_close(fields.gradient_energy(vortex()), torch.full((1, 3, 20, 24), 0.02).double())


def test_the_share_is_zero_for_a_vortex_two_for_an_expansion_and_grows_between():
    mixes = torch.linspace(0, 1, 8)
    shares = [fields.divergence_share((1 - m) * vortex() + m * expansion()).item() for m in mixes]
    assert shares[0] == pytest.approx(0, abs=1e-12) and shares[-1] == pytest.approx(2.0)
    assert spearman(mixes, shares) >= 0.99
    # Neither speed nor a common motion counts.
    moved = 7 * (0.5 * vortex() + 0.5 * expansion()) + 3
    assert fields.divergence_share(moved).item() == pytest.approx(1.0)


def test_a_field_without_gradient_says_nothing():
    for value in (0.0, 1.5):
        flow = torch.full((1, 2, 8, 8, 2), value, dtype=torch.float64).requires_grad_()
        share = fields.divergence_share(flow)
        assert share.isnan().all()
        (gradient,) = torch.autograd.grad(torch.where(share.isnan(), 0 * flow.sum(), share).sum(), flow)
        assert torch.isfinite(gradient).all()
    still = torch.ones(1, 3, 8, 8)
    assert fields.continuity_residual(still, torch.zeros(1, 3, 8, 8, 2)).isnan().all()


def cloud(frames=6, lost=0.0, speed=0.5):
    """A wide cloud that drifts to the right, and loses a share of its mass a frame."""
    u, v = grid(32, 40)
    clouds = [(1 - lost) ** t * torch.exp(-((u + 4 - speed * t) ** 2 + v**2) / (2 * 5.0**2)) for t in range(frames)]
    return torch.stack(clouds)[None]


def drift(frames=6, speed=0.5):
    return torch.tensor([speed, 0.0]).double().expand(1, frames, 32, 40, 2)


def test_mass_lost_grows_the_residual_of_continuity():
    lost = torch.linspace(0, 0.2, 8)
    residuals = [fields.continuity_residual(cloud(lost=float(x)), drift()).item() for x in lost]
    assert residuals[0] < 0.002 and spearman(lost, residuals) >= 0.99


def test_advection_knows_the_velocity():
    speeds = torch.linspace(0.5, -0.5, 8)
    residuals = [fields.advection_residual(cloud(), drift(speed=float(s))).item() for s in speeds]
    assert residuals[0] < 0.002 and residuals[-1] > 1.9 and spearman(-speeds, residuals) >= 0.99


def test_parcels_that_keep_their_velocity_have_no_residual_of_inertia():
    u, _ = grid(16, 32)
    times = torch.arange(5).double()
    # u(x, t) = x / (t + t0): an expansion whose parcels coast.
    coasting = torch.stack([torch.stack((u / (t + 20), 0 * u), dim=-1) for t in times])[None]
    driven = torch.stack([torch.stack((u / 20, 0 * u), dim=-1) for _ in times])[None]
    assert fields.inertia_residual(coasting).item() < 0.01
    assert fields.inertia_residual(driven).item() == pytest.approx(1.0)


@pytest.mark.parametrize("law", ["divergence_share", "advection", "continuity", "inertia"])
def test_gradcheck_and_batches(law):
    draw = torch.Generator().manual_seed(0)
    flow = torch.randn(2, 3, 4, 5, 2, generator=draw, dtype=torch.float64).requires_grad_()
    density = torch.rand(2, 3, 4, 5, generator=draw, dtype=torch.float64).requires_grad_()

    def value(f, q):
        if law == "divergence_share":
            return fields.divergence_share(f) + 0 * q.sum()
        if law == "inertia":
            return fields.inertia_residual(f) + 0 * q.sum()
        return getattr(fields, f"{law}_residual")(q, f)

    assert torch.autograd.gradcheck(value, (flow, density))
    both = value(flow, density)
    alone = torch.cat([value(flow[[n]], density[[n]]) for n in (1, 0)])
    torch.testing.assert_close(both.flip(0), alone)
    assert value(flow.float(), density.float()).dtype == torch.float32


def test_a_wave_has_the_derivative_of_a_wave():
    x = torch.arange(200).double() * 0.05
    torch.testing.assert_close(fields.derivative(x.sin(), 0, 0.05), x.cos(), atol=2e-3, rtol=0)
    assert math.isfinite(fields.derivative(x.sin(), 0, 0.05).sum())

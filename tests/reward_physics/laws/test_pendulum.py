"""A pendulum's period gives back the gravity that it was simulated with."""

import math

import pytest
import torch
from paths import spearman, times

from reward_physics.laws.pendulum import measure_pendulum


def swing(g: float = 9.81, length: float = 0.5, angle_deg: float = 15.0, frames: int = 40) -> torch.Tensor:
    """(1, T, 2): the bob of an exact pendulum, by 200 steps of Verlet a frame."""
    theta, rate, out, dt = math.radians(angle_deg), 0.0, [], 1 / 24 / 200
    for _ in range(frames):
        out.append((length * math.sin(theta), 1 - length * math.cos(theta)))
        for _ in range(200):
            half = rate - 0.5 * dt * g / length * math.sin(theta)
            theta += dt * half
            rate = half - 0.5 * dt * g / length * math.sin(theta)
    return torch.tensor(out, dtype=torch.float64)[None]


def measured(position, noise=0.0):
    draw = torch.Generator().manual_seed(0)
    noisy = position + noise * torch.randn(position.shape, generator=draw, dtype=torch.float64)
    batch, frames, _ = position.shape
    return measure_pendulum(
        time_BT=times(frames, batch),
        position_BT2=noisy,
        weight_BT=torch.ones(batch, frames),
        sigma_B=torch.full((batch,), max(noise, 1e-3)),
    )


@pytest.mark.parametrize("g", [2.0, 9.81, 16.0])
@pytest.mark.parametrize("angle", [8.0, 20.0, 35.0])
def test_g_from_period_and_known_length(g, angle):
    found = measured(swing(g, angle_deg=angle, frames=48))
    assert found.measured_B.all()
    theta = torch.tensor([math.radians(angle)])
    finite = (2 * math.pi / found.period_s_B) ** 2 * 0.5 * (1 + theta**2 / 16) ** 2
    assert finite.item() == pytest.approx(g, rel=0.01 if angle < 30 else 0.04)


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_the_circle_gives_the_length(noise):
    found = measured(swing(angle_deg=30), noise)
    assert found.length_measured_B.all()
    assert found.length_B.item() == pytest.approx(0.5, rel=0.03)
    assert found.gravity().item() == pytest.approx(9.81, rel=0.04)
    assert math.degrees(found.angle_B.item()) == pytest.approx(30, abs=1.5)


def test_periods_fall_as_g_grows():
    gs = torch.linspace(2, 16, 8)
    assert spearman(-gs, [measured(swing(float(g))).period_s_B.item() for g in gs]) >= 0.99


def test_frozen_falling_and_short_clips_do_not_swing():
    still = measured(swing()[:, :1].expand(1, 40, 2))
    falling = measured(torch.stack((0 * times(12), -4.9 * times(12) ** 2), dim=-1))
    short = measured(swing(frames=6))
    assert not (still.measured_B.any() or falling.measured_B.any() or short.measured_B.any())


def test_gradients_are_finite_everywhere_and_equal_finite_differences():
    for position in (swing()[:, :1].expand(1, 20, 2).clone(), swing(frames=3), swing(angle_deg=25)):
        position = position.requires_grad_()
        found = measured(position)
        (gradient,) = torch.autograd.grad((found.period_s_B + found.length_B + found.residual_B).sum(), position)
        assert torch.isfinite(gradient).all()
    position = swing(angle_deg=3, length=2.0, frames=60).requires_grad_()
    push = torch.sin(torch.arange(60).double() / 3)[None, :, None] * torch.tensor([1.0, 0.0]).double()

    def value(p):
        return measured(p).period_s_B[0]

    (gradient,) = torch.autograd.grad(value(position), position)
    numeric = (value((position + 1e-6 * push).detach()) - value((position - 1e-6 * push).detach())) / 2e-6
    assert (gradient * push).sum().item() == pytest.approx(numeric.item(), rel=0.02)

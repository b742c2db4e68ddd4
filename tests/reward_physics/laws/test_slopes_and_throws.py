"""Throws, slides and Galileo's ratio on analytic paths."""

import math

import pytest
import torch
from paths import bounce, path, spearman, times

from reward_physics.laws.flights import find_flights
from reward_physics.laws.galileo import measure_galileo
from reward_physics.laws.incline import measure_incline
from reward_physics.laws.projectile import measure_projectile


def throw(accel=(0.0, -9.81), velocity=(1.5, 3.5), frames=18, drag=0.0):
    time = times(frames)[0]
    out, x, v = [], torch.tensor([0.0, 1.0]).double(), torch.tensor(velocity).double()
    for _ in time:
        out.append(x)
        for _ in range(100):
            v = v + (torch.tensor(accel).double() - drag * v.norm() * v) / 24 / 100
            x = x + v / 24 / 100
    return torch.stack(out)[None]


def slide(angle_deg=30.0, mu=0.2, g=9.81, speed=0.1, frames=16):
    theta = math.radians(angle_deg)
    way = speed * times(frames) + 0.5 * g * (math.sin(theta) - mu * math.cos(theta)) * times(frames) ** 2
    return torch.stack((way * math.cos(theta), 2 - way * math.sin(theta)), dim=-1)


def test_range_and_apex_of_a_throw():
    found = measure_projectile(find_flights(path(throw())))
    assert found.range_BK[0, 0].item() == pytest.approx(2 * 1.5 * 3.5 / 9.81, rel=0.02)
    assert found.apex_BK[0, 0].item() == pytest.approx(3.5**2 / (2 * 9.81), rel=0.02)
    assert found.tilt_BK[0, 0] < 1e-4 and found.asymmetry_BK[0, 0].abs() < 1e-2


def test_drag_is_read_as_an_asymmetry_and_a_push_as_a_tilt():
    drags = [0.0, 0.05, 0.1, 0.2, 0.4]
    read = [measure_projectile(find_flights(path(throw(drag=d)))).asymmetry_BK[0, 0].abs().item() for d in drags]
    assert spearman(drags, read) >= 0.99 and read[-1] > 0.2
    pushes = [0.0, 1.0, 2.0, 4.0, 8.0]
    tilts = [measure_projectile(find_flights(path(throw((a, -9.81))))).tilt_BK[0, 0].item() for a in pushes]
    assert spearman(pushes, tilts) >= 0.99
    assert tilts[3] == pytest.approx(1 - 9.81 / math.hypot(4, 9.81), abs=1e-3)


def test_no_acceleration_has_a_tilt_of_one():
    found = measure_projectile(find_flights(path(throw((0.0, 0.0), (1.0, 1.0)))))
    assert found.tilt_BK[0, 0].item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("angle", [15.0, 30.0, 45.0])
@pytest.mark.parametrize("mu", [0.0, 0.2])
def test_a_slide_gives_its_angle_and_friction(angle, mu):
    found = measure_incline(find_flights(path(slide(angle, mu))))
    assert math.degrees(math.asin(found.sin_B.item())) == pytest.approx(angle, abs=0.1)
    assert found.friction(9.81).item() == pytest.approx(mu, abs=0.005)
    assert found.across_B < 1e-3 and found.downhill_B.all()


def test_uphill_friction_acts_the_other_way():
    theta, mu = math.radians(30), 0.2
    way = 3.0 * times(12) - 0.5 * 9.81 * (math.sin(theta) + mu * math.cos(theta)) * times(12) ** 2
    found = measure_incline(find_flights(path(torch.stack((way * math.cos(theta), way * math.sin(theta)), dim=-1))))
    assert not found.downhill_B.any() and found.friction(9.81).item() == pytest.approx(mu, abs=0.005)


def test_galileo_is_one_for_a_fall_whatever_g_and_the_clock():
    for g in (2.0, 9.81, 16.0):
        found = measure_galileo(find_flights(path(bounce(g=g, frames=22), at_rest=True)))
        assert found.fall_measured_BK[0, 0] and found.fall_ratio_BK[0, 0].item() == pytest.approx(1.0, abs=0.01)


def test_galileo_is_two_for_a_drift_and_grows_on_the_way():
    speeds = torch.linspace(0, 3, 7)
    ratios = []
    for v in speeds:
        z = 2 - v * times(14) - 0.5 * (9.81 - 3.27 * v) * times(14) ** 2
        found = measure_galileo(find_flights(path(torch.stack((0 * z, z), dim=-1), at_rest=True)))
        ratios.append(found.fall_ratio_BK[0, 0].item())
    assert ratios[0] == pytest.approx(1, abs=1e-3) and ratios[-1] == pytest.approx(2, abs=1e-3)
    assert spearman(speeds, ratios) >= 0.99


def test_galileo_between_flights_sees_a_changed_gravity():
    same = measure_galileo(find_flights(path(bounce(frames=24), at_rest=True)))
    other = measure_galileo(find_flights(path(bounce(g_after=5.0, frames=30), at_rest=True)))
    assert same.between_BK[0, 0].item() == pytest.approx(1, abs=0.01)
    assert other.between_BK[0, 0].item() == pytest.approx(9.81 / 5.0, abs=0.05)


@pytest.mark.parametrize("measure", [measure_projectile, measure_incline, measure_galileo])
@pytest.mark.parametrize("frames", [1, 3, 20])
def test_frozen_clips_are_not_measured_and_have_finite_gradients(measure, frames):
    position = bounce()[:, :1].expand(1, frames, 2).clone().requires_grad_()
    found = measure(find_flights(path(position, at_rest=True)))
    measured = [value for name, value in vars(found).items() if "measured" in name]
    assert measured and not any(value.any() for value in measured)
    total = sum(value.sum() for value in vars(found).values() if value.requires_grad)
    (gradient,) = torch.autograd.grad(total, position)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("measure", "name", "position"),
    [
        (measure_projectile, "tilt_BK", throw((1.0, -9.81))),
        (measure_projectile, "asymmetry_BK", throw(drag=0.05)),
        (measure_projectile, "range_BK", throw()),
        (measure_incline, "along_B", slide()),
        (measure_incline, "sin_B", slide()),
        (measure_galileo, "fall_ratio_BK", bounce(frames=12)),
    ],
)
def test_gradients_equal_finite_differences(measure, name, position):
    def value(p):
        return getattr(measure(find_flights(path(p, at_rest=name == "fall_ratio_BK"))), name).sum()

    position = position.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(position), position)
    push = torch.randn(position.shape, generator=torch.Generator().manual_seed(2)).double()
    numeric = (value((position + 1e-6 * push).detach()) - value((position - 1e-6 * push).detach())) / 2e-6
    assert (gradient * push).sum().item() == pytest.approx(numeric.item(), rel=0.01, abs=1e-6)

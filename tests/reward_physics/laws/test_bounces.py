"""Restitution read three ways is one number."""

import pytest
import torch
from paths import bounce, path

from reward_physics.laws.bounces import measure_bounces
from reward_physics.laws.flights import find_flights


def bounces(position, noise=0.0):
    return measure_bounces(find_flights(path(position, noise=noise, at_rest=True)))


@pytest.mark.parametrize("e", [0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_three_ways_agree_at_the_true_value(e, noise):
    found = bounces(bounce(restitution=e, frames=22), noise)
    ways = (found.by_speed_BK, found.by_height_BK, found.by_time_BK)
    assert found.measured_BK[0].tolist()[:1] == [True] and found.three_BK[0, 0]
    assert [way[0, 0].item() for way in ways] == pytest.approx([e, e, e], abs=0.003 + 8 * noise)
    assert found.spread_BK[0, 0] < 0.003 + 10 * noise


def test_the_times_of_two_impacts_are_read_where_both_are_seen():
    found = bounces(bounce(restitution=0.9, frames=44, height=0.8))
    assert found.three_BK[0, :2].all()
    assert found.by_time_BK[0, :2].tolist() == pytest.approx([0.9, 0.9], abs=0.005)


def test_an_impact_that_an_autoencoder_spreads_over_two_frames_is_one():
    true = bounce(restitution=0.8, frames=22)
    low = int(true[0, :, 1].argmin())
    spread, neighbours = true.clone(), true[0, [low - 2, low + 1], 1]
    spread[0, low - 1 : low + 1, 1] = neighbours.min() - torch.tensor([0.02, 0.021])
    spread[0, low - 1 : low + 1, 0] = true[0, low, 0]
    found = bounces(spread)
    assert found.measured_BK[0].sum() == 1 and found.by_speed_BK[found.measured_BK].item() == pytest.approx(
        0.8, abs=0.05
    )
    lies = torch.cat((true[:, :low], true[:, low : low + 1].expand(-1, 6, -1), true[:, low:]), dim=1)
    assert not bounces(lies).measured_BK.any(), "what lies on the floor for six frames has not bounced"


def test_another_gravity_after_the_impact_parts_the_three():
    found = bounces(bounce(restitution=0.8, g_after=4.9, frames=26))
    assert found.by_speed_BK[0, 0].item() == pytest.approx(0.8, abs=0.01)
    assert found.by_height_BK[0, 0].item() == pytest.approx(0.8 * 2**0.5, abs=0.02)
    assert found.by_time_BK[0, 0].item() == pytest.approx(1.6, abs=0.03)
    assert found.spread_BK[0, 0].item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("position", [bounce(frames=10), bounce()[:, :1].expand(1, 20, 2), bounce()[:, :1]])
def test_without_a_bounce_nothing_is_measured_and_gradients_are_finite(position):
    position = position.clone().requires_grad_()
    found = bounces(position)
    assert not found.measured_BK.any()
    (gradient,) = torch.autograd.grad(sum(way.sum() for way in (found.by_speed_BK, found.spread_BK)), position)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["by_speed_BK", "by_height_BK", "by_time_BK"])
def test_gradients_equal_finite_differences(name):
    position = bounce(g_after=7.0, frames=24)

    def value(p):
        return getattr(bounces(p), name)[0, 0]

    position.requires_grad_()
    (gradient,) = torch.autograd.grad(value(position), position)
    push = torch.randn(position.shape, generator=torch.Generator().manual_seed(1)).double()
    numeric = (value((position + 1e-6 * push).detach()) - value((position - 1e-6 * push).detach())) / 2e-6
    assert (gradient * push).sum().item() == pytest.approx(numeric.item(), rel=1e-3)

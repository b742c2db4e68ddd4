"""Elastic bounces keep the head, inelastic ones may lose it, kicks always count, spin does not."""

import dataclasses

import pytest
import torch
from paths import bounce, path, spearman

from reward_physics.laws.energy import gravity_of_others, measure_energy
from reward_physics.laws.flights import find_flights


def energy(position, *, noise=0.0, **settings):
    settings.setdefault("g", 9.81)
    return measure_energy(find_flights(path(position, noise=noise)), **settings)


def test_heads_of_a_drop_by_hand():
    found = energy(bounce(restitution=0.5, sideways=0.0))
    assert found.head_start_BK[0, :2].tolist() == pytest.approx([1.2, 0.3], abs=0.002)
    assert found.head_end_BK[0, 0].item() == pytest.approx(1.2, abs=0.002)


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_an_elastic_bounce_drifts_under_one_percent(noise):
    found = energy(bounce(restitution=1.0, frames=30), noise=noise)
    assert found.conserved_measured_B.all() and found.rise_measured_B.all()
    assert found.drift_B < 0.01 and found.rise_B < 0.01 and found.variance_B < 1e-4


@pytest.mark.parametrize("e", [0.0, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_an_inelastic_impact_is_no_error(e):
    found = energy(bounce(restitution=e))
    assert found.rise_B == 0 and found.drift_B < 0.01


@pytest.mark.parametrize("kick", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("when", [0.25, 0.75])
def test_an_added_kick_always_counts_even_for_bodies_that_tumble(kick, when):
    height = 1.6 if when < 0.5 else 1.2
    position = bounce(kick_s=when, kick=kick, frames=34, height=height)
    before = 9.81 * when if when < 0.5 else 0.7 * (2 * 9.81 * 1.2) ** 0.5 - 9.81 * (when - (2.4 / 9.81) ** 0.5)
    speed = -before if when < 0.5 else before
    gained = ((speed + kick) ** 2 - speed**2) / (2 * 9.81)
    found = energy(position, spin_share=0.15)
    if gained > 0.03 * height:
        assert found.rise_B.item() == pytest.approx(max(gained / height - 0.02, 0), abs=0.01)
    else:
        assert found.rise_B == 0


def test_rises_grow_with_the_energy_gained_per_bounce():
    gains = torch.linspace(1.0, 1.8, 9).tolist()
    rises = [energy(bounce(restitution=e, frames=30)).rise_B.item() for e in gains]
    assert rises[0] == 0 and spearman(gains, rises) >= 0.99


def test_spin_turned_into_height_at_the_floor_is_no_kick_and_beyond_the_store_it_is():
    lost_then_back = _two_bounces(0.5, 1.1)
    plain = energy(lost_then_back, tolerance=0.01)
    tumbling = energy(lost_then_back, tolerance=0.01, spin_share=0.15)
    assert plain.rise_B.item() == pytest.approx(0.25 * 0.21 - 0.01, abs=0.004)
    assert tumbling.rise_B == 0
    beyond = energy(_two_bounces(0.5, 1.8), tolerance=0.01, spin_share=0.15)
    assert beyond.rise_B.item() == pytest.approx(0.25 * 2.24 - 0.16, abs=0.01)


def _two_bounces(first: float, second: float):
    """A drop from 1.2 m and two impacts, each with its own ratio of speeds."""
    time = torch.arange(34).double() / 24
    v = (2 * 9.81 * 1.2) ** 0.5
    t1 = v / 9.81
    t2 = t1 + 2 * first * v / 9.81
    z = torch.where(
        time < t1,
        1.2 - 4.905 * time**2,
        torch.where(
            time < t2,
            first * v * (time - t1) - 4.905 * (time - t1) ** 2,
            first * second * v * (time - t2) - 4.905 * (time - t2) ** 2,
        ),
    )
    return torch.stack((0 * z, z), dim=-1)[None]


def test_drift_grows_with_the_error_of_g_and_has_its_known_size():
    gs = torch.linspace(2.0, 9.81, 9)
    drifts = [energy(bounce(g=float(g), frames=24)).drift_B.item() for g in gs]
    assert spearman(drifts, -gs) >= 0.99
    slow = energy(bounce(g=4.905, frames=10, sideways=0.0))
    assert slow.drift_B.item() == pytest.approx(0.5, abs=0.01)


def test_without_g_the_other_flight_gives_it_so_that_drift_is_not_circular():
    same = find_flights(path(bounce(g=3.0, frames=30)))
    changed = find_flights(path(bounce(g=3.0, g_after=6.0, frames=40)))
    assert measure_energy(same).drift_B < 0.01
    assert measure_energy(changed).drift_B > 0.2
    g, known = gravity_of_others(changed)
    assert known[0, :2].all() and g[0, :2].tolist() == pytest.approx([6.0, 3.0], abs=0.05)
    alone = measure_energy(find_flights(path(bounce(frames=10))))
    assert not alone.conserved_measured_B.any()


def test_shares_do_not_depend_on_the_unit():
    one = measure_energy(find_flights(path(bounce(restitution=1.3, frames=30))))
    many = find_flights(
        dataclasses.replace(path(40 * bounce(restitution=1.3, frames=30)), sigma_B=torch.tensor([0.08]))
    )
    torch.testing.assert_close(measure_energy(many).rise_B, one.rise_B, atol=1e-3, rtol=0)


def test_a_frozen_clip_is_not_measured_and_has_finite_gradients():
    position = bounce()[:, :1].expand(1, 20, 2).clone().requires_grad_()
    found = measure_energy(find_flights(path(position)), g=9.81)
    assert not found.conserved_measured_B.any() and not found.rise_measured_B.any()
    (gradient,) = torch.autograd.grad(found.drift_B.sum() + found.rise_B.sum() + found.variance_B.sum(), position)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["drift_B", "variance_B", "rise_B"])
def test_gradients_equal_finite_differences(name):
    position = bounce(g=7.0, restitution=1.3, frames=24)

    def value(p):
        return getattr(
            measure_energy(find_flights(dataclasses.replace(path(p), sigma_B=torch.tensor([0.01]))), g=9.81), name
        )[0]

    position.requires_grad_()
    (gradient,) = torch.autograd.grad(value(position), position)
    push = torch.randn(position.shape, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-6
    numeric = (value((position + step * push).detach()) - value((position - step * push).detach())) / (2 * step)
    # Cuts, robust weights and noise levels are detached by design; on parabolas the weights stay one.
    # The durations that weigh the flights in their mean are detached too.
    rel = 1e-4 if name == "rise_B" else 5e-3
    assert (gradient * push).sum().item() == pytest.approx(numeric.item(), rel=rel)


def test_g_must_be_positive():
    with pytest.raises(ValueError, match="g must be > 0"):
        energy(bounce(), g=0.0)

"""Rewards on flights: best at true motion, worse the larger the violation, nothing for a frozen clip."""

import dataclasses
import math

import pytest
import torch
from paths import bounce, path, seen, spearman, times

from reward_physics.laws.flights import find_flights
from rewards.flights.airborne import airborne
from rewards.flights.arc_residual import arc_residual
from rewards.flights.energy_drift import energy_drift
from rewards.flights.energy_rise import energy_rise
from rewards.flights.energy_variance import energy_variance
from rewards.flights.galileo import galileo
from rewards.flights.incline import incline
from rewards.flights.pendulum import pendulum
from rewards.flights.projectile import projectile
from rewards.flights.restitution import restitution

GS = [2.0, 4.0, 6.0, 8.0, 9.81, 12.0, 14.0, 16.0]
ALL = [arc_residual, energy_drift, energy_rise, energy_variance, galileo, incline, pendulum, projectile, restitution]


def score(reward, position, *, noise=0.0, refuses=None, unit="m", **parameters) -> float:
    trajectory = path(position, noise=noise, unit=unit, at_rest=True)
    return reward(seen(trajectory, refuses=refuses), **parameters).item()


def slide(a_m_s2: float):
    way = 0.1 * times(16) + 0.5 * a_m_s2 * times(16) ** 2
    return torch.stack((way * math.cos(0.5), 2 - way * math.sin(0.5)), dim=-1)


def swing(g: float, frames=48, length=1.0, angle=0.1):
    x = length * angle * torch.cos((g / length) ** 0.5 * times(frames))
    return torch.stack((x, -(length**2 - x**2).sqrt()), dim=-1)


def fall(g: float, frames=9):
    z = 2 - 0.5 * g * times(frames) ** 2
    return torch.stack((0 * z, z), dim=-1)


@pytest.mark.parametrize("reward", ALL)
@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_a_frozen_clip_never_scores(reward, noise):
    still = bounce()[:, :1].expand(1, 24, 2)
    assert math.isnan(score(reward, still, noise=noise))


@pytest.mark.parametrize("reward", [energy_drift, energy_variance])
def test_energy_in_flight_ranks_wrong_gravities(reward):
    scores = [score(reward, fall(g)) for g in GS]
    assert max(scores) == scores[GS.index(9.81)] > -1e-5
    assert spearman([-abs(g - 9.81) for g in GS], scores) >= 0.9


def test_projectile_and_incline_and_pendulum_rank_wrong_gravities():
    wrong = [-abs(g - 9.81) for g in GS]
    throws = [score(projectile, fall(g), g_m_s2=9.81) for g in GS]
    assert spearman(wrong, throws) >= 0.9 and max(throws) > -1e-3
    slides = [score(incline, slide(g * (math.sin(0.5) - 0.2 * math.cos(0.5))), friction=0.2) for g in GS]
    assert spearman(wrong, slides) >= 0.9 and max(slides) > -1e-4
    swings = [score(pendulum, swing(g, frames=80), length_m=1.0, unit="px", refuses="no scale") for g in GS]
    assert spearman(wrong, swings) >= 0.75 and max(swings) == swings[GS.index(9.81)] > -1e-3
    # Too slow and too fast are each in order; between them the period's error is not even.
    assert spearman(GS[:5], swings[:5]) >= 0.99 and spearman(GS[4:], [-s for s in swings[4:]]) >= 0.99


def test_values_of_the_formulas():
    assert score(energy_drift, fall(4.905)) == pytest.approx(-0.5, abs=0.01)
    assert score(restitution, bounce(restitution=1.2, frames=30)) == pytest.approx(-0.04, abs=0.01)
    assert score(restitution, bounce(restitution=0.7), coefficient=0.5) == pytest.approx(-0.04, abs=0.01)
    assert score(energy_rise, bounce(restitution=1.2, frames=30)) == pytest.approx(-(0.44 - 0.05), abs=0.02)
    assert score(energy_rise, bounce(restitution=0.3)) == 0
    drift = torch.stack((0 * times(14), 2 - 2 * times(14)), dim=-1)
    assert score(galileo, drift) == pytest.approx(-1, abs=0.01)
    assert score(projectile, drift) == pytest.approx(-2, abs=0.02)


def test_what_rolls_after_a_fall_is_no_flight_and_what_floats_above_it_is_one():
    drop, t = fall(9.81, frames=13), times(10)[:, 1:]

    def then(height):
        after = torch.stack((1.2 * t, height(t)), dim=-1)
        return torch.cat((drop, torch.cat((after[..., :1], drop[:, -1:, 1:] + after[..., 1:]), -1)), dim=1)

    # Sinks by 11 cm, less than a radius: a roll that comes nearer. Or floats up by half a metre.
    rolled, floated = then(lambda t: -0.3 * t - 0.005), then(lambda t: 1.2 * t + 0.3 * t**2)
    alone = score(projectile, drop)
    assert find_flights(path(rolled, at_rest=True)).flight_BK.sum() == 2
    assert score(projectile, rolled) == pytest.approx(alone, abs=0.02)
    assert score(projectile, floated) < alone - 0.5
    assert airborne(find_flights(path(bounce(), at_rest=True))).flight_BK.sum() == 2, "bounces stay flights"


def test_energy_gained_per_bounce_ranks():
    gains = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    for reward in (energy_rise, restitution):
        scores = [score(reward, bounce(restitution=e, frames=34)) for e in gains]
        assert spearman([-g for g in gains], scores) >= 0.99


def test_every_true_motion_is_best():
    for e in (0.4, 0.6, 0.8):
        for reward in (arc_residual, energy_drift, energy_rise, energy_variance, galileo, restitution):
            assert score(reward, bounce(restitution=e)) > -0.01, (reward.__name__, e)
    assert score(projectile, bounce(frames=12)) > -1e-4


def test_arc_residual_ranks_trembling_and_jumps():
    trembling = [0.0, 0.01, 0.02, 0.04, 0.08]
    wave = torch.sin(1.7 * torch.arange(24).double())[:, None]
    scores = [score(arc_residual, bounce() + size * wave) for size in trembling]
    assert spearman([-size for size in trembling], scores) >= 0.99
    jumped = bounce(height=3.0, frames=18)
    for size in (0.3, 0.6):
        there = jumped.clone()
        there[:, 9:, 0] += size
        assert score(arc_residual, there) < score(arc_residual, jumped) - 0.005


def test_the_arc_residual_of_the_first_flight_alone_knows_nothing_of_later_ones():
    true = bounce()
    low = int(true[0, :, 1].argmin())
    late, early = true.clone(), true.clone()
    late[:, low + 2 :, 0] += 0.5
    early[0, : low - 1] += 0.01 * torch.sin(1.7 * torch.arange(low - 1).double())[:, None]
    assert score(arc_residual, late) < -0.005
    assert score(arc_residual, true, first_only=True) > -1e-6 < score(arc_residual, late, first_only=True)
    assert score(arc_residual, early, first_only=True) < -1e-4


def test_without_metres_the_unit_free_ones_score_and_the_others_refuse():
    pixels = 30 * bounce()
    for reward in (arc_residual, energy_rise, galileo, projectile, restitution):
        assert score(reward, pixels, unit="px", refuses="the camera is unknown") > -0.02
    for reward in (energy_drift, energy_variance):
        assert score(reward, pixels, unit="px", refuses="the camera is unknown", g_m_s2=None) > -0.01
        with pytest.raises(ValueError, match="metres per second squared are refused: the camera is unknown"):
            score(reward, pixels, refuses="the camera is unknown")
    for reward in (incline, pendulum):
        with pytest.raises(ValueError, match="metres per second squared are refused"):
            score(reward, pixels, refuses="the camera is unknown")


def test_slow_motion_leaves_galileo_alone():
    assert score(galileo, bounce(g=2.45, frames=36)) == pytest.approx(score(galileo, bounce()), abs=1e-3)


@pytest.mark.parametrize(
    ("reward", "bad"),
    [
        (energy_rise, dict(tolerance=-1)),
        (restitution, dict(coefficient=2)),
        (projectile, dict(g_m_s2=0)),
        (incline, dict(friction=-0.1)),
        (incline, dict(angle_deg=90)),
        (pendulum, dict(length_m=0)),
        (energy_drift, dict(g_m_s2=-1)),
    ],
)
def test_parameters_out_of_range(reward, bad):
    with pytest.raises(ValueError, match=r"must|needs"):
        score(reward, bounce(), **bad)


@pytest.mark.parametrize("reward", ALL)
def test_gradients_are_finite_for_true_wrong_and_unmeasurable_clips(reward):
    frozen = bounce()[:, :1].expand(1, 24, 2)
    clips = torch.cat(
        (bounce(), bounce(restitution=1.4), bounce(g=3.0), frozen, slide(3.0)[:, [*range(16), *[15] * 8]])
    )
    for frames in (24, 6, 1):
        position = clips[:, :frames].clone().requires_grad_()
        value = reward(seen(path(position, at_rest=True)))
        assert value.shape == (5,) and not value.isinf().any()
        safe = torch.where(value.isnan(), torch.zeros_like(value), value).sum()
        if safe.requires_grad:
            (gradient,) = torch.autograd.grad(safe, position)
            assert torch.isfinite(gradient).all()
            assert (gradient[3] == 0).all()


@pytest.mark.parametrize("reward", [arc_residual, energy_drift, energy_rise, galileo, projectile, restitution])
def test_clips_are_judged_alone(reward):
    clips = [bounce(), bounce(restitution=1.3), fall(6.0, frames=24)]
    together = reward(seen(path(torch.cat(clips), at_rest=True)))
    swapped = reward(seen(path(torch.cat([clips[k] for k in (2, 0, 1)]), at_rest=True)))
    torch.testing.assert_close(swapped, together[[2, 0, 1]], equal_nan=True)
    alone = torch.cat([reward(seen(path(clip, at_rest=True))) for clip in clips])
    torch.testing.assert_close(alone, together, equal_nan=True)
    hidden = path(torch.cat(clips), at_rest=True)
    unseen = dataclasses.replace(hidden, weight_BT=torch.zeros_like(hidden.weight_BT))
    assert reward(seen(unseen)).isnan().all()

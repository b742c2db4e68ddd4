"""The gravity reward is 0 for a true fall and loses to every wrong one."""

import dataclasses

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.observation import Observation
from rewards.flights.gravity import gravity


def reward(centres, **more):
    world = make_world(centres)
    return gravity(Observation(world.video, world.instruments(), grad=False), **more)


def test_values_of_the_formula():
    centres = free_fall(batch=3, frames=9, g_m_s2=torch.tensor([9.81, 4.905, 2.4525]))
    torch.testing.assert_close(reward(centres), torch.tensor([0.0, -0.25, -0.5625]), atol=0.01, rtol=0)
    torch.testing.assert_close(reward(centres[1:2], g_m_s2=4.905), torch.tensor([0.0]), atol=0.001, rtol=0)


def test_a_delta_makes_it_a_line_that_feels_small_errors():
    g = torch.tensor([9.81, 9.81 * 0.9, 9.81 * 0.6, 0.0])
    score = reward(free_fall(batch=4, frames=8, g_m_s2=g), delta=0.1)
    # (sqrt(e^2 + 0.01) - 0.1) / (sqrt(1.01) - 0.1) for e = 0, 0.1, 0.4, 1: the same by another form
    torch.testing.assert_close(score, torch.tensor([0.0, -0.0458, -0.3451, -1.0]), atol=0.015, rtol=0)
    coarse = reward(free_fall(batch=4, frames=8, g_m_s2=g), delta=1e3)
    torch.testing.assert_close(coarse, reward(free_fall(batch=4, frames=8, g_m_s2=g)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("delta", [0.0, -0.1, float("nan"), float("inf")])
def test_delta_must_be_positive(delta):
    with pytest.raises(ValueError, match="delta must be > 0, or left out for the square, got"):
        reward(free_fall(frames=8), delta=delta)


def test_floating_scores_minus_one_and_direction_counts():
    still = free_fall(g_m_s2=0.0, start_m=(0.0, 4.0, 1.0))
    torch.testing.assert_close(reward(still), torch.tensor([-1.0]), atol=0.02, rtol=0)
    fall = free_fall(frames=8)
    sideways = fall[..., [2, 1, 0]] * torch.tensor([1.0, 1.0, 0.0]).double() + torch.tensor([-1.0, 0.0, 1.0]).double()
    torch.testing.assert_close(reward(sideways), torch.tensor([-2.0]), atol=0.05, rtol=0)


def test_a_bounce_does_not_change_the_score():
    assert reward(free_fall(frames=17, floor_m=0.2)).item() > -0.001


def test_unmeasurable_is_nan_and_its_gradient_is_not():
    centres = torch.cat((free_fall(frames=9), free_fall(frames=9, start_m=(9.0, 4.0, 1.0))))
    world = make_world(centres)
    frames = world.video.frames_BTCHW.clone().requires_grad_()
    score = gravity(Observation(world.video.with_frames(frames), world.instruments(), grad=True), g_m_s2=5.0)
    assert score.isnan().tolist() == [False, True]
    safe = torch.where(score.isnan(), torch.zeros_like(score), score).sum()
    (gradient,) = torch.autograd.grad(safe, frames)
    assert torch.isfinite(gradient).all()
    assert gradient[0].abs().sum() > 0 and (gradient[1] == 0).all()


def test_the_gradient_makes_a_slow_fall_faster():
    world = make_world(free_fall(frames=8, g_m_s2=4.0))
    frames = world.video.frames_BTCHW.clone().requires_grad_()
    score = gravity(Observation(world.video.with_frames(frames), world.instruments(), grad=True))
    (gradient,) = torch.autograd.grad(score.sum(), frames)
    moved = frames.detach() + 0.05 * gradient / gradient.abs().max()
    after = gravity(Observation(world.video.with_frames(moved), world.instruments(), grad=False))
    assert after > score


@pytest.mark.parametrize("g", [0.0, -9.81, float("nan"), float("inf")])
def test_g_must_be_positive(g):
    with pytest.raises(ValueError, match="g_m_s2 must be > 0"):
        reward(free_fall(frames=8), g_m_s2=g)


def test_metres_are_refused_before_measuring():
    world = make_world(free_fall(frames=8))

    def never(*args):
        raise AssertionError("measured something")

    instruments = dataclasses.replace(world.instruments(), depth=never)
    video = dataclasses.replace(world.video, camera=None)
    with pytest.raises(ValueError, match="metres per second squared are refused: the camera is unknown"):
        gravity(Observation(video, instruments, grad=False))

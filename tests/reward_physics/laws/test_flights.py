"""All flights and rests of a track, and the times at which they meet."""

import dataclasses

import pytest
import torch
from paths import bounce, path, times

from reward_physics.laws.flights import find_flights

IMPACT_S = (2 * 1.2 / 9.81) ** 0.5


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_bounce_is_two_flights_that_meet_at_the_impact(noise):
    found = find_flights(path(bounce(), noise=noise))
    assert found.flight_BK[0, :2].all() and found.meets_BK[0, 0]
    assert found.impact_time_BK[0, 0].item() == pytest.approx(IMPACT_S, abs=0.001 + noise)
    torch.testing.assert_close(
        found.accel_BKD[0, :2, 1], torch.tensor([-9.81, -9.81]).double(), atol=60 * noise + 1e-4, rtol=0
    )
    assert found.gap_BK[0, 0] < 0.001 + 3 * noise


def test_three_flights_have_two_impacts():
    found = find_flights(path(bounce(restitution=0.9, frames=40, height=0.8)))
    speed = (2 * 9.81 * 0.8) ** 0.5
    first = speed / 9.81
    second = first + 2 * 0.9 * speed / 9.81
    assert found.impact_time_BK[0, :2].tolist() == pytest.approx([first, second], abs=0.002)


def test_held_then_released_is_a_rest_and_a_flight_from_rest():
    still = torch.tensor([[[0.0, 1.2]]]).double().expand(1, 8, 2)
    found = find_flights(path(torch.cat((still, bounce(frames=24)), dim=1), noise=0.002))
    assert found.rest_BK[0, 0] and found.flight_BK[0, 1] and found.from_rest_BK[0, 1]
    assert found.start_s_BK[0, 1].item() == pytest.approx(8 / 24, abs=0.05)
    assert not found.from_rest_BK[0, 2]


def test_a_wall_is_met_sideways():
    time = times(16)[0]
    x = torch.where(time < 0.3, 2 * time, 0.6 - 1.5 * (time - 0.3))
    found = find_flights(path(torch.stack((x, 2 - 4.9 * time.square()), dim=-1)[None], noise=0.001))
    assert found.impact_time_BK[0, 0].item() == pytest.approx(0.3, abs=0.004)


@pytest.mark.parametrize("frames", [1, 2, 20])
def test_what_does_not_move_has_no_flight_finite_numbers_and_gradients(frames):
    position = torch.zeros(1, frames, 2).double().requires_grad_()
    found = find_flights(path(position))
    assert not found.flies_B.any() and found.reasons[0] is not None
    (gradient,) = torch.autograd.grad(
        found.position_BKD.sum() + found.end_s_BK.sum() + found.gap_BK.sum(), position, allow_unused=True
    )
    assert gradient is None or torch.isfinite(gradient).all()


def test_an_unseen_clip_has_no_flight():
    given = path(bounce())
    found = find_flights(dataclasses.replace(given, weight_BT=torch.zeros_like(given.weight_BT)))
    assert not found.measured_BK.any() and not found.impact_time_BK.isfinite().any()


def test_two_clips_at_once_equal_two_alone_in_any_order():
    clips = [bounce(), bounce(g=4.0), bounce(restitution=0.3)]
    together = find_flights(path(torch.cat(clips)))
    swapped = find_flights(path(torch.cat([clips[k] for k in (2, 0, 1)])))
    torch.testing.assert_close(swapped.accel_BKD, together.accel_BKD[[2, 0, 1]])
    for n, clip in enumerate(clips):
        alone = find_flights(path(clip))
        pieces = alone.measured_BK.shape[1]
        torch.testing.assert_close(alone.end_s_BK[0], together.end_s_BK[n, :pieces])
        assert not together.measured_BK[n, pieces:].any()


def test_the_impact_time_moves_with_the_track():
    position = bounce()

    def impact(p):
        return find_flights(path(p)).end_s_BK[0, 0]

    position.requires_grad_()
    (gradient,) = torch.autograd.grad(impact(position), position)
    push = torch.zeros_like(position)
    push[0, :11, 1] = 1.0  # the first flight higher: it meets the second later
    step = 1e-5
    numeric = (impact((position + step * push).detach()) - impact((position - step * push).detach())) / (2 * step)
    assert (gradient * push).sum().item() == pytest.approx(numeric.item(), rel=1e-3)
    assert numeric > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    given = path(bounce())
    found = find_flights(dataclasses.replace(given, position_BTD=given.position_BTD.to(dtype)))
    assert found.position_BKD.dtype == found.accel_BKD.dtype == dtype

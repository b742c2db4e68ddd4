"""Free flights are cut at release and impact."""

import pytest
import torch

from reward_physics.laws.arcs import find_arc


def heights(kind: str, g: float = 9.81, frames: int = 17, fps: float = 16.0) -> torch.Tensor:
    """Height (m) of a ball dropped from 1.2 m: `fall`, `bounce` (restitution 0.6), `held` for 0.2 s, then `bounce`."""
    time = torch.arange(frames, dtype=torch.float64) / fps - (0.2 if kind == "held" else 0.0)
    time = time.clamp(min=0)
    impact, speed = (2.4 / g) ** 0.5, (2.4 * g) ** 0.5
    if kind == "fall":
        return 1.2 - 0.5 * g * time.square()
    after = time - impact
    up = 0.6 * speed * after - 0.5 * g * after.square()
    return torch.where(time < impact, 1.2 - 0.5 * g * time.square(), up)


def arc(height_BT: torch.Tensor, noise: float = 0.003, fps: float = 16.0, weight=None, at_rest=False, floor=0.004):
    time = (torch.arange(height_BT.shape[1], dtype=torch.float64) / fps).expand_as(height_BT)
    position = torch.stack((torch.zeros_like(height_BT), height_BT), dim=-1)
    position = position + noise * torch.randn(position.shape, generator=torch.Generator().manual_seed(0)).double()
    weight = torch.ones_like(time) if weight is None else weight
    return find_arc(
        time_BT=time,
        position_BTD=position,
        weight_BT=weight,
        sigma_floor_B=torch.full_like(time[:, 0], floor),
        at_rest_B=torch.full((len(time),), at_rest),
    )


def test_a_whole_fall_is_one_arc():
    found = arc(heights("fall", g=3.0)[None].repeat(50, 1))
    assert (found.weights_BT.sum(1) == 17).double().mean() > 0.95
    assert found.reasons == [None] * 50


@pytest.mark.parametrize("g", [4.0, 9.81, 14.0])
def test_a_bounce_ends_the_arc_and_is_timed_within_a_fraction_of_a_frame(g):
    found = arc(heights("bounce", g=g)[None].repeat(50, 1))
    impact = (2.4 / g) ** 0.5
    time = torch.arange(17) / 16
    assert (found.weights_BT[:, time > impact] == 0).double().mean() > 0.98
    assert (found.weights_BT[:, time < impact] == 1).double().mean() > 0.95
    seconds = found.impact_time_B - impact
    assert seconds.nanmedian().abs() < 0.003 and seconds[~seconds.isnan()].abs().quantile(0.9) < 0.02


def test_held_frames_are_left_out():
    found = arc(heights("held")[None].repeat(50, 1), noise=0.002)
    assert (found.weights_BT[:, :3] == 0).double().mean() > 0.9
    assert (found.weights_BT[:, 5:10] == 1).double().mean() > 0.9


def test_rest_on_the_floor_after_the_fall_is_not_the_flight():
    height = heights("fall").clamp(min=0.2)[None]
    found = arc(height)
    assert found.weights_BT[0, :8].sum() >= 7 and found.weights_BT[0, 9:].sum() == 0


def test_an_object_at_rest_is_one_long_arc():
    found = arc(torch.full((1, 12), 0.7, dtype=torch.float64))
    assert found.weights_BT.sum() >= 11 and found.reasons == [None]


def test_short_or_unseen_clips_say_why():
    short = arc(heights("fall")[None, :4])
    assert short.reasons[0] is not None and "too few frames" in short.reasons[0]
    assert (short.weights_BT == 0).all() and short.impact_time_B.isnan().all()
    hidden = arc(heights("fall")[None], weight=torch.zeros(1, 17))
    assert hidden.reasons[0] is not None


def test_a_missing_frame_does_not_end_the_flight():
    weight = torch.ones(1, 17)
    weight[0, 4] = 0
    found = arc(heights("bounce")[None], weight=weight)
    assert found.weights_BT[0].tolist()[:8] == [1, 1, 1, 1, 0, 1, 1, 1]


def test_nothing_is_differentiated_and_inputs_stay():
    height = heights("bounce")[None].requires_grad_()
    assert not arc(height).weights_BT.requires_grad


def test_a_release_in_the_first_frame_is_measured_from_there_however_odd_the_fall():
    odd = 0.9 - 0.004 * torch.arange(17, dtype=torch.float64).square()
    odd[:5] = torch.tensor([1.2, 1.1, 1.18, 1.0, 1.07])  # no parabola, and then a long clean one
    odd = odd[None].repeat(30, 1)
    assert (arc(odd).weights_BT[:, :3] == 0).all()
    found = arc(odd, at_rest=True).weights_BT
    assert (found[:, :5] == 1).all() and (found[:, 8:] == 0).all()


def test_a_release_in_the_first_frame_still_ends_at_the_bounce():
    found = arc(heights("bounce")[None].repeat(50, 1), at_rest=True)
    assert (found.weights_BT[:, :7] == 1).double().mean() > 0.95
    assert (found.weights_BT[:, 9:] == 0).double().mean() > 0.95


def test_noise_that_is_alike_from_frame_to_frame_does_not_cut_a_fall():
    noise = torch.randn(50, 33, generator=torch.Generator().manual_seed(1)).double()
    for t in range(1, 33):
        noise[:, t] = 0.5 * noise[:, t - 1] + 0.75**0.5 * noise[:, t]
    time = torch.arange(33, dtype=torch.float64) / 60
    height = 1.2 - time - 2 * time.square() + 0.01 * noise
    assert (arc(height, noise=0.005, fps=60.0).weights_BT.sum(1) >= 30).double().mean() > 0.8


def test_a_roll_after_too_short_a_flight_is_no_flight():
    height = heights("fall", g=16.0, fps=8.0).clamp(min=0.2)[None].repeat(50, 1)
    height = height + 0.02 * torch.linspace(0, 1, 17)
    found = arc(height, fps=8.0)
    assert all(reason is not None and "too few frames in free flight" in reason for reason in found.reasons)


def test_flights_that_the_frames_hardly_resolve_are_cut_at_their_impacts():
    """Five frames before the impact, and no window of six frames without one."""
    g, fps = 9.81, 8.0
    impact = 4.4 / fps
    bounced = torch.arange(17, dtype=torch.float64) / fps - impact
    speed = 0.75 * g * impact
    later = bounced.remainder(2 * speed / g)
    height = torch.where(
        bounced < 0, 0.5 * g * (impact**2 - (bounced + impact).square()), speed * later - g * later**2 / 2
    )
    found = arc(height[None].repeat(50, 1), fps=fps)
    assert found.reasons == [None] * 50
    assert (found.weights_BT[:, :5] == 1).all() and (found.weights_BT[:, 5:] == 0).all()


def test_a_rebound_of_four_frames_and_one_after_its_impact_is_too_short():
    """Heights that were read off a ball that strikes the floor after 3.2, 8.0 and 11.5 frames: it rose and fell from
    frame 4 to 7, the parabola through frames 4 to 8 meets the next one long before frame 8."""
    height = [1.427, 1.299, 0.925, 0.303, 0.535, 0.804, 0.82, 0.6, 0.153, 0.462, 0.522, 0.321, 0.28, 0.342, 0.169, 0.26]
    found = arc(torch.tensor(height, dtype=torch.float64)[None], fps=8.0, noise=0.0, floor=0.0167)
    assert (found.weights_BT == 0).all() and found.impact_time_B.isnan().all()
    assert found.reasons == ["too few frames in free flight: 4, needs 5"]

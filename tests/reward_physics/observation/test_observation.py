"""Laws: what falls is measured to fall, what does not is not, and the gradient reaches the pixels."""

import dataclasses

import pytest
import torch
from discs import World, free_fall, make_world
from torch.utils.checkpoint import checkpoint

from reward_physics.observation import Instruments, Observation


def observe(world: World, grad: bool = False, **settings) -> Observation:
    return Observation(world.video, world.instruments(**settings), grad=grad)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("g", [1.5, 4.0, 9.81, 14.0])
def test_free_fall_recovers_g(g, flow):
    fit = observe(make_world(free_fall(g_m_s2=g, frames=9)), flow=flow).fit
    assert fit.reasons == [None]
    torch.testing.assert_close(fit.accel_B3, torch.tensor([[0.0, 0.0, -g]]), atol=0.01 * g + 0.01, rtol=0)


@pytest.mark.parametrize("pitch", [0.0, 10.0, 20.0, 30.0])
def test_pitch_of_the_camera_does_not_matter(pitch):
    centres = free_fall(frames=9, start_m=(0.2, 3.0, 0.9 - 1.5 * pitch / 30 + 0.8))
    fit = observe(make_world(centres, pitch_deg=pitch)).fit
    torch.testing.assert_close(fit.accel_B3, torch.tensor([[0.0, 0.0, -9.81]]), atol=0.15, rtol=0)


def test_constant_velocity_has_no_acceleration():
    centres = free_fall(g_m_s2=0.0, start_m=(-1.0, 4.0, 0.6), velocity_m_s=(2.0, 0.0, 0.8))
    fit = observe(make_world(centres)).fit
    assert fit.measurable_B.all()
    assert fit.accel_B3.norm() < 0.1
    torch.testing.assert_close(fit.velocity_B3, torch.tensor([[2.0, 0.0, 0.8]]), atol=0.03, rtol=0)


def test_a_throw_has_the_acceleration_of_a_fall():
    centres = free_fall(frames=12, start_m=(-1.0, 4.0, 0.4), velocity_m_s=(2.0, 0.0, 4.0))
    fit = observe(make_world(centres)).fit
    torch.testing.assert_close(fit.accel_B3, torch.tensor([[0.0, 0.0, -9.81]]), atol=0.1, rtol=0)


def test_a_bounce_does_not_change_g():
    with_bounce = free_fall(frames=17, floor_m=0.2)
    observation = observe(make_world(with_bounce))
    assert observation.fit.num_frames_B.item() == 9
    assert abs(observation.fit.g_m_s2_B.item() - 9.81) < 0.1
    true_impact_s = (2 * 1.5 / 9.81) ** 0.5
    assert abs(observation.arc.impact_time_B.item() - true_impact_s) < 0.005


def test_a_static_clip_measures_zero_within_its_interval():
    fit = observe(make_world(free_fall(g_m_s2=0.0, start_m=(0.0, 4.0, 1.0)))).fit
    low, high = fit.g_interval()
    assert fit.measurable_B.all() and low <= 0 <= high and abs(fit.g_m_s2_B) < 0.05


def test_g_scales_with_the_square_of_the_frame_rate_and_with_distance():
    centres = free_fall(frames=9)
    slow = observe(make_world(centres, fps=8.0)).fit.g_m_s2_B
    assert abs(slow.item() - 9.81 / 4) < 0.05
    world = make_world(centres)
    near = dataclasses.replace(world, centres_BT3=centres)
    instruments = near.instruments()
    instruments.depth.depth_BT = instruments.depth.depth_BT * 1.1
    fit = Observation(world.video, instruments, grad=False).fit
    assert abs(fit.g_m_s2_B.item() / 9.81 - 1.1) < 0.02


@pytest.mark.parametrize("first_frame_distance", [False, True])
def test_a_distance_read_in_the_first_frame_is_not_changed_by_what_comes_later(first_frame_distance):
    world = make_world(free_fall(frames=9))
    instruments = world.instruments(first_frame_distance=first_frame_distance)
    instruments.depth.depth_BT[:, 1:] *= 0.8
    g = Observation(world.video, instruments, grad=False).fit.g_m_s2_B.item()
    assert (abs(g - 9.81) < 0.1) == first_frame_distance


def test_permuting_and_splitting_clips():
    centres = free_fall(batch=3, frames=12, g_m_s2=torch.tensor([3.0, 9.81, 6.0]))
    together = observe(make_world(centres), flow=True).fit
    order = [2, 0, 1]
    permuted = observe(make_world(centres[order]), flow=True).fit
    torch.testing.assert_close(permuted.accel_B3, together.accel_B3[order], atol=1e-4, rtol=1e-4)
    for clip in range(3):
        alone = observe(make_world(centres[[clip]]), flow=True).fit
        torch.testing.assert_close(alone.accel_B3[0], together.accel_B3[clip], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.accel_cov_B33[0], together.accel_cov_B33[clip], atol=1e-5, rtol=1e-3)


def test_flow_helps_when_it_is_given_and_stride_does_not_matter():
    world = make_world(free_fall(frames=9))
    for stride in (1, 2, 3):
        fit = observe(world, flow=True, flow_stride=stride).fit
        assert abs(fit.g_m_s2_B.item() - 9.81) < 0.1


def test_depth_noise_is_fitted_once_an_arc():
    world = make_world(free_fall(batch=16, frames=9))
    fit = observe(world, depth_noise=0.05).fit
    assert ((fit.g_m_s2_B - 9.81).abs() / 9.81).median() < 0.03


def test_gradient_equals_finite_differences():
    world = make_world(free_fall(frames=8), dtype=torch.float64)
    frames = world.video.frames_BTCHW.clone().requires_grad_()
    observation = Observation(world.video.with_frames(frames), world.instruments(), grad=True)
    (gradient,) = torch.autograd.grad(observation.fit.accel_B3[0, 2], frames)
    direction = torch.randn(frames.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    # Only edge pixels are neither saturated nor bare, and windows, weights and depth carry no gradient by design.
    edge = ((world.masks_BTHW > 0.1) & (world.masks_BTHW < 0.9))[:, :, None]
    direction = direction * edge * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 3, 1, 1)

    def moved(step: float) -> float:
        video = world.video.with_frames(frames.detach() + step * direction)
        return Observation(video, world.instruments(), grad=False).fit.accel_B3[0, 2].item()

    step = 1e-5
    numeric = (moved(step) - moved(-step)) / (2 * step)
    analytic = (gradient * direction).sum().item()
    assert abs(numeric - analytic) < 0.05 * abs(analytic), (numeric, analytic)


def test_grad_mode_is_fixed_when_it_is_made():
    world = make_world(free_fall(frames=8))
    frames = world.video.frames_BTCHW.clone().requires_grad_()
    observation = Observation(world.video.with_frames(frames), world.instruments(), grad=True)
    with torch.no_grad():
        accel = observation.fit.accel_B3
    assert torch.autograd.grad(accel.sum(), frames)[0].abs().sum() > 0
    second = Observation(world.video.with_frames(frames), world.instruments(), grad=True)
    with torch.inference_mode():
        accel = second.fit.accel_B3
    assert torch.autograd.grad(accel.sum(), frames)[0].abs().sum() > 0
    without = Observation(world.video.with_frames(frames), world.instruments(), grad=False)
    assert not without.fit.accel_B3.requires_grad


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_first_reading_inside_a_checkpoint_has_the_gradient_of_one_outside(reentrant):
    gradients = []
    for inside in (False, True):
        world = make_world(free_fall(frames=8))
        frames = world.video.frames_BTCHW.clone().requires_grad_()
        observation = Observation(world.video.with_frames(frames), world.instruments(flow=True), grad=True)
        factor = torch.ones(1, requires_grad=True)

        def score(factor, observation=observation):
            return factor * observation.fit.g_m_s2_B

        value = checkpoint(score, factor, use_reentrant=reentrant) if inside else score(factor)
        value.sum().backward()
        assert factor.grad is not None and abs(factor.grad.item() - 9.81) < 0.1
        gradients.append(frames.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_grad_asked_of_frames_that_have_none():
    world = make_world(free_fall(frames=8))
    with pytest.raises(ValueError, match="requires_grad_"):
        Observation(world.video, world.instruments(), grad=True)
    with torch.inference_mode():
        made_there = make_world(free_fall(frames=8)).video
    with pytest.raises(ValueError, match="inference_mode"):
        Observation(made_there, world.instruments(), grad=True)


def test_each_estimator_runs_once():
    world, calls = make_world(free_fall(frames=8)), []
    instruments = world.instruments(flow=True)
    counted = dataclasses.replace(
        instruments,
        depth=lambda *a: calls.append("depth") or instruments.depth(*a),
        flow=lambda *a, **k: calls.append("flow") or instruments.flow(*a, **k),
    )
    observation = Observation(world.video, counted, grad=False)
    for _ in range(2):
        assert observation.fit.measurable_B.all()
        assert observation.visibility_B > 0.9
    assert sorted(calls) == ["depth", "flow"]


def test_metres_are_refused_without_camera_or_depth_before_anything_is_measured():
    world = make_world(free_fall(frames=8))
    no_camera = dataclasses.replace(world.video, camera=None)
    with pytest.raises(ValueError, match="camera is unknown"):
        Observation(no_camera, world.instruments(), grad=False).camera_for_metres()
    with pytest.raises(ValueError, match="no depth estimator"):
        Observation(world.video, Instruments(mask="appearance"), grad=False).camera_for_metres()
    # Pixels are still measured.
    track = Observation(world.video, Instruments(mask="appearance"), grad=False).image_track
    assert track.centre_depth_BT is None and track.weight_BT.min() == 1


@pytest.mark.parametrize(
    ("centres", "reason"),
    [
        (free_fall(frames=4), "too few|not visible"),
        (free_fall(frames=12, start_m=(0.0, 4.0, -0.3)), "leaves the picture|not visible|too few"),
        (free_fall(frames=12, start_m=(9.0, 4.0, 1.0)), "not visible"),
    ],
)
def test_what_cannot_be_measured_has_a_reason_zero_gradient_and_finite_numbers(centres, reason):
    world = make_world(centres)
    frames = world.video.frames_BTCHW.clone().requires_grad_()
    observation = Observation(world.video.with_frames(frames), world.instruments(flow=True), grad=True)
    fit = observation.fit
    assert not fit.measurable_B.any()
    assert torch.tensor([len(r) for r in fit.reasons]).min() > 0
    import re

    assert re.search(reason, fit.reasons[0]), fit.reasons
    assert torch.isfinite(fit.accel_B3).all() and torch.isfinite(fit.accel_cov_B33).all()
    (gradient,) = torch.autograd.grad(fit.accel_B3.sum(), frames, retain_graph=True, allow_unused=True)
    assert gradient is None or (gradient == 0).all()
    (gradient,) = torch.autograd.grad(observation.visibility_B.sum(), frames)
    assert torch.isfinite(gradient).all()


def test_visibility_pulls_a_fading_object_back():
    world = make_world(free_fall(frames=8, g_m_s2=1.0))
    wall, _ = make_world(free_fall(frames=8, start_m=(9.0, 4.0, 1.0))).video, None
    fading = 0.3 * world.video.frames_BTCHW + 0.7 * wall.frames_BTCHW
    frames = fading.clone().requires_grad_()
    observation = Observation(world.video.with_frames(frames), world.instruments(), grad=True)
    visible = observation.visibility_B
    assert 0 < visible.item() < 0.9
    (gradient,) = torch.autograd.grad(visible.sum(), frames)
    better = frames.detach() + 0.1 * gradient.sign() * world.masks_BTHW[:, :, None].float()
    assert Observation(world.video.with_frames(better), world.instruments(), grad=False).visibility_B > visible


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(mask="segmentr"), "mask must be one of"),
        (dict(mask="segmenter"), "needs a depth estimator"),
        (dict(mask="propagated"), "needs a flow estimator"),
        (dict(mask="appearance", flow_stride=0), "flow_stride"),
    ],
)
def test_instruments_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        Instruments(**settings)


def test_a_known_distance_stands_for_depth():
    world = make_world(free_fall(frames=9))
    _, depth_BT = world.camera.project(world.centres_BT3)
    video = dataclasses.replace(world.video, object_depth_m_B=depth_BT[:, 0])
    for flow in (False, True):
        known = dataclasses.replace(world.instruments(flow=flow), depth=None, known_distance=True, mask="appearance")
        fit = Observation(video, known, grad=False).fit
        assert abs(fit.g_m_s2_B.item() - 9.81) < 0.15
    with pytest.raises(ValueError, match="clips lack it"):
        Observation(world.video, known, grad=False).camera_for_metres()


def test_depth_near_the_floor_counts_more():
    world = make_world(free_fall(frames=17, floor_m=0.2))
    instruments = world.instruments(line_of_sight_speed_m_s=0.0)
    high = (world.centres_BT3[..., 2] > 0.8).double()
    instruments.depth.depth_BT = instruments.depth.depth_BT * (1 + 0.1 * high)
    near = dataclasses.replace(instruments, floor_height_m=0.0)
    misled = Observation(world.video, instruments, grad=False).fit.g_m_s2_B.item()
    trusting = Observation(world.video, near, grad=False).fit.g_m_s2_B.item()
    assert abs(trusting / 9.81 - 1) < 0.02 < abs(misled / 9.81 - 1)

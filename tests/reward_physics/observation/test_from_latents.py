"""An Observation filled from latents: motion is measured without decoding, and what asks for pixels decodes once."""

import dataclasses

import pytest
import torch
from discs import free_fall
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.estimators.probe import ProbeReading
from reward_physics.latents import Latents, LatentVideo
from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from rewards.flights.arc_residual import arc_residual
from rewards.flights.gravity import gravity
from rewards.gates.continuity import continuity
from rewards.gates.motion_gate import motion_gate
from rewards.gates.saturation import saturation

FRAMES, HEIGHT, WIDTH, FPS, RADIUS_PX = 9, 96, 128, 16.0, 4.0
CAMERA = Camera.looking(height_px=HEIGHT, width_px=WIDTH, fov_y_deg=45.0, position_m=(0.0, 0.0, 1.0), batch_size=1)


def probe(latents_B: Tensor, *, num_frames: int, height_px: int, width_px: int) -> ProbeReading:
    """Latents (B, N, T, 4) that are the positions in shares of the picture, the visibility and the variance, px^2."""
    size = latents_B.new_tensor([width_px, height_px])
    assert latents_B.shape[2] == num_frames
    return ProbeReading(
        position_px_BNT2=latents_B[..., :2] * size,
        half_extent_px_BNT2=torch.full_like(latents_B[..., :2], RADIUS_PX),
        visible_BNT=latents_B[..., 2],
        variance_px2_BNT=latents_B[..., 3],
    )


def latents_of(centres_BT3: Tensor, *, variance_px2: float = 0.01) -> Tensor:
    """One object whose latents are where a camera sees the centres (B, T, 3), m."""
    camera = CAMERA.expanded(len(centres_BT3))
    uv, _ = camera.project(centres_BT3)
    seen = torch.ones_like(uv[..., :1])
    latents = torch.cat((uv / uv.new_tensor([WIDTH, HEIGHT]), seen, variance_px2 * seen), dim=-1)
    return latents[:, None].float()


def never(latents_B: Tensor) -> Tensor:
    raise AssertionError("decoded without need")


def grey(latents_B: Tensor) -> Tensor:
    """Frames that hang on the latents."""
    level = latents_B.flatten(1).mean(1).view(-1, 1, 1, 1, 1)
    return (0.5 + 0 * level).expand(-1, FRAMES, 3, HEIGHT, WIDTH)


def clip(latents_B: Tensor, decode=never, **known) -> LatentVideo:
    latents = Latents(latents_B, decode, num_frames=FRAMES, height_px=HEIGHT, width_px=WIDTH)
    batch = len(latents_B)
    depth = torch.full((batch,), 4.0)
    fps = torch.full((batch,), FPS)
    return LatentVideo(latents=latents, fps_B=fps, camera=CAMERA, object_depth_m_B=depth, **known)


def counted(decode, calls: list):
    return lambda latents_B: calls.append(len(latents_B)) or decode(latents_B)


KNOWN = Instruments(probe=probe, known_distance=True)
FALL = latents_of(free_fall(frames=FRAMES))


@pytest.mark.parametrize("g", [1.5, 4.0, 9.81, 14.0])
def test_a_fall_in_latents_has_its_g_and_nothing_is_decoded(g):
    observation = Observation(clip(latents_of(free_fall(g_m_s2=g, frames=FRAMES))), KNOWN, grad=False)
    assert observation.fit.reasons == [None]
    torch.testing.assert_close(observation.fit.accel_B3, torch.tensor([[0.0, 0.0, -g]]), atol=0.01 * g, rtol=0)
    assert gravity(observation, g_m_s2=g).item() > -1e-3


@pytest.mark.parametrize("reward", [gravity, arc_residual, continuity, motion_gate])
def test_rewards_of_motion_reach_the_latents_without_decoding(reward):
    leaf = latents_of(free_fall(g_m_s2=5.0, frames=FRAMES)).requires_grad_()
    observation = Observation(clip(leaf), KNOWN, grad=True)
    with torch.no_grad():
        reward(observation)
    score = reward(observation)
    assert score.dtype == torch.float32 and torch.isfinite(score).all()
    (gradient,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
    assert gradient is None or torch.isfinite(gradient).all()
    if reward is gravity:
        assert gradient is not None and gradient[..., 1].abs().sum() > 0
        better = leaf.detach() + 1e-5 * gradient / gradient.norm()
        assert reward(Observation(clip(better), KNOWN, grad=False)) > score


def test_the_mask_is_differentiable_and_has_the_object_s_area():
    leaf = FALL.clone().requires_grad_()
    observation = Observation(clip(leaf), KNOWN, grad=True)
    torch.testing.assert_close(
        observation.mask_BTHW.sum((2, 3)).detach(), observation.image_track.area_BT.detach(), rtol=0.03, atol=0
    )
    diameter = observation.diameter_px_BT
    torch.testing.assert_close(diameter, torch.full_like(diameter, 2 * RADIUS_PX), rtol=0.05, atol=0)
    (gradient,) = torch.autograd.grad((observation.mask_BTHW * torch.linspace(0, 1, WIDTH)).sum(), leaf)
    assert torch.isfinite(gradient).all() and (gradient[..., 0] > 0).all()


def test_what_asks_for_flow_decodes_exactly_once_and_has_the_latents_gradient():
    calls: list[int] = []

    def flow(frames_BTCHW: Tensor, *, stride: int = 1) -> Tensor:
        return frames_BTCHW[:, stride:, :2].movedim(2, -1)

    leaf = FALL.clone().requires_grad_()
    instruments = dataclasses.replace(KNOWN, flow=flow)
    observation = Observation(clip(leaf, counted(grey, calls)), instruments, grad=True)
    assert gravity(observation).item() > -1e-3 and calls == []
    with torch.no_grad():
        assert observation.flow_BSHW2.requires_grad
        saturation(observation)
    assert observation.video.frames_BTCHW.requires_grad
    assert calls == [1]
    assert len(observation.objects) == 1 and calls == [1]


def test_observations_without_gradient_share_what_is_decoded():
    calls: list[int] = []
    video = clip(FALL.clone().requires_grad_(), counted(grey, calls))
    for _ in range(2):
        observation = Observation(video, KNOWN, grad=False)
        assert not observation.video.frames_BTCHW.requires_grad
        assert not observation.fit.accel_B3.requires_grad
    assert calls == [1]
    assert torch.equal(video.to("cpu")[[0]].frames_BTCHW.detach(), observation.video.frames_BTCHW)


def test_some_of_the_clips_and_other_frames():
    video = clip(latents_of(free_fall(batch=3, frames=FRAMES, g_m_s2=torch.tensor([3.0, 9.81, 6.0]))))
    chosen = video[[2, 0]]
    assert isinstance(chosen, LatentVideo) and chosen.batch_size == 2
    g = Observation(chosen, KNOWN, grad=False).fit.g_m_s2_B
    torch.testing.assert_close(g, torch.tensor([6.0, 3.0]), atol=0.1, rtol=0)
    frames = torch.zeros(3, FRAMES, 3, HEIGHT, WIDTH)
    assert type(video.with_frames(frames)) is Video and video.with_frames(frames).frames_BTCHW is frames


def test_a_frame_of_great_variance_counts_less_and_noise_widens_the_interval():
    wrong = FALL.clone()
    wrong[:, :, 4, 1] += 0.1
    misled = Observation(clip(wrong), dataclasses.replace(KNOWN, min_frames=4), grad=False)
    doubted = wrong.clone()
    doubted[:, :, 4, 3] = 100.0
    trusting = Observation(clip(doubted), KNOWN, grad=False)
    assert trusting.image_track.weight_BT[0, 4] < 1e-3 < 0.99 < trusting.image_track.weight_BT[0, 3]
    assert trusting.fit.g_m_s2_B.item() == pytest.approx(9.81, rel=0.02)
    assert misled.image_track.weight_BT[0, 4] == 1

    exact = Observation(clip(FALL), KNOWN, grad=False)
    vague = Observation(clip(latents_of(free_fall(frames=FRAMES), variance_px2=1.0)), KNOWN, grad=False)
    assert vague.centroid_noise_px().item() == pytest.approx(1.0)
    assert exact.centroid_noise_px().item() == pytest.approx(0.1)
    widths = [float(high - low) for low, high in (seen.fit.g_interval() for seen in (exact, vague))]
    assert widths[1] > 3 * widths[0]
    assert vague.trajectory.sigma_B.item() == pytest.approx(10 * exact.trajectory.sigma_B.item(), rel=1e-3)


def test_an_object_out_of_sight_has_a_reason_and_a_finite_pull():
    leaf = FALL.clone()
    leaf[..., 2] = 0.1
    leaf.requires_grad_()
    observation = Observation(clip(leaf), KNOWN, grad=True)
    assert observation.fit.reasons == ["object not visible in enough frames"]
    (gradient,) = torch.autograd.grad(observation.visibility_B.sum(), leaf)
    assert torch.isfinite(gradient).all() and (gradient[..., 2] > 0).all()


def test_several_objects_are_each_read():
    both = torch.cat((FALL, latents_of(free_fall(g_m_s2=4.0, frames=FRAMES, start_m=(0.8, 4.0, 1.5)))), dim=1)
    observation = Observation(clip(both), KNOWN, grad=False)
    assert [round(one.fit.g_m_s2_B.item(), 1) for one in observation.objects] == [9.8, 4.0]
    first = torch.ones(1, 2, HEIGHT, WIDTH)
    tracks = Observation(clip(both, object_masks_BNHW=first), KNOWN, grad=False).object_tracks
    torch.testing.assert_close(tracks[1].centroid_BT2, both[:, 1, :, :2] * torch.tensor([WIDTH, HEIGHT]).float())
    with pytest.raises(ValueError, match=r"sees 1 objects.*first masks of 2"):
        _ = Observation(clip(FALL, object_masks_BNHW=first), KNOWN, grad=False).object_tracks


def test_grad_asked_of_latents_that_have_none():
    with pytest.raises(ValueError, match=r"needs latents that require a gradient: call latents.requires_grad_"):
        Observation(clip(FALL), KNOWN, grad=True)
    with torch.inference_mode():
        made_there = FALL.clone()
    with pytest.raises(ValueError, match=r"latents were made under torch.inference_mode"):
        Observation(clip(made_there), KNOWN, grad=True)


def test_what_does_not_fit_says_what_to_do():
    frames = Video.make(grey(FALL), FPS, camera=CAMERA)
    with pytest.raises(ValueError, match=r"probe needs latents.*give a LatentVideo"):
        _ = Observation(frames, KNOWN, grad=False).image_track

    def shorter(latents_B: Tensor, *, num_frames: int, height_px: int, width_px: int) -> ProbeReading:
        return probe(latents_B[:, :, 1:], num_frames=num_frames - 1, height_px=height_px, width_px=width_px)

    short = dataclasses.replace(KNOWN, probe=shorter)
    with pytest.raises(ValueError, match=r"T = 9 frames, got .1, 1, 8"):
        _ = Observation(clip(FALL), short, grad=False).image_track
    with pytest.raises(ValueError, match=r"decode must give .*1, 9, 3, 96, 128.*got .*1, 9, 2"):
        _ = clip(FALL, lambda latents_B: grey(latents_B)[:, :, :2]).frames_BTCHW
    with pytest.raises(ValueError, match=r"variance_px2_BNT must have shape .1, 1, 9"):
        dataclasses.replace(probe(FALL, num_frames=9, height_px=9, width_px=9), variance_px2_BNT=torch.ones(1, 9))


def test_depth_is_read_off_decoded_frames_only_where_metres_need_it():
    from reward_physics.estimators.depth import Depth

    calls: list[int] = []

    def depth(frames_BTCHW: Tensor, camera: object = None) -> Depth:
        return Depth(depth_BTHW=torch.full_like(frames_BTCHW[:, :, 0], 4.0), metric=True)

    by_depth = Instruments(probe=probe, depth=depth)
    g = Observation(clip(FALL, counted(grey, calls)), by_depth, grad=False).fit.g_m_s2_B.item()
    assert g == pytest.approx(9.81, rel=0.05) and calls == [1]
    scaled = clip(FALL, px_per_m_B=torch.tensor([29.0]))
    assert Observation(scaled, by_depth, grad=False).fit.measurable_B.all()

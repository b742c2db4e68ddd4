"""The moving object: found without network or mask, told from its shadow; differentiable, and no clip knows another."""

import pytest
import torch

from reward_physics.objects.motion import find_all_moving, find_moving
from reward_physics.observation import Instruments, Observation
from reward_physics.tracks.zoom import follow_crops, object_flow
from reward_physics.video import Video


def tossed(g_px: float = 0.6, *, frames: int = 14, radius: float = 3.0, shadow: bool = True) -> tuple:
    """A ball with hard edges, by default with a larger, softer shadow: frames (T, 3, H, W), centres (T, 2)."""
    height, width = 96, 128
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    wall, clip, centres = 0.6 + 0.05 * torch.sin(u / 5), [], []
    for t in range(frames):
        x, y = 15 + 6.0 * t, 60 - 6.0 * t + 0.5 * g_px * t * t
        soft = (1 - torch.hypot(u - x - 16, v - y + 4) / 9).clamp(0, 1) if shadow else torch.zeros_like(u)
        ball = (radius + 0.5 - torch.hypot(u - x, v - y)).clamp(0, 1)
        clip.append(((wall * (1 - 0.35 * soft)) * (1 - ball) + 0.1 * ball).expand(3, -1, -1))
        centres.append([x, y])
    return torch.stack(clip), torch.tensor(centres)


def video(frames: torch.Tensor, **known) -> Video:
    return Video(frames_BTCHW=frames, fps_B=torch.full((len(frames),), 30.0), **known)


@pytest.mark.parametrize("radius", [2.5, 3.0, 5.0])
def test_the_ball_is_followed_and_not_its_shadow(radius):
    frames, centres = tossed(radius=radius)
    found = find_moving(frames[None])
    assert found.reasons == [None]
    assert found.places.present_BT.all()
    assert (found.places.centre_BT2[0] - centres).norm(dim=-1).max() < 0.6


def test_a_hard_shadow_that_moves_by_itself_is_no_object():
    """It is larger than the ball, as sharp, and flies a parabola of its own; only its colour is that of the wall."""
    v, u = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    wall = torch.stack((0.7 + 0.05 * torch.sin(u / 5), 0.55 + 0.05 * torch.cos(v / 6), torch.full_like(u, 0.4)))
    clip, centres = [], []
    for t in range(14):
        x, y = 15 + 6.0 * t, 60 - 6.0 * t + 0.3 * t * t
        shadow = (6.5 - torch.hypot(u - 110 + 4 * t, v - 85 + 0.1 * t * t)).clamp(0, 1)
        ball = (4.5 - torch.hypot(u - x, v - y)).clamp(0, 1)
        clip.append(wall * (1 - 0.4 * shadow) * (1 - ball) + ball * torch.tensor([0.1, 0.2, 0.7]).view(3, 1, 1))
        centres.append([x, y])
    objects = find_all_moving(torch.stack(clip)[None])
    assert len(objects) == 1
    assert (objects[0].places.centre_BT2[0] - torch.tensor(centres)).norm(dim=-1).max() < 0.6


def test_noise_is_no_object():
    frames = 0.5 + 0.01 * torch.randn(1, 12, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    found = find_moving(frames)
    assert found.reasons[0] is not None
    assert not found.places.present_BT.any()
    assert found.mask_BTHW.sum() == 0


def test_g_from_a_known_scale_and_from_a_known_size():
    """0.6 px a frame^2 at 30 frames a second and 54 px a metre are 10 m/s^2."""
    frames, _ = tossed(radius=8.0)
    still = Instruments(mask="motion")
    scaled = Observation(video(frames[None], px_per_m_B=torch.tensor([54.0])), still, grad=False)
    assert scaled.fit.g_m_s2_B.item() == pytest.approx(10.0, rel=0.01)
    sized = Observation(video(frames[None], object_diameter_m_B=torch.tensor([16 / 54])), still, grad=False)
    assert sized.fit.g_m_s2_B.item() == pytest.approx(10.0, rel=0.05)
    unknown = Observation(video(frames[None]), still, grad=False)
    assert unknown.no_metres == "the camera is unknown"


def test_two_clips_are_as_each_alone_and_swap_with_their_results():
    pair = torch.stack((tossed(0.6)[0], tossed(0.4)[0]))
    scale = torch.tensor([54.0, 54.0])
    still = Instruments(mask="motion")

    def g(frames):
        return Observation(video(frames, px_per_m_B=scale[: len(frames)]), still, grad=False).fit.g_m_s2_B

    both = g(pair)
    torch.testing.assert_close(both, torch.cat((g(pair[:1]), g(pair[1:]))), rtol=1e-5, atol=0)
    torch.testing.assert_close(g(pair.flip(0)), both.flip(0), rtol=1e-5, atol=0)
    assert both[0] / both[1] == pytest.approx(1.5, rel=0.03)


def test_the_gradient_reaches_the_pixels_of_the_ball_alone():
    frames, centres = tossed(shadow=False)
    leaf = frames[None].clone().requires_grad_()
    observation = Observation(video(leaf, px_per_m_B=torch.tensor([54.0])), Instruments(mask="motion"), grad=True)
    observation.fit.g_m_s2_B.sum().backward()
    assert leaf.grad.isfinite().all()
    reached = leaf.grad[0, 6].abs().sum(0)
    assert reached.sum() > 0
    x, y = centres[6]
    v, u = torch.nonzero(reached, as_tuple=True)
    assert torch.hypot(u + 0.5 - x, v + 0.5 - y).max() < 8


def test_a_clip_without_motion_has_a_finite_gradient_of_zero():
    leaf = torch.full((1, 8, 3, 32, 32), 0.5, requires_grad=True)
    observation = Observation(video(leaf, px_per_m_B=torch.tensor([54.0])), Instruments(mask="motion"), grad=True)
    assert not observation.fit.measurable_B.any()
    (observation.fit.g_m_s2_B.sum() + observation.visibility_B.sum()).backward()
    assert leaf.grad.abs().sum() == 0


def test_a_crop_that_follows_holds_the_object_still():
    frames, centres = tossed(shadow=False)
    crops = follow_crops(frames[None], centres[None], torch.tensor([18.0]), 72)[0, :, 0]
    assert crops.shape == (14, 72, 72)
    dark = (crops < 0.35).float()
    v, u = torch.meshgrid(torch.arange(72) + 0.5, torch.arange(72) + 0.5, indexing="ij")
    middle = torch.stack(((dark * u).sum((1, 2)), (dark * v).sum((1, 2))), -1) / dark.sum((1, 2))[:, None]
    torch.testing.assert_close(middle, torch.full((14, 2), 36.0), atol=1.5, rtol=0)


def test_flow_in_the_crop_is_put_back_into_the_picture():
    """A crop that lags by half a pixel a frame sees just that, enlarged."""
    frames, centres = tossed(shadow=False)
    inside = (frames.mean(1) < 0.35).float()[None]

    def sees_two_px(crops, *, stride):
        return torch.full((1, crops.shape[1] - stride, *crops.shape[-2:], 2), 2.0)

    flow, trust = object_flow(
        frames[None], inside, centre_BT2=centres[None], radius_B=torch.tensor([4.0]), flow=sees_two_px, stride=2
    )
    expected = centres[2:] - centres[:-2] + 2.0 * 24 / 128
    torch.testing.assert_close(flow[0], expected, atol=1e-4, rtol=0)
    assert trust.tolist() == [[1.0] * 12]

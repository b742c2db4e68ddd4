"""Several objects in a clip: each is read as it is alone, and keeps its identity when they meet."""

import pytest
import torch

from reward_physics.estimators.depth import Depth
from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video

FPS, PX_PER_M = 30.0, 50.0
RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.2, 0.8)
FRAMES, HEIGHT, WIDTH = 20, 120, 180


def thrown(x: float, y: float, vx: float, vy: float, g: float) -> torch.Tensor:
    """Centres (T, 2) in px of a throw, g in m/s^2."""
    time = torch.arange(FRAMES) / FPS
    return torch.stack((x + vx * time, y + vy * time + 0.5 * g * PX_PER_M * time.square()), dim=-1)


LEFT = thrown(20, 85, 200, -230, 10.0)
RIGHT = thrown(160, 60, -190, -120, 6.0)


def drawn(paths: list[torch.Tensor], colours: list[tuple], radius: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip (T, 3, H, W) of discs over a wall, the later before the earlier, and their masks (N, T, H, W)."""
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    clip = (0.6 + 0.05 * torch.sin(u / 9) * torch.cos(v / 7)).expand(FRAMES, 3, -1, -1)
    masks = []
    for centre, colour in zip(paths, colours, strict=True):
        at = centre[:, :, None, None]
        mask = (radius + 0.5 - torch.hypot(u - at[:, 0], v - at[:, 1])).clamp(0, 1)
        clip = clip * (1 - mask[:, None]) + mask[:, None] * torch.tensor(colour).view(3, 1, 1)
        masks.append(mask)
    return clip, torch.stack(masks)


def video(*clips: torch.Tensor, **known) -> Video:
    fps, scale = torch.full((len(clips),), FPS), torch.full((len(clips),), PX_PER_M)
    return Video(frames_BTCHW=torch.stack(clips), fps_B=fps, px_per_m_B=scale, **known)


def by_colour(frames_BTCHW: torch.Tensor, camera: object = None) -> Depth:
    """A segmenter that knows how the wall looks; it has no depth to tell."""
    unlike = (frames_BTCHW - 0.6).abs().amax(2)
    inside = ((unlike - 0.06) / 0.3).clamp(1e-3, 1 - 1e-3)
    return Depth(depth_BTHW=unlike, metric=False, mask_logits_BTHW=torch.logit(inside))


def read(observation: Observation) -> list[float]:
    return [float(one.fit.g_m_s2_B[0]) for one in observation.objects]


SEGMENTER = Instruments(mask="segmenter", depth=by_colour)
MOTION = Instruments(mask="motion")


@pytest.mark.parametrize("instruments", [MOTION, SEGMENTER], ids=["motion", "segmenter"])
@pytest.mark.parametrize("colours", [(RED, BLUE), (RED, RED)], ids=["two colours", "one colour"])
def test_balls_that_cross_are_told_apart_and_each_read(instruments, colours):
    clip, _ = drawn([LEFT, RIGHT], list(colours))
    found = Observation(video(clip), instruments, grad=False)
    assert len(found.objects) == 2
    first = [one.image_track.centroid_BT2[0, 0, 0].item() for one in found.objects]
    assert sorted(first) == pytest.approx([20.0, 160.0], abs=1.0)
    expected = [10.0 if u < 90 else 6.0 for u in first]
    assert read(found) == pytest.approx(expected, rel=0.04)
    for one, u in zip(found.objects, first, strict=True):
        apart = one.image_track.centroid_BT2[0] - (LEFT if u < 90 else RIGHT)
        seen = one.image_track.weight_BT[0] > 0.1
        assert seen.sum() >= FRAMES - 4
        assert apart[seen].norm(dim=-1).max() < 1.5


@pytest.mark.parametrize("mask", ["motion", "segmenter", "appearance"])
@pytest.mark.parametrize("colours", [(RED, BLUE), (RED, RED)], ids=["two colours", "one colour"])
def test_objects_keep_the_order_of_their_masks(mask, colours):
    clip, masks = drawn([LEFT, RIGHT], list(colours))
    firsts = (masks[:, 0] > 0.5).float()
    settings = Instruments(mask=mask, depth=by_colour if mask == "segmenter" else None)
    for order, expected in (([0, 1], [10.0, 6.0]), ([1, 0], [6.0, 10.0])):
        known = firsts[order]
        found = Observation(video(clip, object_masks_BNHW=known[None], first_mask_BHW=known[:1]), settings, grad=False)
        assert read(found) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("mask", ["segmenter", "appearance"])
def test_bodies_of_one_colour_that_collide_stay_who_they_are(mask):
    hits = torch.arange(FRAMES) >= 8
    step = torch.arange(FRAMES) - 8.0
    first = torch.stack((80 + 3 * step.clamp(max=0) + 0.5 * step.clamp(min=0), torch.full((FRAMES,), 60.0)), -1)
    second = torch.stack((90 + 2.5 * step * hits, torch.full((FRAMES,), 60.0)), -1)
    clip, masks = drawn([first, second], [RED, RED])
    known = (masks[:, 0] > 0.5).float()
    settings = Instruments(mask=mask, depth=by_colour if mask == "segmenter" else None)
    for order in ([0, 1], [1, 0]):
        seen = video(clip, object_masks_BNHW=known[order][None], first_mask_BHW=known[order][:1])
        found = Observation(seen, settings, grad=False)
        for track, n in zip(found.object_tracks, order, strict=True):
            assert (track.centroid_BT2[0] - (first, second)[n]).norm(dim=-1).max() < 0.8


def test_an_object_that_a_clip_has_not_takes_nothing_from_the_others():
    clip, masks = drawn([LEFT], [RED])
    known = torch.stack(((masks[0, 0] > 0.5).float(), torch.zeros(HEIGHT, WIDTH)))
    found = Observation(video(clip, object_masks_BNHW=known[None], first_mask_BHW=known[:1]), SEGMENTER, grad=False)
    alone, absent = found.object_tracks
    torch.testing.assert_close(alone.area_BT, (found.mask_BTHW * alone.window_BTHW).sum((2, 3)))
    assert absent.area_BT.max() < 1e-3


def test_one_object_is_the_observation_itself():
    clip, _ = drawn([LEFT], [RED])
    for instruments in (MOTION, SEGMENTER):
        observation = Observation(video(clip), instruments, grad=False)
        assert observation.objects == [observation]


def test_the_first_object_is_the_one_that_is_read_alone():
    clip, _ = drawn([LEFT, RIGHT], [RED, BLUE])
    for instruments in (MOTION, SEGMENTER):
        observation = Observation(video(clip), instruments, grad=False)
        apart = observation.image_track.centroid_BT2 - observation.objects[0].image_track.centroid_BT2
        assert apart.norm(dim=-1).median() < 0.5


def test_a_clip_with_fewer_objects_says_so_and_no_clip_knows_another():
    two, one = drawn([LEFT, RIGHT], [RED, BLUE])[0], drawn([RIGHT], [BLUE])[0]
    for instruments in (MOTION, SEGMENTER):
        both = Observation(video(two, one), instruments, grad=False).objects
        assert len(both) == 2
        assert both[1].fit.reasons[0] is None and both[1].fit.reasons[1] is not None
        assert both[0].fit.g_m_s2_B[1].item() == pytest.approx(6.0, rel=0.04)
        alone = Observation(video(two), instruments, grad=False).objects
        for n in range(2):
            torch.testing.assert_close(both[n].fit.g_m_s2_B[:1], alone[n].fit.g_m_s2_B)


def test_each_object_has_a_gradient_of_its_own():
    clip, masks = drawn([LEFT, RIGHT], [RED, BLUE])
    for instruments in (MOTION, SEGMENTER):
        frames = clip[None].clone().requires_grad_()
        observation = Observation(video(clip).with_frames(frames), instruments, grad=True)
        for one in observation.objects:
            (gradient,) = torch.autograd.grad(one.fit.g_m_s2_B.sum(), frames, retain_graph=True)
            size = gradient[0].abs().sum(1)
            shares = [(size * (mask > 0)).sum() / size.sum() for mask in masks]
            mine = 0 if one.image_track.centroid_BT2[0, 0, 0] < 90 else 1
            assert torch.isfinite(gradient).all()
            assert shares[mine] > 0.9

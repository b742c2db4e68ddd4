"""Rewards against a reference clip: 0 for itself, less for every other motion; the published formulas beside them."""

import dataclasses

import pytest
import torch
from discs import TruthDepth, free_fall, make_world
from torch import nn

from reward_physics.observation import Instruments, Observation
from rewards.matches.depth_match import depth_match
from rewards.matches.flow_match import flow_match
from rewards.matches.segmentation_match import segmentation_match

MATCHES = [flow_match, depth_match, segmentation_match]
TRUE, SLOW = make_world(free_fall(frames=7)), make_world(free_fall(frames=7, g_m_s2=4.0))
FRAMES = TRUE.video.frames_BTCHW
GONE = make_world(free_fall(frames=7, start_m=(9.0, 4.0, 1.7))).video.frames_BTCHW


class Motion(nn.Module):
    """A flow that says how the red thing moves, where it is red; counts its calls."""

    calls = 0

    def forward(self, frames, *, stride=1):
        type(self).calls += 1
        red = (frames[:, :, 0] - 0.2).clamp(min=0)
        rows = torch.arange(red.shape[2]) + 0.5
        height = (red.sum(3) * rows).sum(2) / red.sum((2, 3)).clamp(min=1e-3)
        down = (height[:, stride:] - height[:, :-stride])[..., None, None] * red[:, :-stride] / 0.7
        return torch.stack((torch.zeros_like(down), down), -1)


def instruments(metric=True):
    depth = TruthDepth(TRUE.camera, TRUE.centres_BT3)
    if not metric:
        whole = depth.forward
        depth.forward = lambda frames, camera=None: dataclasses.replace(
            whole(frames, camera), depth_BTHW=3 * (frames[:, :, 0] + 0.1), metric=False
        )
    return Instruments(flow=Motion(), depth=depth)


SEEN_BY = instruments()


def score(match, frames, using=SEEN_BY, **parameters):
    observation = Observation(TRUE.video.with_frames(frames), using, grad=frames.requires_grad)
    return match(observation, reference_BTCHW=FRAMES, **parameters)


@pytest.mark.parametrize("match", MATCHES)
def test_the_reference_itself_scores_zero(match):
    assert score(match, FRAMES).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("match", [flow_match, segmentation_match])
def test_the_farther_from_the_true_fall_the_worse(match):
    worlds = [make_world(free_fall(frames=7, g_m_s2=g)).video.frames_BTCHW for g in (9.0, 7.0, 4.0, 1.0)]
    scores = [score(match, frames).item() for frames in worlds]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0


def test_a_frozen_clip_scores_minus_one_by_flow_and_vanishing_does_not_pay():
    assert score(flow_match, FRAMES[:, :1].expand_as(FRAMES)).item() == pytest.approx(-1, abs=0.05)
    for match in (flow_match, segmentation_match):
        vanished = torch.cat((FRAMES[:, :1], GONE[:, 1:]), 1)
        assert score(match, vanished) <= score(match, SLOW.video.frames_BTCHW)


def test_published_flow_hardly_notices_that_a_small_object_vanishes():
    vanished = torch.cat((FRAMES[:, :1], GONE[:, 1:]), 1)
    published, ours = (score(flow_match, vanished, published=flag).item() for flag in (True, False))
    assert -0.2 < published < 0 and ours < -0.8


def test_published_formulas():
    still = torch.zeros(1, 7, 64, 64)
    observation = Observation(TRUE.video.with_frames(SLOW.video.frames_BTCHW), SEEN_BY, grad=False)
    truth = Observation(TRUE.video, SEEN_BY, grad=False)
    flow = -(observation.flow_BSHW2 - truth.flow_BSHW2).abs().mean()
    torch.testing.assert_close(score(flow_match, SLOW.video.frames_BTCHW, published=True), flow[None])
    a, b = observation.mask_BTHW, truth.mask_BTHW
    iou = (a * b).sum((2, 3)) / (a.sum((2, 3)) + b.sum((2, 3)) - (a * b).sum((2, 3)))
    torch.testing.assert_close(score(segmentation_match, SLOW.video.frames_BTCHW, published=True), iou.mean(1) - 1)
    assert score(depth_match, FRAMES, published=True).item() == still.sum()


def test_masks_that_do_not_meet_are_still_pulled_together():
    far = make_world(free_fall(frames=7, start_m=(0.9, 4.0, 1.7))).video.frames_BTCHW

    def pull(**parameters):
        leaf = far.clone().requires_grad_()
        return torch.autograd.grad(score(segmentation_match, leaf, **parameters).sum(), leaf)[0].abs().sum().item()

    assert pull() > 10 * pull(published=True)


@pytest.mark.parametrize("metric", [True, False])
def test_depth_of_a_clip_without_the_object_loses(metric):
    using = instruments(metric)
    vanished = torch.cat((FRAMES[:, :1], GONE[:, 1:]), 1)
    assert score(depth_match, FRAMES, using).item() == pytest.approx(0, abs=1e-3)
    if not metric:
        assert score(depth_match, vanished, using).item() < -0.05


def test_the_reference_is_measured_once_and_without_gradient():
    using = instruments()
    Motion.calls = 0
    for _ in range(3):
        leaf = SLOW.video.frames_BTCHW.clone().requires_grad_()
        value = score(flow_match, leaf, using)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert Motion.calls == 3 + 2, "the reference once for its flow and once for its mask, whatever the step"


def test_nothing_moves_in_the_reference():
    observation = Observation(TRUE.video, SEEN_BY, grad=False)
    assert flow_match(observation, reference_BTCHW=FRAMES[:, :1].expand_as(FRAMES)).isnan().all()
    with pytest.raises(ValueError, match=r"at least 7 frames, got .*generate no longer clips"):
        flow_match(observation, reference_BTCHW=FRAMES[:, :5])


def test_estimators_that_are_missing_are_named():
    only = Instruments(mask="appearance")
    for match, name in [(flow_match, "flow"), (depth_match, "depth")]:
        with pytest.raises(ValueError, match=f"{name}_match: there is no {name} estimator"):
            score(match, FRAMES, only)

"""Rewards and their gradient at the pixels: limited by the measurable clips, silent where nothing is generated."""

import pytest
import torch
from accelerate import Accelerator

from reward_physics.video import Video
from trainers.scoring import Scored, limit, reward_metrics, score, score_with_gradient


@pytest.fixture
def video():
    frames = torch.rand(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Video.make(frames, 16.0)


def test_the_gradient_is_that_of_each_clips_own_reward(video, brightness):
    scored = score_with_gradient(brightness(lambda reward_B, frames: reward_B * torch.tensor([1.0, 2, 3])), video, {})
    expected = torch.tensor([1.0, 2, 3]) / (4 * 3 * 8 * 8)
    torch.testing.assert_close(scored.pixel_grad_BTCHW[:, 1, 0, 2, 2], expected)
    assert not scored.reward_B.requires_grad
    assert video.frames_BTCHW.grad is None


def test_a_given_first_frame_gets_no_gradient(video, brightness):
    scored = score_with_gradient(brightness(), video, {}, skip_first=True)
    assert scored.pixel_grad_BTCHW[:, 0].abs().max() == 0
    assert scored.pixel_grad_BTCHW[:, 1:].abs().min() > 0


def test_limits_come_from_the_measurable_clips():
    norm_B = torch.tensor([1.0, 2.0, 100.0, 0.01, 0.02])
    measurable_B = torch.tensor([True, True, True, False, False])
    torch.testing.assert_close(limit(norm_B, measurable_B, 4.0), torch.tensor([1.0, 1.0, 0.08, 1.0, 1.0]))
    assert limit(norm_B, torch.zeros(5, dtype=torch.bool), 4.0).tolist() == [1.0] * 5
    assert limit(torch.zeros(2), torch.ones(2, dtype=torch.bool), 4.0).tolist() == [1.0, 1.0]


def test_scoring_without_gradient_gives_the_same_rewards(video, brightness):
    with_gradient = score_with_gradient(brightness(blind=[1]), video, {})
    without, _ = score(brightness(blind=[1]), video, {})
    assert torch.equal(with_gradient.reward_B, without.reward_B)
    assert without.reasons == [None, "hidden", None]
    assert without.pixel_grad_BTCHW is None


def test_terms_average_over_what_was_measured():
    scored = Scored(
        reward_B=torch.tensor([1.0, 2.0, -3.0]),
        terms={"fall": torch.tensor([1.0, 2.0, float("nan")]), "rise": torch.full((3,), float("nan"))},
        measurable_B=torch.tensor([1.0, 1.0, 0.0]),
        reasons=[None, None, "hidden"],
    )
    metrics = reward_metrics(Accelerator(cpu=True), scored)
    assert metrics["reward"] == pytest.approx(0.0)
    assert metrics["measurable"] == pytest.approx(2 / 3)
    assert metrics["rewards/fall/mean"] == pytest.approx(1.5)
    assert "rewards/rise/mean" not in metrics

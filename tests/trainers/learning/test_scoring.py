"""Rewards and their gradient at the pixels: limited by the measurable clips, silent where nothing is generated."""

import pytest
import torch
from accelerate import Accelerator

from reward_physics.observation import Instruments
from reward_physics.video import Video
from rewards.recipe.recipe import Recipe, RecipeConfig
from trainers.learning.figures import Processes, reward_metrics
from trainers.learning.scoring import Scored, limit, score, score_with_gradient


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
    torch.testing.assert_close(limit(norm_B, norm_B, measurable_B, 4.0), torch.tensor([1.0, 1.0, 0.08, 1.0, 1.0]))
    assert limit(norm_B, norm_B, torch.zeros(5, dtype=torch.bool), 4.0).tolist() == [1.0] * 5
    assert limit(*[torch.zeros(2)] * 2, torch.ones(2, dtype=torch.bool), 4.0).tolist() == [1.0, 1.0]


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
    metrics = reward_metrics(Processes.of(Accelerator(cpu=True)), scored)
    assert metrics["reward"] == pytest.approx(0.0)
    assert metrics["measurable"] == pytest.approx(2 / 3)
    assert metrics["rewards/fall/mean"] == pytest.approx(1.5)
    assert "rewards/rise/mean" not in metrics


@pytest.fixture
def two_rewards(tmp_path, video):
    """A recipe of brightness, and of minus half the brightness of the second frame, blind on the last clip."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def bright(observation):\n    return observation.video.frames_BTCHW.mean((1, 2, 3, 4))\n"
        "def dark(observation):\n"
        "    value = -0.5 * observation.video.frames_BTCHW[:, 1].mean((1, 2, 3))\n"
        "    return torch.where(torch.arange(len(value)) < 2, value, torch.nan)\n"
    )
    rewards = [{"name": "mine.py:bright", "weight": 3.0}, {"name": "mine.py:dark"}]
    config = RecipeConfig.model_validate({"rewards": rewards, "unmeasurable": -1, "visibility_weight": 0})
    still = Instruments(depth=lambda frames, camera: None, mask="segmenter")
    return Recipe(config, still, base=tmp_path)


def test_gradients_of_several_rewards_are_compared(two_rewards, video):
    scored = score_with_gradient(two_rewards, video, {}, each_reward=True)
    figures = scored.gradient_figures
    assert list(figures) == ["grad/bright/norm", "grad/dark/norm", "grad/cos/bright/dark"]
    pixels = 3 * 8 * 8
    torch.testing.assert_close(figures["grad/bright/norm"], torch.full((3,), (4 * pixels) ** -0.5))
    torch.testing.assert_close(figures["grad/dark/norm"][:2], torch.full((2,), 0.5 * pixels**-0.5))
    torch.testing.assert_close(figures["grad/cos/bright/dark"][:2], torch.full((2,), -0.5))
    assert figures["grad/dark/norm"][2].isnan() and figures["grad/cos/bright/dark"][2].isnan()
    metrics = reward_metrics(Processes.of(Accelerator(cpu=True)), scored)
    assert metrics["grad/cos/bright/dark"] == pytest.approx(-0.5)
    plain = score_with_gradient(two_rewards, video, {})
    assert torch.equal(plain.pixel_grad_BTCHW, scored.pixel_grad_BTCHW) and plain.gradient_figures == {}
    assert not any(name.startswith("grad/") for name in reward_metrics(Processes.of(Accelerator(cpu=True)), plain))


def test_a_single_reward_has_nothing_to_be_compared_with(two_rewards, video):
    two_rewards.terms = two_rewards.terms[:1]
    assert score_with_gradient(two_rewards, video, {}, each_reward=True).gradient_figures == {}

"""Laws of the weights of a weighted regression, with literal values."""

import math

import pytest
import torch

from trainers.learning.advantages import reward_weights, weight_metrics, why_nothing_differs
from trainers.settings.regression import Weighting

REWARD_GN = torch.tensor([[-0.9, -0.1, -0.5, -0.3], [-0.2, -0.2, -0.8, -0.4]])
ALL = torch.ones(2, 4)
PLAIN = {"absolute_scale": 0.0}


def weights(reward_GN=REWARD_GN, measurable_GN=ALL, **how):
    return reward_weights(reward_GN, measurable_GN, Weighting(**(PLAIN | how))).weight_GN


def test_a_constant_reward_gives_weights_of_exactly_one():
    for count in (3, 7, 49):
        constant = torch.full((2, count), -0.123)
        for how in ({}, {"target_ess": 0.5}, {"advantage": "group"}, {"advantage": "batch"}, {"max_weight": 2.0}):
            assert torch.equal(weights(constant, torch.ones(2, count), **how), torch.ones(2, count))


def test_cold_is_the_best_sample_and_hot_is_uniform():
    assert weights(temperature=1e-4).tolist() == [[0, 4, 0, 0], [2, 2, 0, 0]]
    torch.testing.assert_close(weights(temperature=1e6), ALL, atol=1e-5, rtol=0)


def test_a_weight_is_a_softmax_times_the_size_of_the_group():
    """Rewards 0 and -0.1 ln 3 at temperature 0.1: 3/4 and 1/4, times 2."""
    found = weights(torch.tensor([[0.0, -0.1 * math.log(3)]]), torch.ones(1, 2), temperature=0.1)
    assert found[0].tolist() == pytest.approx([1.5, 0.5])


def test_groups_do_not_compete():
    """A prompt that is easy does not take the weight of one that is hard."""
    alone = weights(REWARD_GN[:1], ALL[:1])
    torch.testing.assert_close(weights(torch.cat([REWARD_GN[:1], REWARD_GN[1:] + 100]))[:1], alone)
    torch.testing.assert_close(weights(temperature=0.3).sum(1), torch.tensor([4.0, 4.0]))


def test_top_k_leaves_the_best_k():
    found = weights(top_k=2, temperature=1e6)
    torch.testing.assert_close(found, torch.tensor([[0.0, 2, 0, 2], [2, 2, 0, 0]]), atol=1e-4, rtol=0)
    assert weights(torch.zeros(1, 3), torch.ones(1, 3), top_k=1).tolist() == [[3.0, 0.0, 0.0]]


def test_no_weight_exceeds_the_bound():
    assert weights(temperature=1e-4, max_weight=1.5).max() == 1.5


def test_what_cannot_be_measured_teaches_nothing_and_its_neighbours_take_its_share():
    measurable = torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]])
    reward = torch.where(measurable > 0, REWARD_GN, 1e9)  # whatever stands there is not looked at
    found = reward_weights(reward, measurable, Weighting(temperature=1e6, absolute_scale=0.0))
    torch.testing.assert_close(found.weight_GN[0], torch.tensor([4 / 3, 0.0, 4 / 3, 4 / 3]), atol=1e-4, rtol=0)
    assert found.weight_GN[1].tolist() == [0, 0, 0, 0]
    assert found.ess_G.tolist() == pytest.approx([3.0, 0.0])
    assert found.absolute_G[1] == 0


def test_a_group_of_only_bad_samples_teaches_nothing():
    """Expected rewards 0, -1 and -10 at scale 0.5: absolute weights 1, e^-2, e^-20; better than good is no better."""
    reward = torch.tensor([[0.0, 0.0], [-1.0, -1.0], [-10.0, -10.0], [5.0, 5.0]])
    found = reward_weights(reward, torch.ones(4, 2), Weighting(absolute_scale=0.5))
    assert found.absolute_G.tolist() == pytest.approx([1.0, math.exp(-2), math.exp(-20), 1.0])
    assert found.weight_GN[:, 0].tolist() == pytest.approx([1.0, math.exp(-2), math.exp(-20), 1.0])


def test_the_temperature_holds_the_effective_sample_size():
    reward = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    for target in (0.25, 0.5, 0.9):
        found = reward_weights(reward, torch.ones(16, 8), Weighting(target_ess=target))
        assert found.ess_G.mean().item() == pytest.approx(8 * target, rel=1e-3)
    larger = reward_weights(10 * reward, torch.ones(16, 8), Weighting(target_ess=0.5)).temperature
    assert larger == pytest.approx(
        10 * reward_weights(reward, torch.ones(16, 8), Weighting(target_ess=0.5)).temperature
    )


def test_advantages_forget_the_rewards_unit():
    for advantage in ("group", "batch"):
        one, ten = (weights(k * REWARD_GN, advantage=advantage, temperature=1.0) for k in (1, 10))
        torch.testing.assert_close(one, ten)
    assert not torch.allclose(weights(), weights(10 * REWARD_GN))


def test_permuting_samples_permutes_weights():
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(weights(REWARD_GN[:, order]), weights()[:, order])


def test_figures_of_a_round():
    found = reward_weights(REWARD_GN, ALL, Weighting(temperature=1e6, absolute_scale=0.0))
    metrics = weight_metrics(REWARD_GN, ALL, found)
    assert metrics["ess"] == pytest.approx(4.0)
    assert metrics["weight_entropy"] == pytest.approx(1.0)
    assert (metrics["reward_min"], metrics["reward_max"]) == pytest.approx((-0.9, -0.1))
    assert metrics["reward_best"] == pytest.approx(-0.15)
    cold = weight_metrics(REWARD_GN, ALL, reward_weights(REWARD_GN[:1], ALL[:1], Weighting(temperature=1e-4)))
    assert cold["ess"] == pytest.approx(1.0)
    assert cold["weight_entropy"] == pytest.approx(0.0, abs=1e-6)


def signed(reward_GN):
    return reward_weights(reward_GN, torch.ones_like(reward_GN), Weighting(signed=True))


def test_signed_weights_are_ranks_from_the_worst_to_the_best():
    """Of equal ones each has the mean of their ranks."""
    expected = [[-1, 1, -1 / 3, 1 / 3], [2 / 3, 2 / 3, -1, -1 / 3]]
    torch.testing.assert_close(signed(REWARD_GN).weight_GN, torch.tensor(expected))
    outlier = torch.where(REWARD_GN < -0.7, -1e6, REWARD_GN)
    assert torch.equal(signed(outlier).weight_GN, signed(REWARD_GN).weight_GN)
    assert torch.equal(signed(torch.full((2, 7), -0.123)).weight_GN, torch.zeros(2, 7))
    assert signed(torch.zeros(3, 1)).weight_GN.tolist() == [[0.0]] * 3
    assert signed(REWARD_GN).weight_GN.sum(1).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_what_cannot_be_measured_has_the_rank_of_its_price():
    reward = torch.tensor([[-1.0, -0.1, -0.5, -1.0], [-1.0] * 4])
    found = reward_weights(reward, torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0]]), Weighting(signed=True))
    torch.testing.assert_close(found.weight_GN, torch.tensor([[-2 / 3, 1, 1 / 3, -2 / 3], [0, 0, 0, 0]]))
    assert found.ess_G.tolist() == pytest.approx([(8 / 3) ** 2 / 2, 0.0])
    assert all(math.isfinite(value) for value in weight_metrics(reward, torch.zeros(2, 4), found).values())


def ragged():
    """Groups of four, two and one, padded with what is not there."""
    present = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    return torch.zeros(3, 4), present


@pytest.mark.parametrize("how", [{}, {"max_weight": 1.0}, {"max_weight": 2.0}, {"advantage": "group"}])
def test_equal_samples_weigh_the_same_in_groups_of_unequal_size(how):
    reward, present = ragged()
    found = reward_weights(reward, present, Weighting(**(PLAIN | how)), present_GN=present)
    assert torch.equal(found.weight_GN, present)
    assert found.ess_G.tolist() == pytest.approx([4.0, 2.0, 1.0])
    assert found.entropy_G.tolist() == pytest.approx([1.0, 1.0, 0.0])


def test_a_group_weighs_as_many_samples_as_it_has():
    """A padded group has the weights that it has alone."""
    _, present = ragged()
    reward = torch.where(present > 0, torch.tensor([-0.3, -0.1, -0.4, -0.2]), 0.0)
    found = reward_weights(reward, present, Weighting(temperature=0.1, absolute_scale=0.0), present_GN=present)
    assert found.weight_GN.sum(1).tolist() == pytest.approx([4.0, 2.0, 1.0])
    alone = weights(reward[1:2, :2], ALL[:1, :2])
    torch.testing.assert_close(found.weight_GN[1:2, :2], alone)


def test_the_bound_leaves_equal_samples_that_take_the_share_of_hidden_ones():
    hidden = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    found = weights(torch.zeros(2, 4), hidden, max_weight=2.0)
    assert found.tolist() == [[4.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]


def test_a_hidden_clip_never_wins_a_bad_group():
    """A price of -1 lies above all that was measured: it counts as the group's worst, -9."""
    reward = torch.tensor([[-3.0, -1.0, -9.0, -5.0]])
    found = reward_weights(reward, torch.tensor([[1.0, 0, 1, 1]]), Weighting(signed=True))
    torch.testing.assert_close(found.weight_GN, torch.tensor([[1.0, -2 / 3, -2 / 3, 1 / 3]]))


def test_a_group_that_nobody_could_measure_has_no_advantage_whatever_its_prices():
    found = reward_weights(torch.tensor([[-1.0, -1.1, -1.3]]), torch.zeros(1, 3), Weighting(signed=True))
    assert found.weight_GN.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("how", [Weighting(signed=True), Weighting(absolute_scale=0.0), Weighting()])
def test_it_is_said_why_nothing_differs(how):
    def why(reward, measurable):
        return why_nothing_differs(reward, measurable, reward_weights(reward, measurable, how), how)

    constant = torch.full((2, 4), -0.37)
    assert "all samples of a prompt have the same reward" in why(constant, ALL)
    assert why(constant, torch.zeros(2, 4)) == "none of 8 clips could be measured"
    assert why(REWARD_GN, ALL) is None
    hidden = torch.tensor([[1.0, 0, 1, 1], [1, 1, 1, 1]])
    assert why(torch.where(hidden > 0, constant, -2.0), hidden) is None

import math

import pytest
import torch

from reward_physics.figures.distributions import ks_distance, pairwise_rms, spread_within

INF = math.inf


def test_ks_by_hand():
    assert ks_distance(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.1, 0.2, 0.3])) == 0.0
    assert ks_distance(torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4])) == 1.0
    assert ks_distance(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.25, 0.25])) == 0.5


def test_what_never_lands_lies_beyond_every_time():
    """Three of four land as they should and one never: F differs by a quarter from the fourth time on."""
    true = torch.tensor([0.4, 0.5, 0.6, 0.7])
    assert ks_distance(torch.tensor([0.4, 0.5, 0.6, math.nan]), true) == 0.25
    assert ks_distance(torch.tensor([math.nan] * 4), true) == 1.0
    assert ks_distance(torch.tensor([math.nan, INF]), torch.tensor([INF])) == 0.0
    assert math.isnan(ks_distance(torch.tensor([]), true))


def test_clips_that_are_alike_have_no_diversity():
    frames = torch.rand(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1, -1)
    assert pairwise_rms(frames) == 0.0
    black_grey_white = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None, None].expand(3, 2, 3, 4, 4)
    assert pairwise_rms(black_grey_white) == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    assert math.isnan(pairwise_rms(frames[:1]))


def test_spread_within_scenes_is_not_that_between_them():
    """Scenes at 2 and at 9 that repeat themselves have none; a seed that could not be measured is left out."""
    assert spread_within(torch.tensor([[2.0, 9.0], [2.0, 9.0]])) == 0.0
    assert spread_within(torch.tensor([[1.0, 9.0], [3.0, math.nan]])) == pytest.approx(math.sqrt(2))
    assert math.isnan(spread_within(torch.tensor([[1.0, 2.0]])))

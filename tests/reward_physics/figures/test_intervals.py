import math

import pytest
import torch

from reward_physics.figures.intervals import bootstrap_interval, mean_interval, paired_difference, student_t_quantile


def test_student_t_quantiles_are_those_of_the_tables():
    quantile = student_t_quantile(0.975, torch.tensor([1.0, 2.0, 5.0, 30.0]))
    torch.testing.assert_close(
        quantile, torch.tensor([12.7062, 4.3027, 2.5706, 2.0423], dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_without_degrees_of_freedom_there_is_no_quantile():
    assert torch.isnan(student_t_quantile(0.975, torch.tensor([0.0, -1.0]))).all()


def test_mean_interval_by_hand():
    interval = mean_interval(torch.tensor([1.0, 2.0, 3.0, math.nan]))
    # standard error 1/sqrt(3), t(0.975, 2) = 4.302653
    assert interval.estimate == pytest.approx(2.0)
    assert interval.high == pytest.approx(2.0 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert (interval.count, interval.dropped) == (3, 1)


def test_paired_difference_cancels_what_the_scenes_share():
    before = torch.tensor([1.0, 50.0, -20.0, 7.0])
    interval = paired_difference(before, before + torch.tensor([2.0, 2.1, 1.9, 2.0]))
    assert interval.estimate == pytest.approx(2.0)
    assert interval.low > 1.8
    assert interval.high < 2.2
    assert interval.excludes(0.0)


def test_a_pair_with_one_unmeasurable_side_is_dropped_and_counted():
    interval = paired_difference(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([2.0, 3.0, 4.5]))
    assert interval.estimate == pytest.approx(1.25)
    assert interval.dropped == 1


def test_one_pair_allows_no_interval_and_excludes_nothing():
    interval = paired_difference(torch.tensor([1.0]), torch.tensor([9.0]))
    assert math.isnan(interval.low)
    assert not interval.excludes(0.0)


def test_paired_lists_must_match():
    with pytest.raises(ValueError, match="one length"):
        paired_difference(torch.zeros(3), torch.zeros(4))


def test_student_intervals_cover_what_they_promise():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 6, generator=generator)
    covered = sum(not mean_interval(row).excludes(0.0) for row in draws) / len(draws)
    assert covered == pytest.approx(0.95, abs=0.015)


def row_means(values_RN: torch.Tensor) -> torch.Tensor:
    return values_RN.mean(-1)


def test_bootstrap_is_repeatable_and_near_the_normal_interval():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    first = bootstrap_interval(values, row_means, generator=torch.Generator().manual_seed(2), resamples=1000)
    again = bootstrap_interval(values, row_means, generator=torch.Generator().manual_seed(2), resamples=1000)
    assert first == again
    assert first.high - first.low == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.1)

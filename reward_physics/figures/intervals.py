"""Intervals for a mean, for a paired difference and for any statistic over scenes.

Axes: N scenes, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its two-sided interval; NaN where too few values allow one."""

    estimate: float
    low: float
    high: float
    count: int
    """Values that entered."""
    dropped: int = 0
    """Values left out because they (or their partner) could not be measured."""

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside; False when there is no interval."""
        return value < self.low or value > self.high


def student_t_quantile(probability: float, dof: Tensor | float) -> Tensor:
    """Quantile of Student's t for any real `dof`, float64, of its shape; NaN where it is not positive."""
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability must lie in (0, 1), got {probability}")
    nu = torch.as_tensor(dof, dtype=torch.float64).detach()
    quantile = torch.as_tensor(special.stdtrit(nu.cpu().numpy(), probability), dtype=torch.float64, device=nu.device)
    return torch.where(nu > 0, quantile, torch.nan)


def mean_interval(values_N: Tensor, *, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval; NaN values are left out and counted."""
    finite = values_N.detach().double().flatten()
    finite = finite[torch.isfinite(finite)]
    count, dropped = len(finite), values_N.numel() - len(finite)
    if count < 2:
        estimate = float(finite[0]) if count else math.nan
        return Interval(estimate=estimate, low=math.nan, high=math.nan, count=count, dropped=dropped)
    mean = float(finite.mean())
    half = float(student_t_quantile(0.5 + confidence / 2, count - 1.0) * finite.std() / math.sqrt(count))
    return Interval(estimate=mean, low=mean - half, high=mean + half, count=count, dropped=dropped)


def paired_difference(before_N: Tensor, after_N: Tensor, *, confidence: float = 0.95) -> Interval:
    """Mean of after - before over the same scenes and seeds, with Student's t interval.

    Args:
        before_N, after_N: one value a scene, in one order; a pair with a NaN is left out and counted in `dropped`.
    """
    if before_N.shape != after_N.shape or before_N.ndim != 1:
        raise ValueError(
            f"paired values must be two lists of one length, got {tuple(before_N.shape)} and {tuple(after_N.shape)}"
        )
    return mean_interval(after_N.double() - before_N.double(), confidence=confidence)


def bootstrap_interval(
    values_N: Tensor,
    statistic: Callable[[Tensor], Tensor],
    *,
    generator: torch.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap over scenes of any statistic.

    Args:
        values_N: one value a scene; NaN passes through to the statistic.
        statistic: maps values_RN to one number a row (`lambda values: values.mean(-1)`); NaN results are left out.
        generator: makes the resampling repeatable.
    """
    count = len(values_N)
    if count < 2:
        estimate = float(statistic(values_N[None])[0]) if count else math.nan
        return Interval(estimate=estimate, low=math.nan, high=math.nan, count=count)
    index_RN = torch.randint(count, (resamples, count), generator=generator)
    draws_R = statistic(values_N[index_RN]).double()
    draws_R = draws_R[torch.isfinite(draws_R)]
    tail = (1 - confidence) / 2
    low, high = (float(torch.quantile(draws_R, p)) if len(draws_R) else math.nan for p in (tail, 1 - tail))
    return Interval(estimate=float(statistic(values_N[None])[0]), low=low, high=high, count=count)

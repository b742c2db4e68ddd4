"""Distributions over many clips: landing times against the truth, and how much the clips of one scene differ.

Axes: N clips, S seeds of one scene, T frames, C colours, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ks_distance(values_N: Tensor, reference_M: Tensor) -> float:
    """Kolmogorov-Smirnov distance of two samples, sup_x |F(x) - G(x)|, in [0, 1].

    NaN and infinity count as an event that never comes: beyond every finite value. NaN where a sample is empty.
    """
    if not len(values_N) or not len(reference_M):
        return math.nan
    a, b = (torch.nan_to_num(sample.double(), nan=math.inf, posinf=math.inf) for sample in (values_N, reference_M))
    at = torch.cat([a, b])
    at = at[torch.isfinite(at)]
    if not len(at):
        return 0.0
    below_a, below_b = ((sample[:, None] <= at).double().mean(0) for sample in (a, b))
    return float((below_a - below_b).abs().max())


def pairwise_rms(frames_STCHW: Tensor) -> float:
    """Mean over pairs of clips of the root mean square difference of pixels, in [0, 1]; NaN for fewer than two."""
    count = len(frames_STCHW)
    if count < 2:
        return math.nan
    distances = [
        float((frames_STCHW[i] - frames_STCHW[j]).square().mean().sqrt()) for i in range(count) for j in range(i)
    ]
    return sum(distances) / len(distances)


def spread_within(values_SN: Tensor) -> float:
    """Median over scenes N of the standard deviation over their seeds S, which may be NaN; NaN where none has two."""
    deviations = []
    for column in values_SN.double().unbind(-1):
        known = column[torch.isfinite(column)]
        if len(known) > 1:
            deviations.append(known.std())
    return float(torch.stack(deviations).quantile(0.5)) if deviations else math.nan

"""The figures of PISA's published tables as its code computes them, to compare with those tables and not to decide by.

Known defects, kept here and mended in `metrics`: the L2 is a mean absolute error per axis; frames in which the object
is not seen are left out of L2 and Chamfer, so that vanishing costs nothing; IoU pools all objects into one, so that
exchanged ones are caught but a small one hardly counts. Lengths are divided by sqrt(2) H, the diagonal of a square
picture, whatever the width W is.

Axes: T frames, K objects, H W pixels; a mask is object from 0.5 up. Source: Li et al., "PISA Experiments", 2025,
arXiv:2503.09595, and its evaluation code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reward_physics.figures.metrics import mask_centroid


def published_l2(mask_THW: Tensor, true_THW: Tensor) -> float:
    """mean_{t, axis} |centroid - true centroid| / (sqrt(2) H); NaN where no frame shows both."""
    error_T2 = (mask_centroid(_binary(mask_THW)) - mask_centroid(_binary(true_THW))).abs()
    seen_T = torch.isfinite(error_T2).all(-1)
    return float(error_T2[seen_T].mean()) / _diagonal(mask_THW) if seen_T.any() else math.nan


def published_chamfer(mask_THW: Tensor, true_THW: Tensor) -> float:
    """The sum, not the mean, of the two mean nearest distances, over sqrt(2) H; frames without both are left out."""
    distances = []
    for mask_HW, true_HW in zip(mask_THW, true_THW, strict=True):
        a, b = ((region >= 0.5).nonzero().double() for region in (mask_HW, true_HW))
        if len(a) and len(b):
            distance = torch.cdist(a, b)
            distances.append(float(distance.amin(0).mean() + distance.amin(1).mean()))
    return sum(distances) / len(distances) / _diagonal(mask_THW) if distances else math.nan


def published_iou(mask_TKHW: Tensor, true_TKHW: Tensor) -> float:
    """Intersection over union of all objects of a frame at once, mean over frames; 1 where both are empty."""
    a, b = mask_TKHW >= 0.5, true_TKHW >= 0.5
    both_T, union_T = (a & b).sum((1, 2, 3)), (a | b).sum((1, 2, 3))
    return float(torch.where(union_T > 0, both_T / union_T.clamp(min=1), 1.0).mean())


def _binary(mask: Tensor) -> Tensor:
    return (mask >= 0.5).double()


def _diagonal(mask_THW: Tensor) -> float:
    return math.sqrt(2) * mask_THW.shape[-2]

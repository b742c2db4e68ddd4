"""The figures of one clip's object mask against the true one, as `metrics` and as published tables define them.

Axes: T frames, H W pixels.
"""

from __future__ import annotations

import math

from torch import Tensor

from reward_physics import metrics, published


def mask_figures(mask_THW: Tensor, true_THW: Tensor) -> dict[str, float]:
    """IoU and Chamfer distance over all frames, the published L2, IoU and Chamfer, and the share of frames vanished.

    Args:
        mask_THW, true_THW: one object, soft or binary; object from 0.5 up.

    Returns:
        Means over the frames; `vanished` counts frames that show the true object and not the clip's.
    """
    chamfer = [metrics.chamfer_px(one, other) for one, other in zip(mask_THW, true_THW, strict=True)]
    here_T = true_THW.sum((1, 2)) > 0
    gone_T = (mask_THW >= 0.5).sum((1, 2)) == 0
    return {
        "published_l2": published.published_l2(mask_THW, true_THW),
        "iou": float(metrics.mask_iou(mask_THW, true_THW).mean()),
        "published_iou": published.published_iou(mask_THW[:, None], true_THW[:, None]),
        "chamfer_px": sum(chamfer) / len(chamfer),
        "published_chamfer": published.published_chamfer(mask_THW, true_THW),
        "vanished": float(gone_T[here_T].double().mean()) if here_T.any() else math.nan,
    }

"""Is the picture still itself? A guard beside the measured motion: background, sharpness and colour of the object.

Post-training can buy motion with smears and colour shifts. None of these figures is a reward; each is compared with
that of the base model or of the true clips. Axes: T frames, C colours, H W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def background_psnr_db(frames_TCHW: Tensor, mask_THW: Tensor, *, margin_px: int = 3) -> float:
    """How well what is not the object keeps its first appearance: PSNR of the later frames against the first, dB.

    Pixels within `margin_px` of the object, then or in the first frame, are left out. A moving shadow counts, so even a
    true clip stays finite: compare with it. NaN where nothing is left; capped at 60 dB.
    """
    near = F.max_pool2d((mask_THW >= 0.5).float()[:, None], 2 * margin_px + 1, stride=1, padding=margin_px)[:, 0] > 0
    clear_THW = ~(near[1:] | near[:1])
    error_THW = (frames_TCHW[1:] - frames_TCHW[:1]).square().mean(1)
    count = clear_THW.sum()
    if not count:
        return math.nan
    mse = float((error_THW * clear_THW).sum() / count)
    return min(60.0, -10 * math.log10(max(mse, 1e-12)))


def sharpness_ratio(frames_TCHW: Tensor, mask_THW: Tensor, used_T: Tensor) -> float:
    """Root mean square gradient around the object in the used frames over that in the first frame; 1 is as sharp."""
    sharp_T = torch.stack([_edge_energy(*pair) for pair in zip(frames_TCHW, mask_THW, strict=True)])
    later = sharp_T[used_T & torch.isfinite(sharp_T)]
    first = float(sharp_T[0])
    return float(later.mean()) / first if len(later) and first > 0 else math.nan


def colour_shift(frames_TCHW: Tensor, mask_THW: Tensor, used_T: Tensor) -> float:
    """Mean absolute change of the object's mean colour from the first frame to the used ones, in [0, 1]."""
    weight_THW = (mask_THW >= 0.5).float()
    area_T = weight_THW.sum((1, 2))
    colour_TC = (frames_TCHW * weight_THW[:, None]).sum((2, 3)) / area_T.clamp(min=1)[:, None]
    used_T = used_T & (area_T > 0)
    if not area_T[0] or not used_T.any():
        return math.nan
    return float((colour_TC[used_T] - colour_TC[0]).abs().mean())


def _edge_energy(frame_CHW: Tensor, mask_HW: Tensor) -> Tensor:
    """Root mean square gradient on and near the object (blur would keep the mean one); NaN without an object."""
    near = F.max_pool2d((mask_HW >= 0.5).float()[None, None], 5, stride=1, padding=2)[0, 0, 1:, 1:]
    dv = (frame_CHW[:, 1:] - frame_CHW[:, :-1])[:, :, 1:]
    du = (frame_CHW[:, :, 1:] - frame_CHW[:, :, :-1])[:, 1:]
    energy_HW = (du.square() + dv.square()).sum(0)
    return torch.where(near.sum() > 0, ((energy_HW * near).sum() / near.sum().clamp(min=1)).sqrt(), torch.nan)

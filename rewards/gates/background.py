"""A guard of what is not the object: it stays as it was, smoothly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.observation import Observation


def background(
    observation: Observation, *, tolerance: float = 0.1, flicker_tolerance: float = 0.1, margin_px: int = 3,
    enough: float = 1.0,
) -> Tensor:  # fmt: skip
    """Does the background keep its first appearance, and change smoothly where it changes?

        d_t = x_t - x_0,    s_t = x_t - 2 x_{t-1} + x_{t-2}
        r = min(1, exp(-<d^2> / tolerance^2 - <s^2> / flicker_tolerance^2) / enough)

    with means over the pixels that lie farther than `margin_px` from the object, in all the frames compared. For a
    fixed camera. A true clip's moving shadow costs a little.

    Args:
        observation: needs a mask.
        tolerance: root mean square change since the first frame that leaves 0.37 of the score, > 0.
        flicker_tolerance: the same for the second difference in time, which a slow drift hardly has, > 0.
        margin_px: distance from the object from which a pixel is background, >= 0.
        enough: score from which it is 1, in (0, 1].

    Returns:
        (B,) in (0, 1]. NaN where a clip has no background.
    """
    if not (tolerance > 0 and flicker_tolerance > 0 and margin_px >= 0 and 0 < enough <= 1):
        raise ValueError(
            "background: needs tolerance > 0, flicker_tolerance > 0, margin_px >= 0 and enough in (0, 1], got "
            f"{tolerance}, {flicker_tolerance}, {margin_px}, {enough}"
        )
    frames = observation.video.frames_BTCHW
    object_BTHW = (observation.mask_BTHW.detach() >= 0.5).to(frames)
    free = 1 - F.max_pool2d(object_BTHW, 2 * margin_px + 1, stride=1, padding=margin_px)
    drift_B, known_B = _mean_square(frames[:, 1:] - frames[:, :1].detach(), free[:, 1:] * free[:, :1])
    cost_B = drift_B / tolerance**2
    if frames.shape[1] >= 3:
        second = frames[:, 2:] - 2 * frames[:, 1:-1] + frames[:, :-2]
        flicker_B, _ = _mean_square(second, free[:, 2:] * free[:, 1:-1] * free[:, :-2])
        cost_B = cost_B + flicker_B / flicker_tolerance**2
    return torch.where(known_B, ((-cost_B).exp() / enough).clamp(max=1), torch.nan)


def _mean_square(change_BTCHW: Tensor, free_BTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of squares over the free pixels, and where there are any."""
    count_B = free_BTHW.sum((1, 2, 3))
    total_B = (change_BTCHW.square().mean(2) * free_BTHW).sum((1, 2, 3))
    return total_B / count_B.clamp(min=1), count_B > 0

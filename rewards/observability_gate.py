"""A gate that a hidden, faded, swollen or doubled object does not pass."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.observation import Observation


def observability_gate(observation: Observation, *, enough: float = 0.8) -> Tensor:
    """Is the object there, once and whole, in every frame?

        a_t = A_t / A_0,    gate = min(1, mean_t min(a_t, 1 / a_t) / enough)

    with A_t the area of the whole frame's mask, also outside the window in which the object is followed, so that a
    second object counts, and A_0 that of the first frame (at least that of the known first mask). 1 for a true clip in
    which the object stays in the picture; a half-faded, half-hidden, doubled or twice as large object scores 0.5 before
    `enough`. An object that leaves the picture on its own loses too: it cannot be measured there either. Whatever moves
    towards the camera needs a smaller `enough`.

    Args:
        observation: needs a mask.
        enough: mean share from which the gate is open, in (0, 1].

    Returns:
        (B,) in [0, 1]; never NaN: a clip without an object is shut, not unknown.
    """
    if not 0 < enough <= 1:
        raise ValueError(f"observability_gate: enough must lie in (0, 1], got {enough}")
    area_BT = observation.mask_BTHW.sum((2, 3))
    usual_B = area_BT[:, 0].detach()
    known = observation.video.first_mask_BHW
    if known is not None:
        usual_B = torch.maximum(usual_B, known.to(usual_B).sum((1, 2)))
    share_BT = area_BT / usual_B.clamp(min=1)[:, None]
    small_BT = share_BT < 1
    # Inverting a safe value: an area of nothing must not put infinity into the gradient.
    once_BT = torch.where(small_BT, share_BT, 1 / torch.where(small_BT, 1.0, share_BT))
    return (once_BT.mean(1) / enough).clamp(max=1)

"""Optical flow against a reference clip's: the flow reward of PISA, and one that the background cannot drown."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.observation import Observation
from rewards.matches.reference import measured
from rewards.matches.segmentation_match import followed_mask


def flow_match(observation: Observation, *, reference_BTCHW: Tensor, published: bool = False) -> Tensor:
    """Minus the error of the flow on the object, over the reference's own flow there:

        r = -sum_{s,x} m |f - f'| / sum_{s,x} m' |f'|,    m = max(mask, mask')

    with ' for the reference: 0 for the same motion, about -1 for a frozen clip, about -2 for an object that falls as it
    should somewhere else or the wrong way, whatever the object's size.

    `published`: r = -mean |f - f'| over all pixels, pairs and both components, in px. The still background, most of a
    picture, drowns the object there, and a small object that vanishes hardly costs anything.

    Args:
        observation: needs flow, and a mask unless `published`.
        reference_BTCHW: the data's clips in [0, 1] (a column of the data).

    Returns:
        (B,), (-inf, 0]. NaN where nothing moves in the reference.

    Reference: Li et al., "PISA Experiments", 2025, section on object reward optimisation, optical flow reward.
    """
    flow = observation.flow_BSHW2
    if flow is None:
        raise ValueError("flow_match: there is no flow estimator: name one under instruments.flow")
    reference = measured(observation, reference_BTCHW, "flow", lambda seen: seen.flow_BSHW2)  # pyright: ignore[reportArgumentType]
    if published:
        return -(flow - reference).abs().mean((1, 2, 3, 4))
    pairs = flow.shape[1]
    mask_reference = measured(observation, reference_BTCHW, "mask", followed_mask)[:, :pairs]
    mask = torch.maximum(followed_mask(observation)[:, :pairs].detach(), mask_reference)
    gap = ((flow - reference).square().sum(-1) + 1e-8).sqrt()
    way_B = (reference.norm(dim=-1) * mask_reference).sum((1, 2, 3))
    moves_B = way_B > 0.05 * mask_reference.sum((1, 2, 3)).clamp(min=1)
    score_B = -(gap * mask).sum((1, 2, 3)) / way_B.clamp(min=1e-3)
    return torch.where(moves_B, score_B, torch.nan)

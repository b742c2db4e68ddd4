"""Divergence-free flow: does what flows keep its volume?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.fields import divergence_share
from reward_physics.observation import Observation


def divergence_free(observation: Observation, *, inside_mask: bool = False, least_px: float = 0.05) -> Tensor:
    """Minus the share of the image flow's gradient that is divergence,

        r = -sum (div v)^2 / sum |grad v|^2    over all pixels and pairs of frames.

    0 for a flow that keeps areas (an incompressible flow in the plane of the picture), -2 for pure expansion. It is the
    divergence of the image flow, not of the 3-D velocity: what comes nearer grows.

    Args:
        observation: needs a flow estimator.
        inside_mask: only over the object's mask.
        least_px: RMS flow below which nothing flows, px a frame.

    Returns:
        (B,), no unit, in [-2, 0]. NaN where nothing flows (a frozen clip), or where all moves as one.

    Raises:
        ValueError: no flow estimator.
    """
    flow = observation.flow_BSHW2
    if flow is None:
        raise ValueError("divergence_free needs optical flow: set instruments.flow in the recipe")
    weight = observation.mask_BTHW[:, : flow.shape[1]] if inside_mask else None
    share = divergence_share(flow, weight)
    speed = flow.detach().square().sum(-1).mean((1, 2, 3)).sqrt() / observation.instruments.flow_stride
    return observation.like_clips(torch.where(speed >= least_px, -share, torch.nan))

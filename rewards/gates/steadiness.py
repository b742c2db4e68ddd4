"""A gate for pictures that flow all over: the picture as a whole does not jerk."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.observation import Observation


def steadiness(observation: Observation, *, jerk_px: float = 0.4) -> Tensor:
    """Does the mean flow of the whole picture change smoothly?

        gate = exp(-relu(root mean square_t |m_{t+1} - m_t| / jerk_px - 1/2)^2)

    with m_t the mean over all pixels of the flow of a pair of frames, in px a frame. Half of the tolerance is free. A
    camera that shakes moves every pixel alike, another way in each frame, and such a flow keeps areas and carries its
    brightness along. Where there is a background that stands still, `registration` says more. A camera that pans
    evenly passes.

    Args:
        observation: needs a flow estimator.
        jerk_px: root mean square change of the mean flow that leaves 0.78 of the score, px a frame, > 0.

    Returns:
        (B,) in [0, 1]. NaN where a clip has fewer than two pairs of frames.

    Raises:
        ValueError: no flow estimator, or `jerk_px` out of range.
    """
    if not jerk_px > 0:
        raise ValueError(f"steadiness: jerk_px must be > 0, got {jerk_px}")
    observation.video.refuse_uneven_times("steadiness")
    flow = observation.flow_BSHW2
    if flow is None:
        raise ValueError("steadiness needs optical flow: set instruments.flow in the recipe")
    mean_BS2 = flow.mean((2, 3)) / observation.instruments.flow_stride
    if mean_BS2.shape[1] < 2:
        return torch.full_like(mean_BS2[:, 0, 0], torch.nan)
    jerk_B = (mean_BS2.diff(dim=1).square().sum(-1).mean(1) + 1e-12).sqrt()
    return observation.like_clips((-(jerk_B / jerk_px - 0.5).clamp(min=0).square()).exp())

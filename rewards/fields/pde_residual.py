"""A conservation law on the picture's flow: is what is seen carried, kept, or driven by nothing?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reward_physics.laws.fields import advection_residual, continuity_residual, inertia_residual
from reward_physics.observation import Observation


def pde_residual(
    observation: Observation,
    *,
    equation: Literal["advection", "continuity", "inertia"] = "continuity",
    least_px: float = 0.05,
) -> Tensor:
    """Minus the share of change that the equation leaves unexplained, in [-2, 0]:

        advection     dq/dt + v . grad q = 0       brightness is carried along
        continuity    dq/dt + div(q v) = 0         brightness, as the density of smoke or dye, is neither made nor lost
        inertia       dv/dt + (v . grad) v = 0     every parcel keeps its velocity

    r = -sum r^2 / sum of its two parts' squares, with v the image flow in px a frame and q the mean colour, at the
    middle of each pair of frames. For motion from frame to frame that is smaller than the things that move.

    Args:
        observation: needs a flow estimator with flow_stride 1.
        equation: one of the three.
        least_px: RMS flow below which nothing flows, px a frame.

    Returns:
        (B,), no unit. NaN where nothing flows: a frozen clip.

    Raises:
        ValueError: no flow, another stride, fewer than three frames, uneven times, or an unknown equation.
    """
    flow, laws = observation.flow_BSHW2, ("advection", "continuity", "inertia")
    if equation not in laws:
        raise ValueError(f"pde_residual: equation must be one of {', '.join(laws)}, got {equation!r}")
    if flow is None or observation.instruments.flow_stride != 1:
        raise ValueError("pde_residual needs optical flow with flow_stride 1: set instruments.flow in the recipe")
    observation.video.refuse_uneven_times("pde_residual")
    if flow.shape[1] < 2:
        raise ValueError(f"pde_residual needs at least 3 frames, got {flow.shape[1] + 1}")
    # Frames and flow meet at the frames between two pairs.
    velocity = 0.5 * (flow[:, 1:] + flow[:, :-1])
    quantity = observation.video.frames_BTCHW.mean(2)
    if equation == "inertia":
        residual = inertia_residual(flow)
    elif velocity.shape[1] < 2:
        raise ValueError(f"pde_residual needs at least 4 frames for {equation}, got {flow.shape[1] + 1}")
    else:
        law = advection_residual if equation == "advection" else continuity_residual
        residual = law(quantity[:, 1:-1], velocity)
    speed = flow.detach().square().sum(-1).mean((1, 2, 3)).sqrt()
    return observation.like_clips(torch.where(speed >= least_px, -residual, torch.nan))

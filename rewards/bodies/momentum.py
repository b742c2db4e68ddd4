"""Momentum: do two bodies that collide change each other's velocities in opposite ways?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reward_physics.laws.collisions import contact_jump, coulomb_excess, direction_error, is_visible, momentum_error
from reward_physics.observation import Observation
from reward_physics.observation.trajectories import pair_in_pixels


def momentum(observation: Observation, *, mass_ratio: float | None = None, friction: float = 1.0) -> Tensor:
    """Minus the error of momentum in a collision of two bodies, unit-free:

        r = -error - relu(|dv_t| - mu |dv_n| - u) / |dv|
        error = relu((1 + cos(dv1, dv2)) / 2 - sin(s / 2)^2)     masses unknown
              = relu(|dv1 + q dv2| - s) / (|dv1| + q |dv2|)      mass_ratio q = m2 / m1 known

    with dv each body's change of velocity at the contact, in the picture: for bodies at one distance from the camera.
    s is the standard error of the angle between the two, or of a component of their sum, u that of the first: of a
    change no larger than its own noise nobody can say which way it points.

    Args:
        observation: clips with `Video.object_masks_BNHW`.
        mass_ratio: m2 / m1 > 0, or None.
        friction: mu of the two bodies' surfaces, >= 0.

    Returns:
        (B,), no unit, in [-2, 0]. NaN where there are not two objects, or no contact that changes a velocity by more
        than the noise (without `mass_ratio`, both velocities): a frozen clip.
    """
    if (mass_ratio is not None and not 0 < mass_ratio < float("inf")) or not friction >= 0:
        raise ValueError(f"momentum: needs mass_ratio > 0 or null and friction >= 0, got {mass_ratio}, {friction}")
    pair, exists_B = pair_in_pixels(observation)
    if pair is None:
        return observation.like_clips(torch.full((observation.batch_size,), torch.nan))
    jump = contact_jump(pair)
    error, known = momentum_error(jump, mass_ratio), exists_B & is_visible(jump, pair)
    if mass_ratio is None:
        error = (error - (direction_error(jump).clamp(max=math.pi) / 2).sin().square()).clamp(min=0)
        known = known & (jump.dv_B2D.detach().norm(dim=-1) > jump.dv_sd_B2).all(1)
    size_B2 = jump.dv_B2D.detach().norm(dim=-1).clamp(min=1e-9)
    slip = (coulomb_excess(jump, friction) - (jump.dv_sd_B2 / size_B2)[:, 0]).clamp(min=0)
    score = -error - slip
    return observation.like_clips(torch.where(known, score, torch.nan))

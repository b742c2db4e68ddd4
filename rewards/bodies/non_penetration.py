"""Non-penetration: do two bodies stay out of each other?"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.collisions import contact_jump, is_visible, penetration
from reward_physics.observation import Observation
from reward_physics.observation.trajectories import pair_in_pixels


def non_penetration(observation: Observation, *, tolerance: float = 0.15) -> Tensor:
    """Minus how deep two bodies go into each other at worst, unit-free:

        r = -relu(max_t relu(r1 + r2 - d_t) / (r1 + r2) - tolerance)

    with r half of each body's extent in the first frame, along the line between them, and d the distance of their
    centres, in the picture: for bodies at one distance from the camera.

    Args:
        observation: clips with `Video.object_masks_BNHW`.
        tolerance: depth that is allowed: extents are known within some 8 %, and bodies turn.

    Returns:
        (B,), no unit, in [tolerance - 1, 0]. NaN where there are not two objects, and where they never meet: a frozen
        clip keeps its bodies apart for nothing.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"non_penetration: tolerance must lie in [0, 1), got {tolerance}")
    pair, exists_B = pair_in_pixels(observation)
    if pair is None:
        return observation.like_clips(torch.full((observation.batch_size,), torch.nan))
    depth = penetration(pair).amax(1)
    jump = contact_jump(pair)
    met = (depth.detach() > tolerance) | (jump.measured_B & is_visible(jump, pair))
    moves = pair.travels_B
    return observation.like_clips(torch.where(exists_B & met & moves, -(depth - tolerance).clamp(min=0), torch.nan))

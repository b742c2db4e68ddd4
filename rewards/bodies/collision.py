"""Collision consistency: no jump without contact, no contact without one, and no energy from nowhere."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.laws.collisions import change_error, contact_jump, is_visible, jump_without_contact, restitution
from reward_physics.observation import Observation
from reward_physics.observation.trajectories import pair_in_pixels


def collision(observation: Observation, *, reach: float = 0.25) -> Tensor:
    """Minus the causal errors of two bodies' motion, unit-free:

        r = -(relu(-e - s)^2 + relu(e - 1 - s)^2 + (relu(jump - u) / speed)^2)

    e is the coefficient of restitution of their relative velocity at the contact, negative where they pass through each
    other, and s its standard error, that of the change of relative velocity over the speed of approach; jump is the
    largest sideways change of relative velocity away from any contact, u its standard error, and speed the relative
    speed before and after it. An approach no faster than its own error gives no e.

    Args:
        observation: clips with `Video.object_masks_BNHW`; in the picture: for bodies at one distance from the camera.
        reach: distance, in shares of r1 + r2 beyond touching, at which bodies count as near, > 0; r is half of a body's
            largest extent.

    Returns:
        (B,), no unit, in (-inf, 0]. NaN where there are not two objects, or neither a contact with approach nor a jump:
        a frozen clip.
    """
    if not 0 < reach < float("inf"):
        raise ValueError(f"collision: reach must be > 0, got {reach}")
    pair, exists_B = pair_in_pixels(observation)
    if pair is None:
        return observation.like_clips(torch.full((observation.batch_size,), torch.nan))
    contact, apart = contact_jump(pair, reach=reach), jump_without_contact(pair, reach=reach)
    e, known = restitution(contact)
    unsure = change_error(contact) / contact.closing_B.detach().clamp(min=1e-6)
    known = known & (unsure < 1)
    change = ((apart.after_BD - apart.before_BD)[:, 0].abs() - change_error(apart)).clamp(min=0).square()
    jumps = is_visible(apart, pair) & (change.detach() > 0)
    speed = apart.after_BD.square().sum(-1) + apart.before_BD.square().sum(-1)
    strange = torch.where(jumps, change, torch.zeros_like(change)) / torch.where(jumps, speed, torch.ones_like(speed))
    wrong = (-e - unsure).clamp(min=0).square() + (e - 1 - unsure).clamp(min=0).square()
    score = -torch.where(known, wrong, torch.zeros_like(wrong)) - strange
    return observation.like_clips(torch.where(exists_B & (known | jumps), score, torch.nan))

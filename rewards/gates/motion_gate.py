"""A gate that a frozen clip does not pass."""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.observation import Observation
from reward_physics.tracks.in_image import ImageTrack
from rewards.bodies.each import of_bodies


def motion_gate(observation: Observation, *, least_diameters: float = 0.5, closed: float = 0.1) -> Tensor:
    """Does the object move at all? Constancy alone rewards freezing.

        range = sqrt(12 Var_t(c)),    gate = closed + (1 - closed) min(1, range / (least_diameters * diameter))

    with c the centroid in the frames where the object is seen whole: for steady motion `range` is the length of the
    way, and for trembling it stays as small as the trembling. Of two bodies the faster counts.
    Unit-free: neither frame rate nor camera is asked for. Differentiable, but a clip without any motion knows no
    direction: `closed` lets the other rewards' gradient through.

    Args:
        observation: needs a mask.
        least_diameters: motion from which the gate is open, in diameters of the object, > 0.
        closed: worth of a frozen clip, in [0, 1).

    Returns:
        (B,) in [closed, 1]. NaN where the object is seen in fewer than two frames.
    """
    if not least_diameters > 0 or not 0 <= closed < 1:
        raise ValueError(f"motion_gate: needs least_diameters > 0 and 0 <= closed < 1, got {least_diameters}, {closed}")
    return of_bodies(observation, lambda track: _of_one(track, least_diameters, closed), worst=False)


def _of_one(track: ImageTrack, least_diameters: float, closed: float) -> Tensor:
    weight_BT = track.weight_BT
    total_B = weight_BT.sum(1).clamp(min=1e-6)
    mean_B2 = (track.centroid_BT2 * weight_BT[..., None]).sum(1) / total_B[:, None]
    away_BT = (track.centroid_BT2 - mean_B2[:, None]).square().sum(-1)
    range_B = (12 * (away_BT * weight_BT).sum(1) / total_B + 1e-6).sqrt()
    diameter_B = 2 * (track.radius_px_BT * weight_BT).sum(1) / total_B
    open_B = (range_B / (least_diameters * diameter_B).clamp(min=1e-3)).clamp(max=1)
    seen_B = (weight_BT > 0.1).sum(1) >= 2
    return torch.where(seen_B, closed + (1 - closed) * open_B, torch.nan)

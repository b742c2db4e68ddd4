"""The continuity gate: does the object go on from where it was?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.observation import Observation
from reward_physics.tracks.in_image import ImageTrack
from rewards.bodies.each import of_bodies


def continuity(observation: Observation, *, allowed: float = 0.5, tolerance: float = 0.3) -> Tensor:
    """Is no step of the object unlike both the step before it and the one after it?

        j_t = min(|d_t - d_{t-1}|, |d_t - d_{t+1}|) / (max_before |d| + max_after |d| + r)
        gate = exp(-(relu(max_t j_t - allowed) / tolerance)^2)

    with d_t the centroid's step from frame t to the next, r the object's radius, and the largest step of the three
    frames before and of the three after it. In flight neighbouring steps are alike; at an impact the one step that
    holds it lies between its neighbours, and an autoencoder spreads it over a few frames, as fast as the object came;
    j stays below 1/2 there. A jump to another place is like neither neighbour and longer than all of them. Of two
    bodies the worse counts. Unit-free.

    Args:
        observation: needs a mask.
        allowed: j up to which the gate is open, >= 0.
        tolerance: excess of j that leaves 0.37, > 0.

    Returns:
        (B,) in [0, 1]. NaN where the object is seen in fewer than four frames in a row.
    """
    if not (allowed >= 0 and tolerance > 0):
        raise ValueError(f"continuity: needs allowed >= 0 and tolerance > 0, got {allowed}, {tolerance}")
    observation.video.refuse_uneven_times("continuity")
    return of_bodies(observation, lambda track: _of_one(track, allowed, tolerance), worst=True)


def _of_one(track: ImageTrack, allowed: float, tolerance: float) -> Tensor:
    step_BS2 = track.centroid_BT2.diff(dim=1)
    seen_BT = track.weight_BT.detach() > 0.1
    if step_BS2.shape[1] < 3:
        return torch.full_like(step_BS2[:, 0, 0], torch.nan)
    before, here, after = step_BS2[:, :-2], step_BS2[:, 1:-1], step_BS2[:, 2:]
    change = torch.minimum(_length(here - before), _length(here - after))
    radius = (track.radius_px_BT.detach() * seen_BT).sum(1) / seen_BT.sum(1).clamp(min=1)
    size_BS = _length(step_BS2.detach())
    # The largest of three neighbours: beyond the ends of the clip there is none.
    before_BS = F.max_pool1d(F.pad(size_BS[:, :-2], (2, 0)), 3, stride=1)
    after_BS = F.max_pool1d(F.pad(size_BS[:, 2:], (0, 2)), 3, stride=1)
    usual = before_BS + after_BS + radius[:, None].clamp(min=1)
    known = seen_BT[:, :-3] & seen_BT[:, 1:-2] & seen_BT[:, 2:-1] & seen_BT[:, 3:]
    worst = torch.where(known, change / usual, 0.0).amax(1)
    score = (-((worst - allowed).clamp(min=0) / tolerance).square()).exp()
    return torch.where(known.any(1), score, torch.nan)


def _length(step: Tensor) -> Tensor:
    return (step.square().sum(-1) + 1e-6).sqrt()

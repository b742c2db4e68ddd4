"""Detached windows that follow one object through the soft masks of a clip.

Axes: B clips, T frames, S pairs of frames (S = T - stride), H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reward_physics.grid import blob, disc, heaviest, mean_place, pixel_centres


@torch.no_grad()
def follow(mask_BTHW: Tensor, first_mask_BHW: Tensor | None, flow_BSHW2: Tensor | None, stride: int) -> Tensor:
    """Detached windows (B, T, H, W) around the object: flat over it, then falling to zero.

    Each frame starts where flow (or the last step) carries the object and settles by mean shift, first in a wide
    window, then in one of the object's size. Where the window holds almost nothing, the heaviest blob of the frame
    is taken.
    """
    batch, frames, height, width = mask_BTHW.shape
    uv = pixel_centres(mask_BTHW)
    start_mask = mask_BTHW[:, 0] if first_mask_BHW is None else first_mask_BHW.to(mask_BTHW)
    if first_mask_BHW is None:
        start_mask = start_mask * disc(heaviest(start_mask), uv, torch.full_like(start_mask[:, 0, 0], 0.2 * height))
    centre, radius, usual = blob(start_mask)
    windows = [disc(centre, uv, radius)]
    speed = torch.zeros_like(centre)
    for t in range(1, frames):
        if flow_BSHW2 is not None:
            pair = min(max(t - 1, 0), flow_BSHW2.shape[1] - 1)
            grip = mask_BTHW[:, t - 1] * windows[-1]
            held = grip.sum((1, 2))
            moved = (flow_BSHW2[:, pair] * grip[..., None]).sum((1, 2)) / held.clamp(min=1e-6)[:, None] / stride
            speed = torch.where((held > 0.1 * usual)[:, None], moved, speed)
        guess = centre + speed
        reach = radius + 3 + 0.5 * speed.norm(dim=-1)
        for spread in (reach, radius + 1, radius):
            guess, mass = _shift(mask_BTHW[:, t], guess, uv, spread)
        lost = mass < 0.25 * usual
        if lost.any():
            restart, restart_mass = _shift(mask_BTHW[:, t], heaviest(mask_BTHW[:, t]), uv, radius)
            better = lost & (restart_mass > 0.5 * usual)
            guess = torch.where(better[:, None], restart, guess)
        if flow_BSHW2 is None:
            speed = guess - centre
        centre = guess
        windows.append(disc(centre, uv, radius))
    return torch.stack(windows, dim=1)


def _shift(mask_BHW: Tensor, centre_B2: Tensor, uv_HW2: Tensor, radius_B: Tensor) -> tuple[Tensor, Tensor]:
    """One mean shift: the centroid of what a disc shows of the mask, (B, 2) px, and its area (B,), px^2."""
    return mean_place(mask_BHW * disc(centre_B2, uv_HW2, radius_B), centre_B2)

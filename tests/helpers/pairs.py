"""Two drawn discs that collide, and one that changes its size, seen by their colours."""

from __future__ import annotations

import torch

from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video

COLOURS = torch.tensor([[0.9, 0.15, 0.1], [0.1, 0.2, 0.9]])
RADIUS_PX = (6.0, 5.0)


def two_discs(centres_TN2: torch.Tensor, *, size=(32, 72), objects: bool = True) -> Video:
    """A clip of a red and a blue disc with soft edges before grey."""
    v, u = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    frames = torch.full((len(centres_TN2), 3, *size), 0.5)
    first = []
    for n, radius in enumerate(RADIUS_PX):
        at = centres_TN2[:, n, :, None, None].float()
        mask = (radius + 0.5 - ((u - at[:, 0]) ** 2 + (v - at[:, 1]) ** 2).sqrt()).clamp(0, 1)[:, None]
        frames = frames * (1 - mask) + mask * COLOURS[n].view(3, 1, 1)
        first.append((mask[0, 0] > 0.5).float())
    return Video(
        frames_BTCHW=frames[None],
        fps_B=torch.tensor([24.0]),
        first_mask_BHW=first[0][None],
        object_masks_BNHW=torch.stack(first)[None] if objects else None,
    )


def collide(*, e=0.6, gain=0.0, deeper_px=0.0, apart_px=0.0, frames=18) -> Video:
    """The red disc runs into the blue one; `gain` is added to blue's speed after, px a frame; they part when they are
    deeper_px inside each other, or apart_px away."""
    t = torch.arange(frames) - 8.4
    reach = sum(RADIUS_PX) - deeper_px + apart_px
    m1, m2 = (r**3 for r in RADIUS_PX)
    speed = 2.0
    impulse = (1 + e) * speed / (1 / m1 + 1 / m2)
    x1 = 30 + torch.where(t < 0, speed * t, (speed - impulse / m1) * t)
    x2 = 30 + reach + torch.where(t < 0, 0 * t, (impulse / m2 + gain) * t)
    y = torch.full_like(x1, 16.0)
    return two_discs(torch.stack((torch.stack((x1, y), -1), torch.stack((x2, y), -1)), dim=1))


def look(video: Video, noise_px: float = 0.1) -> Observation:
    return Observation(video, Instruments(mask="appearance", centroid_noise_px=noise_px), grad=False)


def disc(scale_T: torch.Tensor, *, moves: bool = True, stretch_T: torch.Tensor | None = None) -> Observation:
    """A disc that crosses the picture while its area grows by scale^2, or while it stretches at its area."""
    v, u = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    t = torch.arange(len(scale_T))
    at = 20 + (2.5 * t if moves else 0 * t)
    stretch = torch.ones_like(scale_T) if stretch_T is None else stretch_T
    x, y = (u - at[:, None, None]) * stretch[:, None, None], (v - 20) / stretch[:, None, None]
    mask = (7 * scale_T[:, None, None] + 0.5 - (x**2 + y**2).sqrt()).clamp(0, 1)
    frames = 0.5 * (1 - mask[:, None]) + mask[:, None] * COLOURS[0].view(3, 1, 1)
    return look(Video.make(frames[None], 24, first_mask_BHW=(mask[:1] > 0.5).float()))

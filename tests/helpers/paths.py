"""Analytic paths for the laws of measuring, and observations that hold one instead of pixels."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from reward_physics.laws.flights import Trajectory, find_flights

FPS = 24.0


def times(frames: int, batch: int = 1, fps: float = FPS) -> Tensor:
    return (torch.arange(frames, dtype=torch.float64) / fps).expand(batch, frames)


def bounce(
    *,
    restitution: float = 0.7,
    g: float = 9.81,
    g_after: float | None = None,
    height: float = 1.2,
    sideways: float = 0.3,
    frames: int = 24,
    kick_s: float | None = None,
    kick: float = 0.0,
) -> Tensor:
    """(1, T, 2): a drop from `height` that bounces at zero; a kick adds upward speed in the air at `kick_s`."""
    z, v, t, out = height, 0.0, 0.0, []
    gravity, steps = g, 400
    for frame in range(frames):
        out.append((sideways * frame / FPS, z))
        for n in range(steps):
            dt = 1 / FPS / steps
            now = t + n * dt
            if kick_s is not None and now <= kick_s < now + dt:
                v += kick
            z, v = z + v * dt - 0.5 * gravity * dt * dt, v - gravity * dt
            if z < 0 and v < 0:
                # Back to the moment of the impact.
                late = 2 * z / (v - (v * v + 2 * gravity * -z) ** 0.5) if v else 0.0
                v = -restitution * (v + gravity * late)
                z, gravity = v * late, g if g_after is None else g_after
        t += 1 / FPS
    return torch.tensor(out, dtype=torch.float64)[None]


def path(position: Tensor, *, noise: float = 0.0, unit="m", at_rest: bool | None = None, seed: int = 0) -> Trajectory:
    """A trajectory with white noise; wholly trusted."""
    batch, frames, _ = position.shape
    draw = torch.Generator().manual_seed(seed)
    noisy = position + noise * torch.randn(position.shape, generator=draw, dtype=torch.float64) if noise else position
    return Trajectory(
        time_BT=times(frames, batch),
        position_BTD=noisy,
        weight_BT=torch.ones(batch, frames, dtype=torch.float64),
        sigma_B=torch.full((batch,), max(noise, 0.002), dtype=torch.float64),
        radius_B=torch.full((batch,), 0.15, dtype=torch.float64),
        unit=unit,
        at_rest_B=None if at_rest is None else torch.full((batch,), at_rest),
    )


def seen(trajectory: Trajectory, *, refuses: str | None = None) -> SimpleNamespace:
    """What a reward asks of an observation, for a known path. `refuses`: why there are no metres."""

    def camera_for_metres() -> None:
        if refuses is not None:
            raise ValueError(f"metres per second squared are refused: {refuses}")

    batch, frames = trajectory.time_BT.shape
    return SimpleNamespace(
        trajectory=trajectory,
        flights=find_flights(trajectory),
        camera_for_metres=camera_for_metres,
        video=SimpleNamespace(frames_BTCHW=torch.zeros(batch, frames, 3, 1, 1)),
        batch_size=batch,
        like_clips=lambda values_B: values_B.float(),
    )


def spearman(a: list[float] | Tensor, b: list[float] | Tensor) -> float:
    """Rank correlation of two lists without ties."""
    ranks = [torch.as_tensor(x, dtype=torch.float64).argsort().argsort().double() for x in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])

"""A tiny world for the tests of measuring: one disc, drawn by a pinhole camera, and instruments that know the truth."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from reward_physics.camera import Camera
from reward_physics.estimators.depth import Depth
from reward_physics.observation import Instruments
from reward_physics.video import Video

OBJECT = torch.tensor([0.9, 0.15, 0.1])


def free_fall(
    *,
    batch: int = 1,
    frames: int = 12,
    fps: float = 16.0,
    g_m_s2: float | Tensor = 9.81,
    start_m: tuple[float, float, float] = (0.0, 4.0, 1.7),
    velocity_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0),
    floor_m: float = -math.inf,
    restitution: float = 0.6,
) -> Tensor:
    """Centres (B, T, 3) in metres of a ball in free flight that bounces where its centre reaches `floor_m`."""
    g = torch.as_tensor(g_m_s2, dtype=torch.float64).expand(batch)
    centres = torch.empty(batch, frames, 3, dtype=torch.float64)
    for b in range(batch):
        for t in range(frames):
            time = t / fps
            z = _bounced(start_m[2], velocity_m_s[2], float(g[b]), time, floor_m, restitution)
            centres[b, t] = torch.tensor(
                [start_m[0] + velocity_m_s[0] * time, start_m[1] + velocity_m_s[1] * time, z], dtype=torch.float64
            )
    return centres


def _bounced(z: float, v: float, g: float, time: float, floor: float, restitution: float) -> float:
    while True:
        end = z + v * time - 0.5 * g * time**2
        if end >= floor or not math.isfinite(floor):
            return end
        impact = (v + math.sqrt(v * v + 2 * g * (z - floor))) / g
        z, v, time = floor + 1e-9, restitution * (g * impact - v), time - impact


def draw(camera: Camera, centres_BT3: Tensor, *, radius_m: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Frames (B, T, 3, H, W) and soft masks of a disc before a textured wall; differentiable in its centres."""
    uv, depth = camera.project(centres_BT3)
    radius_px = radius_m * camera.focal_px_B[:, None].to(depth) / depth
    pixels = camera.rays_uv().to(uv)
    away = (pixels - uv[:, :, None, None]).square().sum(-1).add(1e-12).sqrt()
    mask = (radius_px[..., None, None] - away + 0.5).clamp(0, 1)
    generator = torch.Generator().manual_seed(seed)
    wall = 0.35 + 0.3 * torch.rand(3, 1, camera.width_px, generator=generator).double() * torch.ones(
        3, camera.height_px, 1
    )
    wall[0] = 0.2
    colour = OBJECT.to(uv).view(3, 1, 1)
    frames = mask[:, :, None] * colour + (1 - mask[:, :, None]) * wall.to(uv)
    return frames, mask


class TruthDepth(nn.Module):
    """Metric depth of the disc as a ball's visible surface, and a mask read from the frames' red."""

    metric = True

    def __init__(self, camera: Camera, centres_BT3: Tensor, radius_m: float = 0.2, noise: float = 0.0) -> None:
        super().__init__()
        _, depth = camera.project(centres_BT3)
        generator = torch.Generator().manual_seed(1)
        factor = 1 + noise * torch.randn(depth.shape, generator=generator, dtype=depth.dtype)
        self.depth_BT, self.radius_m, self.camera, self.centres = depth * factor, radius_m, camera, centres_BT3

    def forward(self, frames_BTCHW: Tensor, camera: Camera | None = None) -> Depth:
        frames = frames_BTCHW.shape[1]
        uv, depth = self.camera.project(self.centres[:, :frames])
        radius_px = self.radius_m * self.camera.focal_px_B[:, None].to(depth) / depth
        away = (self.camera.rays_uv().to(uv) - uv[:, :, None, None]).norm(dim=-1)
        bulge = (1 - (away / radius_px[..., None, None]).square()).clamp(min=0).sqrt() * self.radius_m
        surface = (self.depth_BT[:, :frames, None, None] - bulge).to(frames_BTCHW)
        red = ((frames_BTCHW[:, :, 0] - 0.2) / (OBJECT[0] - 0.2)).clamp(1e-4, 1 - 1e-4)
        return Depth(depth_BTHW=surface, metric=True, mask_logits_BTHW=torch.log(red) - torch.log1p(-red))


class TruthFlow(nn.Module):
    """The disc's own displacement as a flow everywhere, plus white noise per frame."""

    def __init__(self, camera: Camera, centres_BT3: Tensor, noise_px: float = 0.0) -> None:
        super().__init__()
        self.uv_BT2, _ = camera.project(centres_BT3)
        self.noise_px = noise_px

    def forward(self, frames_BTCHW: Tensor, *, stride: int = 1) -> Tensor:
        moved = self.uv_BT2[:, stride:] - self.uv_BT2[:, :-stride]
        moved = moved + self.noise_px * torch.randn(
            moved.shape, generator=torch.Generator().manual_seed(2), dtype=moved.dtype
        )
        height, width = frames_BTCHW.shape[-2:]
        return moved[:, :, None, None].expand(-1, -1, height, width, 2).to(frames_BTCHW)


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A drawn scene: its clip, the truth, and exact instruments without flow."""

    video: Video
    centres_BT3: Tensor
    camera: Camera
    masks_BTHW: Tensor

    def instruments(self, *, flow: bool = False, flow_noise_px: float = 0.0, depth_noise: float = 0.0, **settings):
        return Instruments(
            depth=TruthDepth(self.camera, self.centres_BT3, noise=depth_noise),
            flow=TruthFlow(self.camera, self.centres_BT3, flow_noise_px) if flow else None,
            **{"depth_bias": 0.0, **settings},
        )


def make_world(
    centres_BT3: Tensor,
    *,
    fps: float = 16.0,
    pitch_deg: float = 0.0,
    size_px: int = 64,
    dtype: torch.dtype = torch.float32,
    camera_height_m: float = 1.0,
) -> World:
    """Draw centres by a camera at the origin, `camera_height_m` above the ground, looking along +y."""
    camera = Camera.looking(
        height_px=size_px,
        width_px=size_px,
        fov_y_deg=45.0,
        pitch_down_deg=pitch_deg,
        position_m=(0.0, 0.0, camera_height_m),
        batch_size=centres_BT3.shape[0],
    )
    frames, masks = draw(camera, centres_BT3)
    video = Video.make(frames.to(dtype), fps, camera=camera, first_mask_BHW=(masks[:, 0] > 0.5).to(dtype))
    return World(video=video, centres_BT3=centres_BT3, camera=camera, masks_BTHW=masks)

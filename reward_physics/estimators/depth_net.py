"""The embedded depth network: a timm backbone, attention over a clip's frames, and a dense head for depth and masks.

One frame of an object in the air says little of its distance; its shadow, or its landing in a later frame, says more.
So the coarsest features of all frames attend to each other before they are decoded.

The camera enters as geometry, so that its field of view, pitch and height need not be guessed: per pixel the viewing
ray and the inverse depth p at which that ray would meet the floor (z = 0). Depths are predicted relative to the
camera's height h: a world and a camera height twice as large give the same features and twice the depth.

    z_object = h / q_object,   z_background = h / max(p, q_wall),   p = h / (depth of the floor along this ray)

An object's q is the p of the floor beneath it, which is linear in the row of its shadow. Object and background have a
depth of their own, joined by the mask; otherwise an object a few pixels wide would take some of the depth behind its
edge.

Axes: B clips, T frames, N = B T frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reward_physics.camera import Camera
from reward_physics.estimators.weights import at_least_float
from reward_physics.grid import pixel_axes

Q0 = 0.02
"""Smallest q: nothing is farther than 50 camera heights."""

GEOMETRY_CHANNELS = 4

EDGE = 4.0
"""The mask's logits are multiplied by this where object and background depth are joined: a steeper edge."""


@dataclass(frozen=True, kw_only=True)
class DepthShape:
    """Size of a `DepthNet`."""

    backbone: str = "resnet10t"
    """A timm model with `features_only`; its stages of stride 2, 4, 8 and 16 are used."""
    width: int = 128
    """Channels of the attention over frames."""
    layers: int = 2
    """Attention layers."""
    heads: int = 4
    decoder: tuple[int, int, int] = (96, 64, 32)
    """Channels of the decoder at stride 8, 4 and 2."""

    def to_config(self) -> dict[str, Any]:
        return {"architecture": "depth_net", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What the network sees, with each layer's depth apart."""

    object_log_depth_BTHW: Tensor
    """log m: of the object, meaningful on its pixels."""
    background_log_depth_BTHW: Tensor
    """log m: of what is behind, meaningful beside the object."""
    mask_logits_BTHW: Tensor
    """Positive on objects."""

    @property
    def log_depth_BTHW(self) -> Tensor:
        """log m of the visible surface."""
        front = torch.sigmoid(EDGE * self.mask_logits_BTHW)
        return torch.lerp(self.background_log_depth_BTHW, self.object_log_depth_BTHW, front)


def geometry_channels(camera: Camera | None, like_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
    """What the camera says of every pixel, the same for all frames.

    Per metre of depth a ray falls by `fall` metres, so it meets the floor at depth h / fall: p equals `fall`.

    Args:
        camera: of B clips, or None: then all is zero, and the network must guess.
        like_BTCHW: the frames, for size and device.

    Returns: channels (B, 4, H, W): p, the ray's x and y, and 1 where the camera is known; and log h (B,), h in metres,
        zero where it is not.
    """
    batch, _, _, height, width = like_BTCHW.shape
    if camera is None:
        return like_BTCHW.new_zeros(batch, GEOMETRY_CHANNELS, height, width), like_BTCHW.new_zeros(batch)
    camera = camera.expanded(batch).to(like_BTCHW.device)
    if (camera.height_px, camera.width_px) != (height, width):
        camera = camera.resized(height, width)
    uv = camera.rays_uv().expand(batch, -1, -1, -1)
    ends = camera.unproject(uv, torch.ones_like(uv[..., 0]))
    pose = camera.world_from_camera_B44
    rays_world = ends - pose[:, None, None, :3, 3]
    rays = torch.einsum("bji,bhwj->bhwi", pose[:, :3, :3], rays_world)
    fall = -rays_world[..., 2]
    channels = torch.stack((fall, rays[..., 0], rays[..., 1], torch.ones_like(fall)), dim=1)
    return channels.to(like_BTCHW), pose[:, 2, 3].clamp(min=0.05).log().to(like_BTCHW)


class DepthNet(nn.Module):
    """Depth and object mask of every frame of a clip."""

    def __init__(self, shape: DepthShape) -> None:
        super().__init__()
        self.backbone: Any = timm.create_model(
            shape.backbone,
            features_only=True,
            pretrained=False,
            in_chans=3 + GEOMETRY_CHANNELS,
            out_indices=(0, 1, 2, 3),
        )
        half, quarter, eighth, sixteenth = self.backbone.feature_info.channels()
        strides = self.backbone.feature_info.reduction()
        if strides != [2, 4, 8, 16]:
            raise ValueError(
                f"depth backbone {shape.backbone} must have strides 2, 4, 8, 16, got {strides}: name another"
            )
        self.reduce = nn.Conv2d(sixteenth, shape.width, 1)
        self.place = nn.Linear(24, shape.width)
        self.attention = nn.ModuleList(_Block(shape.width, shape.heads) for _ in range(shape.layers))
        c8, c4, c2 = shape.decoder
        self.up8 = _Up(shape.width, eighth, c8)
        self.up4 = _Up(c8, quarter, c4)
        self.up2 = _Up(c4, half, c2)
        self.up1 = _Up(c2, 3 + GEOMETRY_CHANNELS, 16)
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, frames_BTCHW: Tensor, camera: Camera | None = None) -> Layers:
        """Depth of object and background and the mask, at the size of the frames.

        Args:
            frames_BTCHW: colours in [0, 1]; any number of frames of one clip.
            camera: of each clip, or None.
        """
        geometry, log_height_B = geometry_channels(camera, frames_BTCHW)
        return self.from_geometry(frames_BTCHW, geometry, log_height_B)

    def from_geometry(
        self,
        frames_BTCHW: Tensor,
        geometry_BCHW: Tensor,
        log_height_B: Tensor,
        numbers_T: Tensor | None = None,
    ) -> Layers:
        """As `forward`, given the output of `geometry_channels`, and the frames' numbers where some are left out."""
        batch, frames = frames_BTCHW.shape[:2]
        numbers_T = torch.arange(frames, device=frames_BTCHW.device) if numbers_T is None else numbers_T
        spread = geometry_BCHW[:, None].expand(-1, frames, -1, -1, -1)
        x = torch.cat((frames_BTCHW * 4 - 2, spread), dim=2).flatten(0, 1)
        half, quarter, eighth, sixteenth = self.backbone(x)
        coarse = self._attend(self.reduce(sixteenth), batch, numbers_T)
        fine = self.up1(self.up2(self.up4(self.up8(coarse, eighth), quarter), half), x)
        out = at_least_float(self.head(fine)).unflatten(0, (batch, frames))
        inverse = F.softplus(out[:, :, :2]) + Q0
        log_height = log_height_B.view(-1, 1, 1, 1)
        return Layers(
            object_log_depth_BTHW=log_height - inverse[:, :, 0].log(),
            background_log_depth_BTHW=log_height - torch.maximum(inverse[:, :, 1], geometry_BCHW[:, :1]).log(),
            mask_logits_BTHW=4 * out[:, :, 2] - 3,
        )

    def _attend(self, coarse_NCHW: Tensor, batch: int, numbers_T: Tensor) -> Tensor:
        frames = len(numbers_T)
        rows, columns = coarse_NCHW.shape[-2:]
        tokens = coarse_NCHW.unflatten(0, (batch, frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        tokens = tokens + self.place(_places(numbers_T, rows, columns).to(tokens))
        for block in self.attention:
            tokens = block(tokens)
        mixed = tokens.unflatten(1, (frames, rows, columns)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        return coarse_NCHW + mixed


def _places(numbers_T: Tensor, rows: int, columns: int) -> Tensor:
    """Sines and cosines of four octaves of frame number / 16, row and column (as parts of the image): (T h w, 24)."""
    t = numbers_T / 16
    u, v = pixel_axes(rows, columns, like=t)
    where = torch.stack(torch.meshgrid(t, v / rows, u / columns, indexing="ij"), dim=-1).view(-1, 3, 1)
    angles = (torch.pi * 2.0 ** torch.arange(4, device=t.device) * where).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class _Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens_BNC)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens_BNC = tokens_BNC + self.out(mixed)
        return tokens_BNC + self.mlp(self.norm2(tokens_BNC))


class _Up(nn.Module):
    """Enlarge to the size of finer features, join them, convolve."""

    def __init__(self, coarse: int, fine: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(coarse + fine, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
        )

    def forward(self, coarse_NCHW: Tensor, fine_NCHW: Tensor) -> Tensor:
        size = fine_NCHW.shape[-2:]
        enlarged = F.interpolate(coarse_NCHW, size=size, mode="bilinear", align_corners=False)
        return self.conv(torch.cat((enlarged, fine_NCHW), dim=1))

"""Pinhole cameras: intrinsics, pose, projection and unprojection.

World frame: right-handed, z up, metres. Camera frame: OpenCV (x right, y down, z forward), metres.
Pixels: u right, v down; the CENTRE of row i, column j lies at (j + 0.5, i + 0.5), so resizing only scales K.

Axes: B clips, 3 or 4 coordinates, "..." any further axes (frames, rows, columns).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from reward_physics.grid import pixel_grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera per clip, still for the length of the clip.

    Args:
        intrinsics_B33: focal lengths and principal point in pixels of a `height_px` x `width_px` image.
        world_from_camera_B44: rigid pose; maps camera coordinates (m, OpenCV axes) to the world (m, z up).
        height_px: rows of the image that the intrinsics speak of.
        width_px: columns of that image.

    Raises:
        ValueError: wrong shapes, non-finite numbers, or a focal length that is not positive.
    """

    intrinsics_B33: Tensor
    world_from_camera_B44: Tensor
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        k, pose = self.intrinsics_B33, self.world_from_camera_B44
        if k.ndim != 3 or k.shape[1:] != (3, 3):
            raise ValueError(f"camera intrinsics must have shape (B, 3, 3), got {tuple(k.shape)}: add a batch axis")
        if pose.shape != (k.shape[0], 4, 4):
            raise ValueError(
                f"camera pose must have shape ({k.shape[0]}, 4, 4) like its intrinsics, got {tuple(pose.shape)}"
            )
        if self.height_px < 1 or self.width_px < 1:
            raise ValueError(f"camera image must be at least 1 x 1 px, got {self.height_px} x {self.width_px}")
        if not (torch.isfinite(k).all() and torch.isfinite(pose).all()):
            raise ValueError("camera intrinsics and pose must be finite: found NaN or infinity")
        if not ((k[:, 0, 0] > 0) & (k[:, 1, 1] > 0)).all():
            raise ValueError("focal lengths must be > 0 px: check intrinsics[0, 0] and intrinsics[1, 1]")

    @classmethod
    def looking(
        cls,
        *,
        height_px: int,
        width_px: int,
        fov_y_deg: float,
        pitch_down_deg: float = 0.0,
        position_m: tuple[float, float, float] = (0.0, 0.0, 1.0),
        batch_size: int = 1,
    ) -> Camera:
        """A camera along world +y, tilted down by `pitch_down_deg`; square pixels, centred axis; on the CPU."""
        focal_px = 0.5 * height_px / math.tan(math.radians(fov_y_deg) / 2)
        s, c = math.sin(math.radians(pitch_down_deg)), math.cos(math.radians(pitch_down_deg))
        axis = [[focal_px, 0, width_px / 2], [0, focal_px, height_px / 2], [0, 0, 1.0]]
        intrinsics = torch.tensor(axis, device="cpu")
        x, y, z = position_m
        pose = torch.tensor([[1, 0, 0, x], [0, -s, c, y], [0, -c, -s, z], [0, 0, 0, 1.0]], device="cpu")
        return cls(
            intrinsics_B33=intrinsics.repeat(batch_size, 1, 1),
            world_from_camera_B44=pose.repeat(batch_size, 1, 1),
            height_px=height_px,
            width_px=width_px,
        )

    @property
    def batch_size(self) -> int:
        return self.intrinsics_B33.shape[0]

    @property
    def focal_px_B(self) -> Tensor:
        """Geometric mean of the two focal lengths, px."""
        return (self.intrinsics_B33[:, 0, 0] * self.intrinsics_B33[:, 1, 1]).sqrt()

    def rays_uv(self) -> Tensor:
        """Pixel centres (u, v) of the image, shape (H, W, 2), px."""
        return pixel_grid(self.height_px, self.width_px, like=self.intrinsics_B33)

    def unproject(self, uv_px: Tensor, depth_m: Tensor) -> Tensor:
        """World points seen at pixels `uv_px` (B, ..., 2) at z-depth `depth_m` (B, ...); returns (B, ..., 3) in metres.

        x_camera = depth * K^-1 [u, v, 1];  x_world = R x_camera + t.
        """
        k = _spread(self.intrinsics_B33, uv_px.ndim - 2).to(uv_px)
        pose = _spread(self.world_from_camera_B44, uv_px.ndim - 2).to(uv_px)
        y = (uv_px[..., 1] - k[..., 1, 2]) / k[..., 1, 1]
        x = (uv_px[..., 0] - k[..., 0, 2] - k[..., 0, 1] * y) / k[..., 0, 0]
        camera = torch.stack((x, y, torch.ones_like(x)), dim=-1) * depth_m[..., None]
        return (pose[..., :3, :3] @ camera[..., None])[..., 0] + pose[..., :3, 3]

    def project(self, xyz_m: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, ..., 2) and z-depth (B, ...) in metres of world points `xyz_m` (B, ..., 3).

        Points nearer than 1 mm, or behind the camera, are projected as if at 1 mm; their depth is returned as it is.
        """
        k = _spread(self.intrinsics_B33, xyz_m.ndim - 2).to(xyz_m)
        pose = _spread(self.world_from_camera_B44, xyz_m.ndim - 2).to(xyz_m)
        camera = (pose[..., :3, :3].mT @ (xyz_m - pose[..., :3, 3])[..., None])[..., 0]
        depth = camera[..., 2]
        pixel = (k @ (camera / depth.clamp(min=1e-3)[..., None])[..., None])[..., 0]
        return pixel[..., :2], depth

    def resized(self, height_px: int, width_px: int) -> Camera:
        """The same camera for an image resized to `height_px` x `width_px`."""
        scale = self.intrinsics_B33.new_tensor([width_px / self.width_px, height_px / self.height_px, 1.0])
        return dataclasses.replace(
            self, intrinsics_B33=self.intrinsics_B33 * scale[:, None], height_px=height_px, width_px=width_px
        )

    def part(self, left: float, top: float, *, height_px: int, width_px: int, scale: float) -> Camera:
        """The same camera for a part of its image that begins at (left, top), px, and is then made `scale` times as
        large."""
        corner = self.intrinsics_B33.new_tensor([[0.0, 0.0, left], [0.0, 0.0, top], [0.0, 0.0, 0.0]])
        size = self.intrinsics_B33.new_tensor([scale, scale, 1.0])
        intrinsics = (self.intrinsics_B33 - corner) * size[:, None]
        return dataclasses.replace(self, intrinsics_B33=intrinsics, height_px=height_px, width_px=width_px)

    def expanded(self, batch_size: int) -> Camera:
        """A camera of one clip repeated for `batch_size` clips; one that has that size already is returned as it is."""
        if self.batch_size == batch_size:
            return self
        if self.batch_size != 1:
            raise ValueError(f"a batch of {batch_size} clips needs 1 or {batch_size} cameras, got {self.batch_size}")
        return dataclasses.replace(
            self,
            intrinsics_B33=self.intrinsics_B33.expand(batch_size, 3, 3),
            world_from_camera_B44=self.world_from_camera_B44.expand(batch_size, 4, 4),
        )

    def to(self, device: torch.device | str) -> Camera:
        return dataclasses.replace(
            self,
            intrinsics_B33=self.intrinsics_B33.to(device),
            world_from_camera_B44=self.world_from_camera_B44.to(device),
        )

    def __getitem__(self, clips: slice | Tensor | list[int]) -> Camera:
        """The cameras of some of the clips."""
        return dataclasses.replace(
            self,
            intrinsics_B33=self.intrinsics_B33[clips],
            world_from_camera_B44=self.world_from_camera_B44[clips],
        )


def _spread(matrix: Tensor, axes: int) -> Tensor:
    """(B, m, n) -> (B, 1, ..., 1, m, n) with `axes` ones, to meet tensors of further axes."""
    return matrix.reshape(matrix.shape[:1] + (1,) * axes + matrix.shape[1:])

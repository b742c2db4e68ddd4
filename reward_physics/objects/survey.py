"""A coarse look at a long clip: which frames show the thing in flight, and which part of the picture it crosses.

The finder of `motion` on small pictures, which stay in bytes: only the few frames of the background plate and one frame
at a time become numbers. Everything is detached.

Axes: T frames, H rows, W columns, C colours.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reward_physics.grid import centroid
from reward_physics.objects.blobs import PLATE_FRAMES, Blobs, background_plate, change_from, find_blobs, threshold_of
from reward_physics.objects.homography import WORKING_SIDE_PX, camera_motion, stabilised
from reward_physics.objects.linking import Path, choose_paths, find_paths, merit, path_at


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """Where the things in flight are, in the frames and pixels that were looked at.

    Args:
        frames: first and last frame in which the plainest of them is seen.
        flight: first and last frame of its longest free flight.
        box: left, top, right and bottom of what they cross, px.
        diameter_px: of the plainest.
        still: whether the camera stands still.
        merit: how much the plainest looks like a thing in flight.
    """

    frames: tuple[int, int]
    flight: tuple[int, int]
    box: tuple[float, float, float, float]
    diameter_px: float
    still: bool
    merit: float


@torch.no_grad()
def survey(images_THWC: np.ndarray, ticks_T: np.ndarray, first_mask_HW: Tensor | None = None) -> Sight | None:
    """The things in flight in a clip, or None where nothing moves like one.

    Args:
        images_THWC: 256 levels.
        ticks_T: the frames' times in usual steps from frame to frame.
        first_mask_HW: the object in the first frame, where that is known.
    """
    images, still = _steadied(images_THWC)
    count = len(images)
    keep = np.unique(np.linspace(0, count - 1, min(count, PLATE_FRAMES)).round().astype(int))
    sample = _numbers(images[keep])
    plate = background_plate(sample)
    found = find_paths(_blobs(images, plate, threshold_of(sample, plate)), ticks_T)
    if first_mask_HW is None:
        paths = choose_paths(found)
    else:
        known = _at_mask(found, first_mask_HW)
        paths = [] if known is None else [known]
    return _sight(paths, still) if paths else None


def _sight(paths: list[Path], still: bool) -> Sight:
    plainest = paths[0]
    points, _, first = plainest.longest_flight
    last = first + max(points, 1) - 1
    reach = [2 * path.axes_P2[:, 1:] + 1 for path in paths]
    low = np.min([(path.centre_P2 - far).min(0) for path, far in zip(paths, reach, strict=True)], axis=0)
    high = np.max([(path.centre_P2 + far).max(0) for path, far in zip(paths, reach, strict=True)], axis=0)
    return Sight(
        frames=(int(plainest.frames_P[0]), int(plainest.frames_P[-1])),
        flight=(int(plainest.frames_P[first]), int(plainest.frames_P[last])),
        box=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        diameter_px=plainest.diameter_px,
        still=still,
        merit=merit(plainest),
    )


def _blobs(images_THWC: np.ndarray, plate_CHW: Tensor, least_HW: Tensor) -> list[Blobs]:
    blobs = []
    for image in images_THWC:
        frame = _numbers(image[None])
        blobs.append(find_blobs(frame[0], change_from(frame, plate_CHW)[0], least_HW, plate_CHW))
    return blobs


def _at_mask(paths: list[Path], mask_HW: Tensor) -> Path | None:
    area = float(mask_HW.sum())
    return path_at(paths, centroid(mask_HW.cpu().double()).numpy(), float(np.sqrt(area / np.pi))) if area else None


def _steadied(images_THWC: np.ndarray) -> tuple[np.ndarray, bool]:
    """The pictures as a camera that stands still would have seen them, and whether it stood still."""
    height, width = images_THWC.shape[1:3]
    scale = min(1.0, WORKING_SIDE_PX / max(height, width))
    size = (max(16, round(height * scale)), max(16, round(width * scale)))
    small = torch.cat([_small(image, size) for image in images_THWC])
    motion = camera_motion(small)
    if motion.kind == "static":
        return images_THWC, True
    to_small = torch.diag(small.new_tensor([size[1] / width, size[0] / height, 1.0]))
    steady = torch.linalg.inv(to_small) @ motion.frame_from_reference_T33.to(small) @ to_small
    out = np.empty_like(images_THWC)
    for t, image in enumerate(images_THWC):
        one = dataclasses.replace(motion, frame_from_reference_T33=steady[t : t + 1])
        levels = stabilised(_numbers(image[None]), one)[0].permute(1, 2, 0) * 255
        out[t] = levels.round().clamp(0, 255).to(torch.uint8).numpy()
    return out, False


def _small(image_HWC: np.ndarray, size: tuple[int, int]) -> Tensor:
    frame = _numbers(image_HWC[None]).mean(1, keepdim=True)
    return frame if frame.shape[-2:] == size else F.interpolate(frame, size=size, mode="bilinear", antialias=True)


def _numbers(images_THWC: np.ndarray) -> Tensor:
    """Colours in [0, 1], (T, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images_THWC)).permute(0, 3, 1, 2).float() / 255

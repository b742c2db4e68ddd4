"""The moving object of a clip, found by its motion against a still background: no network, no mask, no training.

What differs from the background plate is cut into blobs, the blobs are linked into paths, and one path is chosen. The
plate is then taken again without the object on it, and the object looked for once more. Where to look is detached; the
mask itself is differentiable in the frames.

Axes: B clips, T frames, C colours, H rows, W columns, P points of a path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from reward_physics.grid import centroid, pixel_axes
from reward_physics.objects.blobs import Blobs, background_plate, change_from, find_blobs, threshold_of
from reward_physics.objects.finder import Found, Places
from reward_physics.objects.linking import Path, choose_path, choose_paths, find_paths, path_at, without_merged

_PASSES = 2
_EDGE_PX = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneMoving:
    """One moving object of one clip: the fields of Found and its Places without their first axis, T frames."""

    mask_THW: Tensor
    window_THW: Tensor
    centre_T2: Tensor
    radius: Tensor
    present_T: Tensor
    reason: str | None


_Choose = Callable[[list[Path], Tensor | None], list[Path | None]]
"""Paths and, where they are known, the objects' masks in the first frame (N, H, W) -> the path of each object."""


def find_moving(frames_BTCHW: Tensor, first_mask_BHW: Tensor | None = None, ticks_BT: Tensor | None = None) -> Found:
    """Find the moving object of every clip.

    Args:
        frames_BTCHW: colours in [0, 1], from a camera that stands still (or stabilised).
        first_mask_BHW: the object in the first frame, where that is known: the path that starts there is taken.
        ticks_BT: the frames' times in usual steps from frame to frame; without it they are even.
    """

    def followed(paths: list[Path], masks_NHW: Tensor | None) -> list[Path | None]:
        return [choose_path(paths) if masks_NHW is None else _path_from_mask(paths, masks_NHW[0])]

    masks_BNHW = None if first_mask_BHW is None else first_mask_BHW[:, None]
    return _found(frames_BTCHW, masks_BNHW, followed, ticks_BT)[0]


def find_all_moving(
    frames_BTCHW: Tensor, first_masks_BNHW: Tensor | None = None, ticks_BT: Tensor | None = None
) -> list[Found]:
    """Find every moving object of every clip, each followed on a path of its own.

    Args:
        frames_BTCHW, ticks_BT: as for `find_moving`.
        first_masks_BNHW: the objects in the first frame, where they are known: one is looked for each.

    Returns:
        The objects, the plainest first or in the order of the masks; as many as the clip with the most has, and at
        least one. A clip that has fewer says so in their reasons.
    """

    def all_of(paths: list[Path], masks_NHW: Tensor | None) -> list[Path | None]:
        if masks_NHW is None:
            return list(without_merged(choose_paths(paths)))
        chosen = [_path_from_mask(paths, mask_HW) for mask_HW in masks_NHW]
        twice = [
            path is not None and any(path is earlier_path for earlier_path in chosen[:n])
            for n, path in enumerate(chosen)
        ]
        kept = [None if again else path for path, again in zip(chosen, twice, strict=True)]
        apart = iter(without_merged([path for path in kept if path is not None]))
        return [None if path is None else next(apart) for path in kept]

    return _found(frames_BTCHW, first_masks_BNHW, all_of, ticks_BT)


def _found(frames_BTCHW: Tensor, masks_BNHW: Tensor | None, choose: _Choose, ticks_BT: Tensor | None) -> list[Found]:
    """One Found per object, from what is chosen among the paths of every clip."""
    even_T = np.arange(frames_BTCHW.shape[1], dtype=float)
    clips = [
        _find(
            frames,
            None if masks_BNHW is None else masks_BNHW[clip] > 0.5,
            choose,
            even_T if ticks_BT is None else ticks_BT[clip].cpu().numpy(),
        )
        for clip, frames in enumerate(frames_BTCHW)
    ]
    return stack_objects(clips, frames_BTCHW)


def stack_objects(clips: Sequence[Sequence[OneMoving]], frames_BTCHW: Tensor) -> list[Found]:
    """The n-th objects of all clips as one Found, for every n; where a clip has fewer, nothing with the reason."""
    count = max(1, *(len(clip) for clip in clips))
    padded = [
        [*clip, *(_nothing(frames) for _ in range(count - len(clip)))]
        for clip, frames in zip(clips, frames_BTCHW, strict=True)
    ]
    return [
        Found(
            mask_BTHW=torch.stack([moving.mask_THW for moving in nth]),
            reasons=[moving.reason for moving in nth],
            places=Places(
                window_BTHW=torch.stack([moving.window_THW for moving in nth]),
                centre_BT2=torch.stack([moving.centre_T2 for moving in nth]),
                radius_B=torch.stack([moving.radius for moving in nth]),
                present_BT=torch.stack([moving.present_T for moving in nth]),
            ),
        )
        for nth in zip(*padded, strict=True)
    ]


def follow_path(soft_THW: Tensor, path: Path, ticks_T: np.ndarray, rivals: Sequence[Path] = ()) -> OneMoving:
    """An object of one clip from its path: its soft mask, its windows, its place in every frame.

    Args:
        soft_THW: soft mask of all that moves.
        ticks_T: the frames' times in usual steps from frame to frame.
        rivals: paths of other objects: a pixel that the windows of two hold belongs to the nearer, in radii.
    """
    frames, height, width = soft_THW.shape
    present = torch.zeros(frames, dtype=torch.bool, device=soft_THW.device)
    present[path.frames_P] = True
    window = discs_of(path, ticks_T, height, width).to(soft_THW) * present[:, None, None]
    for rival in rivals:
        window = window * (_in_radii(path, ticks_T, soft_THW) <= _in_radii(rival, ticks_T, soft_THW))
    return OneMoving(
        mask_THW=soft_THW * (window > 0),
        window_THW=window,
        centre_T2=torch.from_numpy(interpolated(path, ticks_T)).to(soft_THW),
        radius=soft_THW.new_tensor(float(np.median(_radius_px(path)))),
        present_T=present,
        reason=None,
    )


def _find(frames_TCHW: Tensor, masks_NHW: Tensor | None, choose: _Choose, ticks_T: np.ndarray) -> list[OneMoving]:
    """The chosen objects of one clip."""
    still, height, width = frames_TCHW.detach(), *frames_TCHW.shape[-2:]
    hidden = None if masks_NHW is None else _not_yet_moved(still, masks_NHW.any(0))
    chosen: list[Path | None] = []
    contrasts: list[float] = []
    least, plate = still[0, 0], still[0]
    for _ in range(_PASSES):
        plate = background_plate(still, hidden_THW=hidden)
        least = threshold_of(still, plate)
        blobs = [find_blobs(frame, change_from(frame[None], plate)[0], least, plate) for frame in still]
        candidates = choose(find_paths(blobs, ticks_T), masks_NHW)
        if all(path is None for path in candidates):
            break
        chosen, contrasts = candidates, [_contrast(blobs, path) for path in candidates]
        windows = [discs_of(path, ticks_T, height, width, widened=1.3) for path in chosen if path is not None]
        hidden = torch.stack(windows).amax(0).to(still.device) > 0
    if not chosen:
        return [_nothing(frames_TCHW) for _ in range(1 if masks_NHW is None else len(masks_NHW))]
    noise: Tensor = least / 2
    away = change_from(frames_TCHW, plate) - noise
    objects = []
    for n, (path, contrast) in enumerate(zip(chosen, contrasts, strict=True)):
        if path is None:
            objects.append(_nothing(frames_TCHW))
            continue
        rivals = [rival for k, rival in enumerate(chosen) if k != n and rival is not None]
        soft = (away / (-noise + contrast).clamp(min=0.02)).clamp(0, 1)
        objects.append(follow_path(soft, path, ticks_T, rivals))
    return objects


def _contrast(blobs: Sequence[Blobs], path: Path | None) -> float:
    """Usual change of colour over an object."""
    if path is None:
        return 1.0
    strengths = [blobs[t].change_N[n] / blobs[t].area_N[n] for t, n in zip(path.frames_P, path.blobs_P, strict=True)]
    return float(np.median(strengths))


def _nothing(frames_TCHW: Tensor) -> OneMoving:
    """No object in a clip; its empty mask still hangs on the frames."""
    still, height, width = frames_TCHW[:, 0].detach(), *frames_TCHW.shape[-2:]
    return OneMoving(
        mask_THW=torch.zeros_like(still) + 0 * frames_TCHW[:, 0],
        window_THW=torch.zeros_like(still),
        centre_T2=still.new_tensor([width / 2, height / 2]).repeat(len(still), 1),
        radius=still.new_tensor(1.0),
        present_T=torch.zeros(len(still), dtype=torch.bool, device=still.device),
        reason="no motion: nothing in the picture moves like an object",
    )


def _in_radii(path: Path, ticks_T: np.ndarray, like_THW: Tensor) -> Tensor:
    """Distance of every pixel (T, H, W) from an object's centre over its radius; infinite before and after its path."""
    frames, height, width = like_THW.shape
    centre = torch.from_numpy(interpolated(path, ticks_T)).to(like_THW)
    u, v = pixel_axes(height, width, like=like_THW)
    away = torch.hypot(u - centre[:, 0, None, None], v[:, None] - centre[:, 1, None, None])
    outside = torch.arange(frames, device=like_THW.device)
    outside = (outside < int(path.frames_P[0])) | (outside > int(path.frames_P[-1]))
    return torch.where(outside[:, None, None], torch.inf, away / float(np.median(_radius_px(path))))


def _path_from_mask(paths: list[Path], mask_HW: Tensor) -> Path | None:
    area = int(mask_HW.sum())
    if not area:
        return None
    return path_at(paths, centroid(mask_HW.cpu().double()).numpy(), float(np.sqrt(area / np.pi)))


def _not_yet_moved(frames_TCHW: Tensor, mask_HW: Tensor) -> Tensor:
    """True (T, H, W) where the object of the first frame still covers the background."""
    same = (frames_TCHW - frames_TCHW[0]).abs().amax(dim=1) < 0.1
    return same & mask_HW


def _radius_px(path: Path) -> np.ndarray:
    """Window that holds the object in every frame: its long half-axis, with some margin, near the usual one."""
    radius = 1.15 * 2 * path.axes_P2[:, 1] + 1.0
    usual = np.median(radius)
    return radius.clip(0.7 * usual, 1.5 * usual)


def interpolated(path: Path, ticks_T: np.ndarray) -> np.ndarray:
    """Centres in all frames: the parabola through the six points next to a gap, and the ends held."""
    centre = np.stack([np.interp(ticks_T, path.ticks_P, path.centre_P2[:, k]) for k in range(2)], axis=-1)
    for t in set(range(path.frames_P[0], path.frames_P[-1])) - set(path.frames_P.tolist()):
        near = np.argsort(np.abs(path.ticks_P - ticks_T[t]), kind="stable")[:6]
        design = np.vander(path.ticks_P[near] - ticks_T[t], 3)
        centre[t] = np.linalg.lstsq(design, path.centre_P2[near], rcond=None)[0][-1]
    return centre


def discs_of(path: Path, ticks_T: np.ndarray, height: int, width: int, *, widened: float = 1.0) -> Tensor:
    """Discs (T, H, W) around the object from its first frame to its last: one inside, falling to zero at the edge."""
    centre = torch.from_numpy(interpolated(path, ticks_T)).float()
    radius = np.interp(ticks_T, path.ticks_P, _radius_px(path)) * widened
    u, v = pixel_axes(height, width, like=centre)
    discs = torch.zeros(len(ticks_T), height, width, device=centre.device)
    for t in range(path.frames_P[0], path.frames_P[-1] + 1):
        away = torch.hypot(u[None] - centre[t, 0], v[:, None] - centre[t, 1])
        discs[t] = ((float(radius[t]) + _EDGE_PX - away) / _EDGE_PX).clamp(0, 1)
    return discs

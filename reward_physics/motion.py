"""The moving object of a clip, found by its motion against a still background: no network, no mask, no training.

What differs from the background plate is cut into blobs, the blobs are linked into paths, and one path is chosen. The
plate is then taken again without the object on it, and the object looked for once more. Where to look is detached; the
mask itself is differentiable in the frames.

Axes: B clips, T frames, C colours, H rows, W columns, P points of a path.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from reward_physics.blobs import background_plate, change_from, find_blobs, threshold
from reward_physics.linking import Path, choose_path, find_paths, path_at

_PASSES = 2
_EDGE_PX = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moving:
    """One moving object a clip.

    Args:
        mask_BTHW: its soft mask in [0, 1], differentiable in the frames; zero where nothing was found.
        window_BTHW: discs around it, detached; zero in frames where it was not found.
        centre_BT2: where it is, px, detached; between its frames interpolated, before and after them the nearest.
        radius_B: radius of the window in a typical frame, px.
        present_BT: whether it was found in the frame.
        reasons: None, or why a clip has no moving object.
    """

    mask_BTHW: Tensor
    window_BTHW: Tensor
    centre_BT2: Tensor
    radius_B: Tensor
    present_BT: Tensor
    reasons: list[str | None]


def find_moving(frames_BTCHW: Tensor, first_mask_BHW: Tensor | None = None) -> Moving:
    """Find the moving object of every clip.

    Args:
        frames_BTCHW: colours in [0, 1], from a camera that stands still (or stabilised).
        first_mask_BHW: the object in the first frame, where that is known: the path that starts there is taken.
    """
    clips = [
        _find(frames, None if first_mask_BHW is None else first_mask_BHW[clip] > 0.5)
        for clip, frames in enumerate(frames_BTCHW)
    ]
    masks, windows, centres, radii, present, reasons = zip(*clips, strict=True)
    return Moving(
        mask_BTHW=torch.stack(masks),
        window_BTHW=torch.stack(windows),
        centre_BT2=torch.stack(centres),
        radius_B=torch.stack(radii),
        present_BT=torch.stack(present),
        reasons=list(reasons),
    )


def _find(
    frames_TCHW: Tensor, first_mask_HW: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, str | None]:
    """The fields of Moving for one clip."""
    still, height, width = frames_TCHW.detach(), *frames_TCHW.shape[-2:]
    hidden = None if first_mask_HW is None else _not_yet_moved(still, first_mask_HW)
    path, contrast, least, plate = None, 1.0, still[0, 0], still[0]
    for _ in range(_PASSES):
        plate = background_plate(still, hidden_THW=hidden)
        change = change_from(still, plate)
        least = threshold(change)
        blobs = [find_blobs(frame, differs, least) for frame, differs in zip(still, change, strict=True)]
        paths = find_paths(blobs)
        found = choose_path(paths) if first_mask_HW is None else _path_from_mask(paths, first_mask_HW)
        if found is None:
            break
        path = found
        strengths = [
            blobs[t].change_N[n] / blobs[t].area_N[n] for t, n in zip(path.frames_P, path.blobs_P, strict=True)
        ]
        contrast = float(np.median(strengths))
        hidden = _windows(path, len(still), height, width, widened=1.3).to(still.device) > 0
    if path is None:
        nothing = torch.zeros_like(still[:, 0])
        middle = still.new_tensor([width / 2, height / 2]).repeat(len(still), 1)
        gone = torch.zeros(len(still), dtype=torch.bool, device=still.device)
        why = "no motion: nothing in the picture moves like an object"
        return nothing + 0 * frames_TCHW[:, 0], nothing, middle, still.new_tensor(1.0), gone, why
    noise: Tensor = least / 2
    soft = ((change_from(frames_TCHW, plate) - noise) / (-noise + contrast).clamp(min=0.02)).clamp(0, 1)
    present = torch.zeros(len(still), dtype=torch.bool, device=still.device)
    present[path.frames_P] = True
    window = _windows(path, len(still), height, width).to(still) * present[:, None, None]
    centre = torch.from_numpy(_interpolated(path, len(still))).to(still)
    return soft * (window > 0), window, centre, still.new_tensor(float(np.median(_radius_px(path)))), present, None


def _path_from_mask(paths: list[Path], mask_HW: Tensor) -> Path | None:
    rows, columns = np.nonzero(mask_HW.cpu().numpy())
    if not len(rows):
        return None
    centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    return path_at(paths, centre, float(np.sqrt(len(rows) / np.pi)))


def _not_yet_moved(frames_TCHW: Tensor, mask_HW: Tensor) -> Tensor:
    """True (T, H, W) where the object of the first frame still covers the background."""
    same = (frames_TCHW - frames_TCHW[0]).abs().amax(dim=1) < 0.1
    return same & mask_HW


def _radius_px(path: Path) -> np.ndarray:
    """Window that holds the object in every frame: its long half-axis, with some margin, near the usual one."""
    radius = 1.15 * 2 * path.axes_P2[:, 1] + 1.0
    usual = np.median(radius)
    return radius.clip(0.7 * usual, 1.5 * usual)


def _interpolated(path: Path, frames: int) -> np.ndarray:
    """Centres in all frames: the parabola through the six points next to a gap, and the ends held."""
    centre = np.stack([np.interp(np.arange(frames), path.frames_P, path.centre_P2[:, k]) for k in range(2)], axis=-1)
    for t in set(range(path.frames_P[0], path.frames_P[-1])) - set(path.frames_P.tolist()):
        near = np.argsort(np.abs(path.frames_P - t), kind="stable")[:6]
        design = np.vander((path.frames_P[near] - t).astype(float), 3)
        centre[t] = np.linalg.lstsq(design, path.centre_P2[near], rcond=None)[0][-1]
    return centre


def _windows(path: Path, frames: int, height: int, width: int, *, widened: float = 1.0) -> Tensor:
    """Discs (T, H, W) around the object from its first frame to its last: one inside, falling to zero at the edge."""
    centre = torch.from_numpy(_interpolated(path, frames)).float()
    radius = np.interp(np.arange(frames), path.frames_P, _radius_px(path)) * widened
    v = torch.arange(height) + 0.5
    u = torch.arange(width) + 0.5
    discs = torch.zeros(frames, height, width)
    for t in range(path.frames_P[0], path.frames_P[-1] + 1):
        away = torch.hypot(u[None] - centre[t, 0], v[:, None] - centre[t, 1])
        discs[t] = ((float(radius[t]) + _EDGE_PX - away) / _EDGE_PX).clamp(0, 1)
    return discs

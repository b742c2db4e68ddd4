"""PisaBench's clips as its authors lay them out: dropped objects, 361 real and 60 simulated ones.

    real/0000/00000.jpg 00001.jpg ... movie.mp4 clip_info.json [mask.npz]       120 fps, filmed
    sim/0000/rbga_00000.jpg ... movie.gif clip_info.json mask.npz               16 fps, simulated

`mask.npz` holds `mask`, (frames, objects, rows, columns); real clips have one only after a segmenter was run.
`clip_info.json` holds texts, and for real clips `points`: for each object `positive` and `negative` pixels (x, y) of
the first frame. The dropped object is the one whose positive points reach highest in a real clip, and the last one in a
simulated clip. Nothing is downloaded here.

Axes: T frames, K objects, C colours, H rows, W columns. Source: Li et al., "PISA Experiments", 2025, arXiv:2503.09595.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.published.video_folder import frame_indices
from reward_physics.files.io import read_video
from reward_physics.files.shots import FRAME_SUFFIXES

REAL_FPS, SIM_FPS = 120.0, 16.0
TEXTS = ("caption", "prompt", "text", "description")


@dataclass(frozen=True, kw_only=True)
class PisaClip:
    """One clip of the benchmark."""

    name: str
    kind: str
    """real or sim."""
    frames_TCHW: Tensor
    """RGB in [0, 1]."""
    fps: float
    mask_TKHW: Tensor | None
    """1 on each object, or None where the clip has no masks yet."""
    dropped: int
    """Index of the object that falls."""
    info: dict[str, Any]

    @property
    def caption(self) -> str:
        """The text that describes the clip, empty where there is none."""
        return next((str(self.info[name]) for name in TEXTS if name in self.info), "")

    @property
    def dropped_mask_THW(self) -> Tensor:
        """The mask of the object that falls.

        Raises:
            ValueError: the clip has no masks.
        """
        if self.mask_TKHW is None:
            raise ValueError(f"PisaBench clip {self.name} has no mask.npz: real clips get one from a segmenter first")
        return self.mask_TKHW[:, self.dropped]

    def at(self, fps: float, count: int | None = None) -> PisaClip:
        """The clip at the times of one at another frame rate: frame i is frame floor(i fps / other)."""
        index = torch.tensor(frame_indices(len(self.frames_TCHW), self.fps, target_fps=fps, count=count))
        mask = None if self.mask_TKHW is None else self.mask_TKHW[index]
        return PisaClip(
            name=self.name,
            kind=self.kind,
            frames_TCHW=self.frames_TCHW[index],
            fps=fps,
            mask_TKHW=mask,
            dropped=self.dropped,
            info=self.info,
        )


def clip_folders(root: str | Path, kind: str) -> list[Path]:
    """The clips of one kind under the benchmark's folder, in order.

    Raises:
        ValueError: another kind, no such folder, no clip in it.
    """
    if kind not in ("real", "sim"):
        raise ValueError(f"PisaBench has real and sim clips, got {kind}")
    folder = Path(root) / kind
    folders = sorted(path.parent for path in folder.glob("*/clip_info.json"))
    if not folders:
        raise ValueError(f"no PisaBench clips in {folder}: expected folders that hold clip_info.json")
    return folders


def read_clip(folder: str | Path, *, kind: str, fps: float | None = None) -> PisaClip:
    """Read one clip from its frames, or where there are none from its movie.

    Args:
        kind: `real` or `sim`, which decides the frame rate and which object falls.
        fps: overrides the benchmark's frame rate.

    Raises:
        ValueError: files that are missing or do not fit together.
    """
    folder = Path(folder)
    info = json.loads((folder / "clip_info.json").read_text())
    rate = fps or (REAL_FPS if kind == "real" else SIM_FPS)
    frames_TCHW = read_frames(folder, rate)
    mask = read_mask(folder / "mask.npz", len(frames_TCHW)) if (folder / "mask.npz").exists() else None
    objects = len(info["points"]) if kind == "real" and "points" in info else (1 if mask is None else mask.shape[1])
    dropped = dropped_object(info["points"]) if kind == "real" and "points" in info else objects - 1
    return PisaClip(
        name=folder.name, kind=kind, frames_TCHW=frames_TCHW, fps=rate, mask_TKHW=mask, dropped=dropped, info=info
    )


def read_frames(folder: Path, fps: float) -> Tensor:
    """The frames of a clip's folder, from its pictures or from its movie."""
    if any(path.suffix.lower() in FRAME_SUFFIXES for path in folder.iterdir()):
        return read_video(folder, fps=fps).frames_BTCHW[0]
    for name in ("movie.mp4", "movie.gif"):
        if (folder / name).exists():
            return read_video(folder / name, fps=fps).frames_BTCHW[0]
    raise ValueError(f"PisaBench clip {folder} has neither frames nor a movie")


def read_mask(path: Path, frames: int) -> Tensor:
    """mask_TKHW of a clip; one without an axis of objects has one object."""
    with np.load(path) as arrays:
        if "mask" not in arrays:
            raise ValueError(f"{path} must hold `mask`, got {', '.join(arrays.files) or 'nothing'}")
        mask = torch.from_numpy(np.asarray(arrays["mask"])).float()
    mask = mask[:, None] if mask.ndim == 3 else mask
    if mask.ndim != 4 or len(mask) != frames:
        raise ValueError(
            f"{path} must hold masks (frames, objects, rows, columns) of {frames} frames, got {tuple(mask.shape)}"
        )
    return mask


def dropped_object(points: list[dict[str, Any]]) -> int:
    """The object whose positive points reach highest in the picture (smallest row); of equal ones the first."""
    tops = [min(float(point[1]) for point in body["positive"]) for body in points]
    return tops.index(min(tops))

"""A folder of videos, each a file or a folder of frames, with what else is known of each.

A clip's frame rate is the file's own, or `fps`; `prompts.json` (name: text), where it is there, holds the prompts.
Axes: T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from reward_physics.files.io import VIDEO_SUFFIXES, read_video
from reward_physics.files.shots import FRAME_SUFFIXES

PROMPTS = "prompts.json"


@dataclass(frozen=True, kw_only=True)
class FolderClip:
    """One video of a folder."""

    name: str
    frames_TCHW: Tensor
    """RGB in [0, 1]."""
    fps: float
    prompt: str = ""


def video_paths(folder: str | Path) -> list[Path]:
    """The videos of a folder in the order of their names: files, and sub-folders that hold frames.

    Raises:
        ValueError: no such folder, or no video in it, or two of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"no folder of videos at {folder}: name one that holds .mp4 or .gif files or folders of frames"
        )
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES or holds_frames(path)]
    if not paths:
        raise ValueError(f"{folder} holds no video: expected {', '.join(VIDEO_SUFFIXES)} files or folders of frames")
    names = [path.stem for path in paths]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{folder} holds two videos named {twice[0]}: rename one")
    return paths


def holds_frames(path: Path) -> bool:
    """Whether a path is a folder of pictures."""
    return path.is_dir() and any(file.suffix.lower() in FRAME_SUFFIXES for file in path.iterdir())


def read_folder(folder: str | Path, *, fps: float | None = None) -> Iterator[FolderClip]:
    """Every video of a folder, one at a time.

    Args:
        fps: overrides the files' own frame rate; folders of frames have none and need it.
    """
    file = Path(folder) / PROMPTS
    prompts = json.loads(file.read_text()) if file.exists() else {}
    for path in video_paths(folder):
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError(f"{path} is a link that leads out of its folder: copy the video into it")
        video = read_video(path, fps=fps)
        yield FolderClip(
            name=path.stem,
            frames_TCHW=video.frames_BTCHW[0],
            fps=float(video.fps_B[0]),
            prompt=str(prompts.get(path.stem, "")),
        )


def frame_indices(length: int, fps: float, *, target_fps: float, count: int | None = None) -> list[int]:
    """The frames of a clip of `length` at `fps` that lie at the times of one at `target_fps`."""
    if not (fps > 0 and target_fps > 0):
        raise ValueError(f"frame rates must be > 0, got {fps} and {target_fps}: give both clips' frames a second")
    wanted = length if count is None else count
    # A product just below a whole number is that number: 3 * 120 / 16 must not become 22.499999.
    indices = [int(i * fps / target_fps + 1e-9) for i in range(wanted)]
    return [index for index in indices if index < length]

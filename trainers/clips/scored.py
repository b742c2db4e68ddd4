"""Folders of clips that are scored already, in groups of one prompt, for the offline weighted regression.

A folder holds what `python -m trainers.sample` leaves, and `rewards.jsonl`: one line per clip, whoever wrote it,

    {"name": "train-17-0", "reward": -0.31, "measurable": true}

`reward` is null or `measurable` false where it could not be measured. The group of a clip is its scene, or without one
its prompt. Axes: G groups, N samples of the largest group, B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.rates import frames_at
from reward_physics.video import Video
from trainers.clips.folder import REWARDS, Sample, clip_shape, read_clip, read_samples, write_text
from trainers.learning.batches import Batch, resized
from trainers.settings.common import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredClip:
    """One clip of a folder and what it scored; NaN where it could not be measured."""

    folder: Path
    sample: Sample
    reward: float


class ScoredClips:
    """The scored clips of some folders, group by group, in the length, size and frame rate that a config asks for.

    Raises:
        ValueError: no clips, a clip without a score, scores that cannot be read, clips of several sizes or fewer frames
            than are asked for.
    """

    def __init__(self, folders: Sequence[str | Path], config: DataConfig | None = None) -> None:
        self.config = config or DataConfig()  # pyright: ignore[reportCallIssue]
        clips = [clip for folder in folders for clip in read_scored(folder)]
        names = list(dict.fromkeys(clip.sample.scene or clip.sample.prompt for clip in clips))
        groups = {name: [] for name in names}
        for clip in clips:
            groups[clip.sample.scene or clip.sample.prompt].append(clip)
        self.clips: list[ScoredClip] = [clip for name in names for clip in groups[name]]
        largest = max(len(group) for group in groups.values())
        self._places = [(g, n) for g, name in enumerate(names) for n in range(len(groups[name]))]
        self.reward_GN = torch.zeros(len(groups), largest)
        self.measurable_GN = torch.zeros(len(groups), largest)
        chosen = [taken(clip, self.config) for clip in self.clips]
        for clip, (*_, size) in zip(self.clips, chosen, strict=True):
            if size != chosen[0][-1]:
                raise ValueError(
                    f"clips of one training must have one size, but {clip.sample.name} in {clip.folder} has "
                    f"{_in_words(size)} and {self.clips[0].sample.name} in {self.clips[0].folder} "
                    f"{_in_words(chosen[0][-1])}: set num_frames, height and width, or leave one folder out"
                )
        self.size: tuple[int, ...] = chosen[0][-1]
        self._taken = [(indices, rate) for indices, rate, _ in chosen]
        self.present_GN = torch.zeros(len(groups), largest)
        for (g, n), clip in zip(self._places, self.clips, strict=True):
            self.present_GN[g, n] = 1.0
            self.measurable_GN[g, n] = float(math.isfinite(clip.reward))
            self.reward_GN[g, n] = clip.reward if math.isfinite(clip.reward) else 0.0

    def __len__(self) -> int:
        return len(self.clips)

    def flat(self, values_GN: Tensor) -> Tensor:
        """A value of each group's place as one of each clip, in the clips' order."""
        return torch.stack([values_GN[place] for place in self._places])

    def batch(self, places: list[int]) -> Batch:
        """Some clips, as the scenes that they are: their pixels, prompts and frame rates."""
        clips = [(self.clips[place], *self._taken[place]) for place in places]
        frames = [read_clip(clip.folder, clip.sample.name)[indices] for clip, indices, _ in clips]
        video = Video(frames_BTCHW=torch.stack(frames), fps_B=torch.tensor([rate for _, _, rate in clips]))
        return Batch(
            video=resized(video, self.config.height, self.config.width),
            captions=[clip.sample.prompt for clip, _, _ in clips],
            ids=[clip.sample.name for clip, _, _ in clips],
            columns={},
            numbers=places,
        )


def taken(clip: ScoredClip, config: DataConfig) -> tuple[list[int], float, tuple[int, ...]]:
    """The frames of a clip at the config's rate and length, their rate, and the size of the clip that they make.

    Raises:
        ValueError: the rate is above the clip's or does not fit it, or the clip is too short.
    """
    name, fps, wanted = clip.sample.name, config.fps, config.num_frames
    count, height, width, _ = clip_shape(clip.folder, name)
    indices = None if fps is None else frames_at(count, clip.sample.fps, fps, clip=name)
    rate = clip.sample.fps if fps is None or indices is None else fps
    indices = list(range(count)) if indices is None else indices
    if wanted is not None and wanted > len(indices):
        raise ValueError(
            f"num_frames {wanted} is more than the {len(indices)} frames of clip {name} in {clip.folder} at "
            f"{rate:g} frames a second: lower num_frames"
        )
    indices = indices[:wanted]
    return indices, rate, (len(indices), config.height or height, config.width or width)


def _in_words(size: tuple[int, ...]) -> str:
    return f"{size[0]} frames of {size[1]} x {size[2]} px"


def read_scored(folder: str | Path) -> list[ScoredClip]:
    """The clips of a folder with their scores, in the order they were made."""
    folder = Path(folder)
    samples = read_samples(folder) if folder.is_dir() else {}
    if not samples:
        raise ValueError(f"scored: {folder} holds no clips: make them with `python -m trainers.sample`")
    rewards = read_rewards(folder)
    missing = [name for name in samples if name not in rewards]
    if missing:
        raise ValueError(
            f"scored: {folder / REWARDS} has no score for {missing[0]} ({len(missing)} clips): run "
            f"`python -m trainers.score_clips --clips {folder}`"
        )
    return [ScoredClip(folder=folder, sample=sample, reward=rewards[name]) for name, sample in samples.items()]


def read_rewards(folder: str | Path) -> dict[str, float]:
    """What each clip of a folder scored, by name; NaN where it could not be measured, nothing where there is no file.

    Raises:
        ValueError: a line that cannot be read, with its number.
    """
    path, rewards = Path(folder) / REWARDS, {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        try:
            record = json.loads(line)
            seen = record.get("measurable", True) and record["reward"] is not None
            rewards[str(record["name"])] = float(record["reward"]) if seen else math.nan
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f'{path}, line {number}: expected {{"name": ..., "reward": number}}, got {line!r}'
            ) from error
    return rewards


def write_rewards(folder: str | Path, rewards: dict[str, float]) -> None:
    """Leave the scores of a folder's clips, NaN as not measurable."""
    known = {name: math.isfinite(value) for name, value in rewards.items()}
    lines = [
        json.dumps({"name": name, "reward": value if known[name] else None, "measurable": known[name]})
        for name, value in rewards.items()
    ]
    write_text(Path(folder) / REWARDS, "\n".join(lines) + "\n")

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

from reward_physics.video import Video
from trainers.clips.folder import REWARDS, Sample, read_clip, read_samples, write_text
from trainers.learning.batches import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredClip:
    """One clip of a folder and what it scored; NaN where it could not be measured."""

    folder: Path
    sample: Sample
    reward: float


class ScoredClips:
    """The scored clips of some folders, group by group.

    Raises:
        ValueError: no clips, a clip without a score, scores that cannot be read.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
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
        for (g, n), clip in zip(self._places, self.clips, strict=True):
            self.measurable_GN[g, n] = float(math.isfinite(clip.reward))
            self.reward_GN[g, n] = clip.reward if math.isfinite(clip.reward) else 0.0

    def __len__(self) -> int:
        return len(self.clips)

    def flat(self, values_GN: Tensor) -> Tensor:
        """A value of each group's place as one of each clip, in the clips' order."""
        return torch.stack([values_GN[place] for place in self._places])

    def batch(self, places: list[int]) -> Batch:
        """Some clips, as the scenes that they are: their pixels, prompts and frame rates."""
        clips = [self.clips[place] for place in places]
        frames = [read_clip(clip.folder, clip.sample.name) for clip in clips]
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(
                f"clips of one training must have one size, got {sorted({tuple(f.shape) for f in frames})}"
            )
        fps_B = torch.tensor([clip.sample.fps for clip in clips])
        return Batch(
            video=Video(frames_BTCHW=torch.stack(frames), fps_B=fps_B),
            captions=[clip.sample.prompt for clip in clips],
            ids=[clip.sample.name for clip in clips],
            columns={},
            numbers=places,
        )


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

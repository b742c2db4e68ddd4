"""Clips to regress on: those of a replay, or of folders that are scored already.

Axes: M clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainers.batches import Scenes, clip_generators, condition_on
from trainers.models import Condition, VideoModel
from trainers.regression_config import RWRConfig
from trainers.replay import Replay
from trainers.reward_weights import reward_weights, weight_metrics
from trainers.scored_clips import ScoredClips
from trainers.session import NOISE, Session


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """Clips to regress on.

    Args:
        names: of the clips, for messages.
        weight_M: of each clip.
        fetch: clean latents and conditions of some of them; a number each decides what is drawn.
        first_step: step at which the pool was made.
    """

    names: list[str]
    weight_M: Tensor
    fetch: Callable[[list[int], list[int]], tuple[Tensor, Condition]]
    first_step: int


def condition_of(config: RWRConfig, model: VideoModel, scenes: Scenes, numbers: list[int]) -> Any:
    """The scenes of clip numbers, what they are generated from, and their noise."""
    batch = scenes.batch([number // config.num_generations for number in numbers])
    generators = clip_generators(config.seed, numbers, NOISE)
    return batch, condition_on(model, batch, config, generators), generators


def online_pool(config: RWRConfig, run: Session, scenes: Scenes, replay: Replay) -> Pool:
    """The clips of the replay."""
    clips = replay.clips()

    def fetch(places: list[int], _: list[int]) -> tuple[Tensor, Condition]:
        some = [clips[place] for place in places]
        _, condition, _ = condition_of(config, run.model, scenes, [clip.number for clip in some])
        return torch.stack([replay.latents(clip) for clip in some]).to(run.model.device), condition

    weight_M = torch.tensor([clip.weight for clip in clips])
    names = [f"clip {clip.number}" for clip in clips]
    first_step = run.state.step - run.state.step % config.inner_steps
    return Pool(names=names, weight_M=weight_M, fetch=fetch, first_step=first_step)


def offline_pool(config: RWRConfig, run: Session, scored: ScoredClips) -> tuple[Pool, dict[str, float]]:
    """The clips of scored folders, in groups of one prompt, and the figures of their weights."""
    found = reward_weights(scored.reward_GN, scored.measurable_GN, config.how)

    def fetch(places: list[int], numbers: list[int]) -> tuple[Tensor, Condition]:
        batch = scored.batch(places)
        condition = condition_on(run.model, batch, config, clip_generators(config.seed, numbers, NOISE))
        frames = batch.video.frames_BTCHW.to(run.model.device)
        return run.model.pin(run.model.encode_clip(frames), condition), condition

    names = [str(clip.folder / clip.sample.name) for clip in scored.clips]
    pool = Pool(names=names, weight_M=scored.flat(found.weight_GN), fetch=fetch, first_step=0)
    return pool, weight_metrics(scored.reward_GN, scored.measurable_GN, found)

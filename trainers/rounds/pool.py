"""Clips to regress on: those of a replay, or of folders that are scored already.

Axes: M clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainers.clips.scored import ScoredClips
from trainers.learning.advantages import GroupWeights, reward_weights, weight_metrics, why_nothing_differs
from trainers.learning.batches import Batch, BatchSource, Scenes, condition_on
from trainers.learning.streams import Stream, clip_generators
from trainers.models import Condition, VideoModel
from trainers.rounds.replay import Replay
from trainers.run.session import Session
from trainers.settings.regression import RWRConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """Clips to regress on.

    Args:
        names: of the clips, for messages.
        weight_M: of each clip.
        fetch: clean latents and conditions of some of them; a number each decides what is drawn.
        first_step: step at which the pool was made.
        policy: the LoRA that made the clips, where it was kept.
    """

    names: list[str]
    weight_M: Tensor
    fetch: Callable[[list[int], list[int]], tuple[Tensor, Condition]]
    first_step: int
    policy: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def prompts_of(
    config: RWRConfig, model: VideoModel, scenes: BatchSource, numbers: list[int]
) -> tuple[Batch, Condition, list[int]]:
    """The scenes of clip numbers, each once, what is generated from them, and the place of each number's own.

    The samples of a prompt have its first frame's latents in common.
    """
    prompts = [number // config.num_generations for number in numbers]
    each = list(dict.fromkeys(prompts))
    batch = scenes.batch(each)
    condition = condition_on(model, batch, config, clip_generators(config.seed, each, Stream.PROMPT))
    return batch, condition, [each.index(prompt) for prompt in prompts]


def picked(value: Any, places: list[int]) -> Any:
    """Some clips of a batch, as often as `places` names them: of tensors, lists and whatever holds them."""
    if isinstance(value, Tensor):
        return value[places]
    if isinstance(value, list):
        return [value[place] for place in places]
    if isinstance(value, dict):
        return {name: picked(part, places) for name, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: picked(getattr(value, field.name), places) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def online_pool(config: RWRConfig, session: Session, scenes: Scenes, replay: Replay) -> Pool:
    """The clips of the replay."""
    clips = replay.clips()

    def fetch(places: list[int], numbers: list[int]) -> tuple[Tensor, Condition]:
        batch = [clips[place] for place in places]
        _, condition, of = prompts_of(config, session.model, scenes, [clip.number for clip in batch])
        return torch.stack(replay.latents(batch)).to(session.model.device), condition[of]

    weight_M = torch.tensor([clip.weight for clip in clips])
    names = [f"clip {clip.number}" for clip in clips]
    first_step = session.state.step - session.state.step % config.inner_steps
    policy = replay.policy(session.model.device)
    return Pool(names=names, weight_M=weight_M, fetch=fetch, first_step=first_step, policy=policy)


def check_scored(config: RWRConfig, session: Session, scored: ScoredClips, weights: GroupWeights) -> None:
    """Meet scores from which nothing can be learned.

    Raises:
        ValueError: no clip could be measured.
    """
    if config.weighting == "uniform":
        return
    if not scored.measurable_GN.any():
        raise ValueError(
            f"scored: none of the {len(scored)} clips could be measured, so that all weights are 0: score them by a "
            "recipe that measures them"
        )
    given = scored.reward_GN, scored.measurable_GN
    why = why_nothing_differs(*given, weights, config.how, scored.present_GN)
    if why is not None:
        session.accelerator.print(f"warning: the scores teach nothing, and all clips are learned from alike: {why}")


def offline_pool(config: RWRConfig, session: Session, scored: ScoredClips) -> tuple[Pool, dict[str, float]]:
    """The clips of scored folders, in groups of one prompt, and the figures of their weights."""
    weights = reward_weights(scored.reward_GN, scored.measurable_GN, config.how, present_GN=scored.present_GN)
    check_scored(config, session, scored, weights)

    def fetch(places: list[int], numbers: list[int]) -> tuple[Tensor, Condition]:
        batch = scored.batch(places)
        condition = condition_on(session.model, batch, config, clip_generators(config.seed, numbers, Stream.NOISE))
        frames = batch.video.frames_BTCHW.to(session.model.device)
        return session.model.pin(session.model.encode_clip(frames), condition), condition

    names = [str(clip.folder / clip.sample.name) for clip in scored.clips]
    pool = Pool(names=names, weight_M=scored.flat(weights.weight_GN), fetch=fetch, first_step=0)
    return pool, weight_metrics(scored.reward_GN, scored.measurable_GN, weights)

"""From latents to pixels to rewards and back, some clips at a time: this bounds what a step needs beside its rollout.

    x = decode(z),   g = dR/dx,   dR/dz = (dx/dz)^T g

The pixels are clamped for the reward, and g is carried on as if they were not: a saturated one can be pulled back.
Axes: B clips, T frames, C colours, H rows, W columns; latents z as the model's family keeps them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reward_physics.video import Video
from trainers.learning.clocks import Phases
from trainers.learning.scoring import (
    Judge,
    Scored,
    joined,
    limit,
    needs_its_batch,
    no_gradient,
    score,
    score_with_gradient,
    some_columns,
)
from trainers.models.base import Condition, VideoModel


def score_latents(
    model: VideoModel,
    latents: Tensor,
    condition: Condition,
    recipe: Judge,
    video: Video,
    columns: dict[str, Any],
    *,
    num_frames: int | None = None,
    chunk_size: int = 0,
    checkpointing: bool = False,
    max_ratio: float = float("inf"),
    skip_first: bool = False,
    each_reward: bool = False,
    everywhere: Callable[[Tensor], Tensor] = lambda value_B: value_B,
    phase: Phases,
) -> Scored:
    """Rewards of sampled clips and their gradient at the latents, where these have a graph; no other graph is left.

    Args:
        video: what is known of the clips beside their frames.
        columns: of the data set, for the rewards that take them.
        num_frames: how many first frames of a clip the reward is shown; by default all. A causal decoder makes no more.
        chunk_size: clips that are decoded and measured at a time; 0 is all. Rewards and gradients are those of all
            clips at once: where a recipe's gradients hang on the batch, it is measured without gradient first.
        checkpointing: keep few of the decoder's activations and evaluate it again, by the family's own pieces.
        max_ratio: a clip whose gradient at the pixels is longer than this many times the median of the measurable clips
            of all processes is scaled down to it.
        skip_first, each_reward: as in `score_with_gradient`.
        everywhere: gathers one value a clip from all processes, which all get here. What a recipe takes from its batch
            (the price `worst` of a clip that cannot be measured, the spreads of `normalised_sum`) stays that of one
            process's clips.

    Raises:
        ValueError: a reward that is not finite or has no gradient.
    """
    size = chunk_size or len(latents)
    places = [slice(start, start + size) for start in range(0, len(latents), size)]
    clips_of = _Clips(model, latents, condition, recipe, video, columns, num_frames, phase)
    judge: Any = recipe
    in_parts, whole = len(places) > 1, None
    if in_parts and needs_its_batch(judge):
        whole = joined([clips_of.scored(clips) for clips in places])
    parts, have_gradient = [], False
    for clips in places:
        scored, has_gradient = clips_of.carried_back(
            clips,
            checkpointing=checkpointing,
            skip_first=skip_first,
            each_reward=each_reward,
            clips=clips if in_parts else None,
            whole=whole,
        )
        parts.append(scored)
        have_gradient = have_gradient or has_gradient
    scored = joined(parts)
    if not have_gradient:
        raise no_gradient(scored)
    if in_parts:
        reward_B, _ = judge.total(scored.terms, scored.visibility_B)
        scored = dataclasses.replace(scored, reward_B=reward_B.float())
    return _limited(scored, latents, max_ratio, everywhere, phase)


@dataclasses.dataclass(frozen=True)
class _Clips:
    """Clips of a batch, of which some are decoded and judged at a time."""

    model: VideoModel
    latents: Tensor
    condition: Condition
    recipe: Judge
    video: Video
    columns: dict[str, Any]
    num_frames: int | None
    phase: Phases

    def shown(self, frames_BTCHW: Tensor, places: slice) -> Video:
        """What the recipe sees."""
        return self.video[places].to(frames_BTCHW.device).with_frames(frames_BTCHW.detach().clamp(0, 1))

    def scored(self, places: slice) -> Scored:
        """Scores without gradient."""
        with self.phase("decode"), torch.no_grad():
            frames = decode_first(self.model, self.latents[places], self.condition[places], self.num_frames)
        with self.phase("reward"):
            return score(self.recipe, self.shown(frames, places), some_columns(self.columns, places))[0]

    def carried_back(self, places: slice, *, checkpointing: bool, **options: Any) -> tuple[Scored, bool]:
        """Scores with the gradient at the latents, and whether there was one at the pixels. Their graphs are gone."""
        with_graph = self.latents.requires_grad
        with self.phase("decode"), torch.set_grad_enabled(with_graph):
            leaf = self.latents[places].detach().requires_grad_(with_graph)
            condition = self.condition[places]
            frames = decode_first(self.model, leaf, condition, self.num_frames, checkpointing=checkpointing)
        with self.phase("reward"):
            columns = some_columns(self.columns, places)
            scored = score_with_gradient(self.recipe, self.shown(frames, places), columns, **options)
        with self.phase("decode"):
            carried = carry_back(frames, leaf, scored.pixel_grad_BTCHW)
            beyond_B = ((frames < 0) | (frames > 1)).flatten(1).float().mean(1)
        left = dataclasses.replace(scored, pixel_grad_BTCHW=None, latent_grad=carried, saturated_B=beyond_B)
        return left, scored.pixel_grad_BTCHW is not None


def _limited(
    scored: Scored,
    latents: Tensor,
    max_ratio: float,
    everywhere: Callable[[Tensor], Tensor],
    phase: Phases,
) -> Scored:
    """The scores with the gradient of each clip limited by those of all processes."""
    assert scored.pixel_grad_norm_B is not None and scored.latent_grad is not None
    norm_B = scored.pixel_grad_norm_B
    with phase("wait"):
        norm_M, measurable_M = everywhere(norm_B), everywhere(scored.measurable_B.to(norm_B.device)) > 0
    factor_B = limit(norm_B, norm_M, measurable_M, max_ratio)
    limited = scored.latent_grad * factor_B.to(latents).view(-1, *[1] * (latents.ndim - 1))
    return dataclasses.replace(scored, latent_grad=limited)


def decode_first(
    model: VideoModel, latents: Tensor, condition: Condition, num_frames: int | None, *, checkpointing: bool = False
) -> Tensor:
    """The first `num_frames` frames_BTCHW of clips, around [0, 1], not clamped; None is all."""
    if num_frames is None or num_frames >= condition.num_frames:
        return model.decode(latents, condition, checkpointing=checkpointing)
    latents, condition = model.first_latents(latents, condition, num_frames)
    return model.decode(latents, condition, checkpointing=checkpointing)[:, :num_frames]


def carry_back(frames_BTCHW: Tensor, leaf: Tensor, pixel_grad_BTCHW: Tensor | None) -> Tensor:
    """The gradient at the latents `leaf` that the frames were decoded from; 0 where there is none at the pixels."""
    if pixel_grad_BTCHW is None or not leaf.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(frames_BTCHW, leaf, pixel_grad_BTCHW)[0]

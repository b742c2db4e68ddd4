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
from rewards.recipe.in_parts import needs_its_batch
from trainers.learning.clocks import Phases
from trainers.learning.figures import ALONE, Processes, of_all
from trainers.learning.scoring import (
    Scored,
    Scorer,
    joined,
    limit,
    no_gradient,
    priced_together,
    score,
    score_with_gradient,
    some_columns,
)
from trainers.models.base import Condition, VideoModel


def score_latents(
    model: VideoModel,
    latents: Tensor,
    condition: Condition,
    recipe: Scorer,
    video: Video,
    columns: dict[str, Any],
    *,
    num_frames: int | None = None,
    chunk_size: int = 0,
    checkpointing: bool = False,
    max_ratio: float = float("inf"),
    skip_first: bool = False,
    each_reward: bool = False,
    processes: Processes = ALONE,
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
        processes: all of them get here. What a recipe takes from its batch (the price `worst` of a clip that cannot be
            measured, the spreads of `normalised_sum`) is that of the clips of all processes.

    Raises:
        ValueError: a reward that is not finite or has no gradient.
    """
    size = chunk_size or len(latents)
    places = [slice(start, min(start + size, len(latents))) for start in range(0, len(latents), size)]
    scorer: Any = recipe
    everyone = len(processes.gather(torch.zeros(len(latents), device=latents.device)))
    in_parts, whole = len(places) > 1 or everyone > len(latents), None
    if in_parts and hasattr(scorer, "total") and needs_its_batch(scorer):
        whole = scores_without_gradient(model, latents, condition, recipe, video, columns, places, num_frames, phase)
        whole = of_all(processes, whole)
    first = processes.index * len(latents)
    parts: list[Scored] = []
    has_gradient = False
    for clips in places:
        with phase("decode"), torch.set_grad_enabled(latents.requires_grad):
            leaf = latents[clips].detach().requires_grad_(latents.requires_grad)
            frames = decode_first(model, leaf, condition[clips], num_frames, checkpointing=checkpointing)
        with phase("reward"):
            scored = score_with_gradient(
                recipe,
                shown(video, frames, clips),
                some_columns(columns, clips),
                skip_first=skip_first,
                each_reward=each_reward,
                clips=slice(first + clips.start, first + clips.stop) if in_parts else None,
                whole=whole,
            )
        has_gradient = has_gradient or scored.pixel_grad_BTCHW is not None
        with phase("decode"):
            parts.append(carried_back(scored, frames, leaf))
        del frames, leaf
    scored = joined(parts)
    with phase("wait"):  # a process without one waits for those that have one
        having_M = processes.gather(torch.full((len(latents),), float(has_gradient), device=latents.device))
    if not having_M.any() and not has_gradient:
        raise no_gradient(scored)
    with phase("wait"):
        if in_parts:
            reward_M = priced_together(recipe, of_all(processes, scored)).reward_B
            scored = dataclasses.replace(scored, reward_B=reward_M[first : first + len(latents)])
        return within_ratio(scored, processes.gather, max_ratio)


def shown(video: Video, frames_BTCHW: Tensor, clips: slice) -> Video:
    """Some clips as the reward sees them: decoded frames, clamped, with what is known of the clips beside them."""
    return video[clips].to(frames_BTCHW.device).with_frames(frames_BTCHW.detach().clamp(0, 1))


def scores_without_gradient(
    model: VideoModel,
    latents: Tensor,
    condition: Condition,
    recipe: Scorer,
    video: Video,
    columns: dict[str, Any],
    places: list[slice],
    num_frames: int | None,
    phase: Phases,
) -> Scored:
    """Scores of the whole batch, for a recipe whose gradients hang on it."""
    parts = []
    for clips in places:
        with phase("decode"), torch.no_grad():
            frames = decode_first(model, latents[clips], condition[clips], num_frames)
        with phase("reward"):
            parts.append(score(recipe, shown(video, frames, clips), some_columns(columns, clips))[0])
    return joined(parts)


def carried_back(scored: Scored, frames_BTCHW: Tensor, leaf: Tensor) -> Scored:
    """The scores with their gradient at the latents `leaf` in place of that at the pixels."""
    latent_grad = carry_back(frames_BTCHW, leaf, scored.pixel_grad_BTCHW)
    beyond_B = ((frames_BTCHW < 0) | (frames_BTCHW > 1)).flatten(1).float().mean(1)
    return dataclasses.replace(scored, pixel_grad_BTCHW=None, latent_grad=latent_grad, saturated_B=beyond_B)


def within_ratio(scored: Scored, everywhere: Callable[[Tensor], Tensor], max_ratio: float) -> Scored:
    """The gradients of clips above `max_ratio` times the median norm of all processes, scaled down to it."""
    norm_B, latent_grad = scored.pixel_grad_norm_B, scored.latent_grad
    assert norm_B is not None and latent_grad is not None
    norm_M, measurable_M = everywhere(norm_B), everywhere(scored.measurable_B.to(norm_B.device)) > 0
    factor_B = limit(norm_B, norm_M, measurable_M, max_ratio)
    limited = latent_grad * factor_B.to(latent_grad).view(-1, *[1] * (latent_grad.ndim - 1))
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

"""Sampling as a differentiable function: which steps carry gradient, and where the adapter is active.

Axes: B clips, S sampling steps.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainers.models.base import Condition, Schedule, VideoModel
from trainers.settings.oro import OROConfig

GRAD_STEPS = ("full", "last", "random", "early", "one_step")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """A sampled batch of clips.

    Args:
        latents: the clean latents at the end, with the graph of the steps that carry one.
        visited: the noisy latents that entered each step, detached.
        sigmas_S: their noise levels.
    """

    latents: Tensor
    visited: list[Tensor]
    sigmas_S: Tensor


def choose_grad_steps(
    mode: str, num_steps: int, k: int = 1, generator: torch.Generator | None = None
) -> tuple[int, ...]:
    """The steps whose forward carries graph, drawn once a rollout.

    Args:
        mode: `full` all; `last` the last k; `early` the first k; `random` k of them anywhere; `one_step` a single
            random one, whose predicted clean clip is decoded in place of the rollout's end.
        k: how many, at least 1; more than `num_steps` means all.

    Raises:
        ValueError: unknown mode or k < 1.
    """
    if k < 1:
        raise ValueError(f"grad_steps_k must be at least 1, got {k}")
    k = min(k, num_steps)
    if mode == "full":
        return tuple(range(num_steps))
    if mode == "last":
        return tuple(range(num_steps - k, num_steps))
    if mode == "early":
        return tuple(range(k))
    if mode in ("random", "one_step"):
        order = torch.randperm(num_steps, generator=generator).tolist()
        return tuple(sorted(order[: k if mode == "random" else 1]))
    raise ValueError(f"grad_steps must be one of {', '.join(GRAD_STEPS)}, got {mode}")


def recomputed(config: OROConfig, count: int) -> list[bool]:
    """Which of a step's `count` distances to the reference keep their input alone and are evaluated again in backward.

    The last regulariser of a step need not be: backward begins with it, when no other evaluation's graph is there.
    """
    last = count - 1 if config.denoising_weight == 0 else count
    return [config.gradient_checkpointing and i < last for i in range(count)]


def in_range(sigma: Tensor | float, sigma_range: tuple[float, float] | list[float]) -> bool:
    """Whether a noise level lies in the closed range [low, high], up to float32 rounding."""
    return sigma_range[0] - 1e-6 <= float(sigma) <= sigma_range[1] + 1e-6


def rollout(
    model: VideoModel,
    condition: Condition,
    schedule: Schedule,
    latents: Tensor,
    *,
    grad_steps: tuple[int, ...] = (),
    adapter_sigma_range: tuple[float, float] | list[float] = (0.0, 1.0),
    detach_input: bool = False,
    one_step: bool = False,
    checkpointing: bool = True,
) -> Rollout:
    """Sample from `latents` down the schedule.

    A step outside `grad_steps` adds its prediction as a constant: x_{i+1} = x_i + d_sigma v_i keeps the path through
    x_i, so that earlier steps still learn, and before the first of `grad_steps` there is no graph at all.

    Args:
        latents: the initial noise, the conditioning frame pinned.
        grad_steps: indices of the steps whose network evaluation carries graph; empty samples without grad.
        adapter_sigma_range: the LoRA acts at noise levels in this closed range and is scaled to zero elsewhere.
        detach_input: cut the graph at the network's input, so that each step learns from its own addition alone.
        one_step: stop at the single step of `grad_steps` and return the clean latents that it predicts.
        checkpointing: keep only each step's input and evaluate the network again in the backward pass.
    """
    assert not one_step or len(grad_steps) == 1
    visited: list[Tensor] = []
    num_clips = len(latents)

    def predict(latents: Tensor, index: int, checkpointing: bool = False) -> Tensor:
        sigma = schedule.sigmas[index]
        scale = 1.0 if in_range(sigma, adapter_sigma_range) else 0.0
        return predicted(
            model, latents, sigma.expand(num_clips), condition, adapter_scale=scale, checkpointing=checkpointing
        )

    for index in range(schedule.num_steps):
        visited.append(latents.detach())
        if index in grad_steps and torch.is_grad_enabled():
            source = latents.detach() if detach_input else latents
            prediction = predict(source, index, checkpointing)
        else:
            with torch.no_grad():
                prediction = predict(latents, index)
        if one_step and index in grad_steps:
            sigma_B = schedule.sigmas[index].expand(num_clips)
            latents = model.pin(model.predicted_clean(latents, prediction, sigma_B), condition)
            return Rollout(latents=latents, visited=visited, sigmas_S=schedule.sigmas[: index + 1])
        latents = model.step(latents, prediction, schedule, index, condition)
    return Rollout(latents=latents, visited=visited, sigmas_S=schedule.sigmas[:-1])


def predicted(
    model: VideoModel,
    latents: Tensor,
    sigma_B: Tensor,
    condition: Condition,
    *,
    adapter_scale: float = 1.0,
    checkpointing: bool = False,
) -> Tensor:
    """The model's prediction; with checkpointing its inputs alone are kept and it is evaluated again in backward."""

    def predict(latents: Tensor) -> Tensor:  # with the adapter's scale inside: the second evaluation must see the same
        return model.predict(latents, sigma_B, condition, adapter_scale=adapter_scale)

    if not (checkpointing and torch.is_grad_enabled()):
        return predict(latents)
    prediction = checkpoint(predict, latents, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(prediction, Tensor)
    return prediction


@torch.no_grad()
def sample(
    model: VideoModel,
    condition: Condition,
    generators: list[torch.Generator] | torch.Generator,
    *,
    num_steps: int,
    adapter_sigma_range: tuple[float, float] | list[float] = (0.0, 1.0),
) -> Tensor:
    """Generate clips without grad: frames_BTCHW in [0, 1]. Equal to the stock pipeline with the same generators."""
    schedule = model.schedule(num_steps, condition)
    latents = model.initial_latents(condition, generators)
    trajectory = rollout(model, condition, schedule, latents, adapter_sigma_range=adapter_sigma_range)
    return model.decode(trajectory.latents, condition).clamp(0, 1)

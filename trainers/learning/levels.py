"""The noise levels at which something is learned: what no level can teach is said before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainers.learning.rollout import choose_grad_steps, in_range
from trainers.models.base import VideoModel
from trainers.settings.common import ModelConfig
from trainers.settings.options import shared_levels
from trainers.settings.oro import OROConfig

JUST_BELOW = 1e-6


def why_adapter_is_off(config: ModelConfig, sigmas: Sequence[float]) -> str | None:
    """What is wrong where the adapter is off at every noise level of the rollout, None where it acts."""
    if any(in_range(sigma, config.adapter_sigma_range) for sigma in sigmas):
        return None
    return (
        f"adapter_sigma_range {config.adapter_sigma_range} holds none of the rollout's noise levels {shown(sigmas)}: "
        "no clip would show what is learned; widen it, or raise num_inference_steps"
    )


def check_adapter_acts(config: ModelConfig, sigmas: Sequence[float]) -> None:
    """Raise ValueError where the adapter is off at every noise level of the rollout."""
    why = why_adapter_is_off(config, sigmas)
    if why is not None:
        raise ValueError(why)


def learning_steps(config: OROConfig, sigmas: Sequence[float]) -> list[int]:
    """The rollout's steps that the reward can teach: they may carry gradient, and the adapter acts in them."""
    steps, drawn = len(sigmas), config.grad_steps in ("random", "one_step")
    carries = range(steps) if drawn else choose_grad_steps(config.grad_steps, steps, config.grad_steps_k)
    return [i for i in carries if in_range(sigmas[i], config.adapter_sigma_range)]


def reference_steps(config: OROConfig, sigmas: Sequence[float]) -> list[int]:
    """The rollout's steps at which ORO takes the distance to the reference: where the adapter acts as well."""
    return [
        i
        for i, sigma in enumerate(sigmas)
        if in_range(sigma, config.reference_sigma_range) and in_range(sigma, config.adapter_sigma_range)
    ]


def why_oro_cannot_learn(config: OROConfig, sigmas: Sequence[float]) -> str | None:
    """What is wrong where the reward can teach at no noise level of the rollout, None where it can."""
    off = why_adapter_is_off(config, sigmas)
    if off is not None or config.reward_weight == 0 or learning_steps(config, sigmas):
        return off
    return (
        f"grad_steps {config.grad_steps} carries gradient only where adapter_sigma_range {config.adapter_sigma_range} "
        f"switches the adapter off, of the noise levels {shown(sigmas)}: the reward would teach nothing; widen it, or "
        "choose other grad_steps"
    )


def oro_shortfalls(config: OROConfig, sigmas: Sequence[float]) -> list[str]:
    """What a run of ORO asks for and gets in part or not at all, a line each."""
    steps, active, said = learning_steps(config, sigmas), config.adapter_sigma_range, []
    if config.reward_weight > 0 and config.grad_steps in ("random", "one_step") and len(steps) < len(sigmas):
        off = len(sigmas) - len(steps)
        said.append(f"the adapter is off at {off} of the {len(sigmas)} steps that grad_steps {config.grad_steps} draws")
    if config.reference_weight > 0 and not reference_steps(config, sigmas):
        said.append(
            f"reference_weight has no effect: reference_sigma_range {config.reference_sigma_range} holds none of the "
            f"rollout's noise levels {shown(sigmas)} at which the adapter acts"
        )
    trained = shared_levels(config.denoising_sigma_range, active)
    if config.denoising_weight > 0 and trained is not None and trained != config.denoising_sigma_range:
        said.append(f"the denoising loss is taken at noise levels {trained} alone, where the adapter acts")
    return said


def oro_experts_left_out(config: OROConfig, model: VideoModel, sigmas: Sequence[float]) -> list[str]:
    """Files of the networks whose LoRA no step of ORO teaches.

    The distance to the reference teaches nothing new: of a fresh LoRA it is 0, and so is its gradient.
    """
    points = [sigmas[i] for i in learning_steps(config, sigmas)] if config.reward_weight > 0 else []
    if config.reference_weight > 0 and config.lora_path:
        points += [sigmas[i] for i in reference_steps(config, sigmas)]
    levels = shared_levels(config.denoising_sigma_range, config.adapter_sigma_range)
    return experts_left_out(model, points, [levels] if config.denoising_weight > 0 and levels else [])


def experts_left_out(
    model: VideoModel, points: Sequence[float] = (), ranges: Sequence[Sequence[float]] = ()
) -> list[str]:
    """Files of the networks that none of these noise levels visits, of a model that has several.

    Args:
        points: single noise levels.
        ranges: [low, high] that noise levels are drawn from.
    """
    if len(model.networks) < 2:
        return []
    ends = [level for low, high in ranges for level in (low, max(low, high - JUST_BELOW))]
    visited = {model.network_at(sigma) for sigma in [*points, *ends]}
    return [file for file in model.networks if file not in visited]


def about_experts(files: Sequence[str]) -> list[str]:
    """What is said of experts that are left out, a line each."""
    return [
        f"the expert whose LoRA is {file} gets no gradient: no step that learns visits its noise levels, and its LoRA "
        "stays what it was at the start"
        for file in files
    ]


def shown(sigmas: Sequence[float]) -> str:
    """Noise levels in a line."""
    return ", ".join(f"{sigma:.3f}" for sigma in torch.as_tensor(sigmas).tolist())

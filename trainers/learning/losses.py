"""What keeps a model near itself: the distance to the reference and the denoising loss on data.

Axes: B clips; latents as the model's family keeps them.
"""

from __future__ import annotations

import contextlib
import dataclasses

import torch
from torch import Tensor

from trainers.learning.rollout import predicted
from trainers.models.base import Condition, VideoModel


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where the broadcastable 0/1 `mask` is 1."""
    mask = mask.to(values).expand_as(values)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def told(condition: Condition) -> Condition:
    """The condition without guidance: what predicts from it is the network told the prompt, and no mixture of two.

    Clips are noised data, and E[noise - x_0 | x_sigma, prompt] is what such a network gives. A guided prediction
    free + w (told - free) is no such mean: regressed on it, the network would learn to undo the guidance. A network
    that is distilled to take guidance as an input is told guidance 1, that of the model it was distilled from.
    """
    return dataclasses.replace(
        condition, guidance_scale=1.0, negative_BLD=None, negative_mask_BL=None, negative_pooled_BD=None
    )


def reference_distance(
    model: VideoModel, latents: Tensor, sigma_B: Tensor, condition: Condition, *, checkpointing: bool = False
) -> Tensor:
    """|v_on - v_off|^2: how far the adapter moves the prediction at given noisy latents.

    Both are predictions of the condition's own guidance: along a guided rollout the distance is that of the guided
    samplers. The gradient goes through the adapter-on prediction alone, which `checkpointing` evaluates again in
    backward. Only latents that the model denoises count.
    """
    latents = latents.detach()
    with torch.no_grad():
        off = model.predict(latents, sigma_B, condition, adapter_scale=0.0)
    on = predicted(model, latents, sigma_B, condition, checkpointing=checkpointing)
    return masked_mean((on - off) ** 2, model.free_mask(condition))


def denoising_loss(
    model: VideoModel,
    clean: Tensor,
    condition: Condition,
    *,
    sigma_range: tuple[float, float] | list[float],
    generators: list[torch.Generator],
    weight_B: Tensor | None = None,
) -> Tensor:
    """The family's own training loss on clean latents: w |prediction - target|^2, sigma uniform in `sigma_range`.

    The prediction is the one without guidance, whatever the condition samples with (`told`).

    Args:
        clean: encoded data.
        generators: one per clip; each draws its noise level and its noise.
        weight_B: what each clip's loss is multiplied by; by default 1.
    """
    condition = told(condition)
    noisy, noise, sigma_B = noised(model, clean, condition, sigma_range=sigma_range, generators=generators)
    prediction = model.predict(noisy, sigma_B, condition)
    error = (prediction - model.training_target(clean, noise)) ** 2
    if weight_B is not None:
        error = error * weight_B.to(error).view(-1, *[1] * (error.ndim - 1))
    return masked_mean(error, model.free_mask(condition))


def contrast_loss(
    model: VideoModel,
    clean: Tensor,
    condition: Condition,
    *,
    sigma_range: tuple[float, float] | list[float],
    generators: list[torch.Generator],
    advantage_B: Tensor,
    policy: contextlib.AbstractContextManager[None],
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Regression on good samples and away from bad ones, from both sides of the policy v_o that made them:

        (1 + A)/2 |v_+ - target|^2 + (1 - A)/2 |v_- - target|^2,    v_+- = v_o +- beta (v - v_o)

    Its gradient at v = v_o is 2 A beta (v_o - target) dv, and its minimum v = v_o + E[A (target - v_o)] / beta: a
    sample of A = 0 teaches nothing, and no weight, however negative, drives v away without bound. Both predictions are
    those without guidance (`told`).

    Args:
        advantage_B: A of each clip, in [-1, 1].
        policy: inside it the model is the one that made the clips.
        beta: > 0; smaller goes further from v_o.

    Returns:
        The loss, and |v - v_o|^2 without graph.

    Reference: Zheng et al., DiffusionNFT: Online Diffusion Reinforcement with Forward Process (2025), eq. 5.
    """
    condition = told(condition)
    noisy, noise, sigma_B = noised(model, clean, condition, sigma_range=sigma_range, generators=generators)
    with policy, torch.no_grad():
        old = model.predict(noisy, sigma_B, condition)
    moved = beta * (model.predict(noisy, sigma_B, condition) - old)
    rest = old - model.training_target(clean, noise)
    good = (1 + advantage_B.to(rest).view(-1, *[1] * (rest.ndim - 1))) / 2
    error = good * (rest + moved) ** 2 + (1 - good) * (rest - moved) ** 2
    mask = model.free_mask(condition)
    return masked_mean(error, mask), masked_mean((moved.detach() / beta) ** 2, mask)


def noised(
    model: VideoModel,
    clean: Tensor,
    condition: Condition,
    *,
    sigma_range: tuple[float, float] | list[float],
    generators: list[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents at noise levels uniform in `sigma_range`, the conditioning frame pinned; the noise; sigma_B."""
    low, high = sigma_range
    sigma_B = torch.stack([low + (high - low) * torch.rand((), generator=generator) for generator in generators])
    noise = model.initial_latents(condition, generators)
    return model.pin(model.add_noise(clean, noise, sigma_B), condition), noise, sigma_B

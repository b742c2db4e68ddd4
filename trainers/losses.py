"""What keeps a model near itself: the distance to the reference and the denoising loss on data.

Axes: B clips; latents as the model's family keeps them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.models.base import Condition, VideoModel
from trainers.rollout import predicted


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where the broadcastable 0/1 `mask` is 1."""
    mask = mask.to(values).expand_as(values)
    return (values * mask).sum() / mask.sum().clamp(min=1)


def reference_distance(
    model: VideoModel, latents: Tensor, sigma_B: Tensor, condition: Condition, *, checkpointing: bool = False
) -> Tensor:
    """|v_on - v_off|^2: how far the adapter moves the prediction at given noisy latents.

    The gradient goes through the adapter-on prediction alone, which `checkpointing` evaluates again in backward.
    Only latents that the model denoises count.
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
    checkpointing: bool = False,
) -> Tensor:
    """The family's own training loss on clean latents: w |prediction - target|^2, sigma uniform in `sigma_range`.

    Args:
        clean: encoded data.
        generators: one a clip; each draws its noise level and its noise.
        weight_B: what each clip's loss is multiplied by; by default 1.
        checkpointing: evaluate the network again in backward.
    """
    noisy, noise, sigma_B = noised(model, clean, condition, sigma_range=sigma_range, generators=generators)
    prediction = predicted(model, noisy, sigma_B, condition, checkpointing=checkpointing)
    error = (prediction - model.training_target(clean, noise)) ** 2
    if weight_B is not None:
        error = error * weight_B.to(error).view(-1, *[1] * (error.ndim - 1))
    return masked_mean(error, model.free_mask(condition))


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
    sigma_B = torch.stack([low + (high - low) * torch.rand((), generator=one) for one in generators])
    noise = model.initial_latents(condition, generators)
    return model.pin(model.add_noise(clean, noise, sigma_B), condition), noise, sigma_B

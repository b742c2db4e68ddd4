"""What decoding and going back to the latents needs in memory, found on tensors without data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainers.learning.decode import carry_back
from trainers.memory_meter import MemoryMeter, Workspace
from trainers.models.base import Condition


def there_and_back(model: Any, latents: Tensor, condition: Condition, *, checkpointing: bool) -> None:
    """Decode as `learning.decode` does, and go back with no gradient in particular where the latents have a graph."""
    with torch.set_grad_enabled(latents.requires_grad):
        leaf = latents.detach().requires_grad_(latents.requires_grad)
        frames = model.decode(leaf, condition, checkpointing=checkpointing)
    pixel_grad = torch.zeros_like(frames.detach().clamp(0, 1))
    carry_back(frames, leaf, pixel_grad)


def decode_peak(model: Any, latents: Tensor, condition: Condition, *, checkpointing: bool, workspace: Workspace) -> int:
    """Bytes beside the latents at the most."""
    with MemoryMeter(workspace) as meter:
        there_and_back(model, latents, condition, checkpointing=checkpointing)
    return meter.peak_bytes

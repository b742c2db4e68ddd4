"""From latents to pixels under gradient, with bounded memory.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.models.base import Condition, VideoModel


def straight_through_clamp(frames: Tensor) -> Tensor:
    """Clamp to [0, 1] forward; backward is the identity, so that a saturated pixel can still be pulled back."""
    return frames + (frames.clamp(0, 1) - frames).detach()


def saturated_fraction(frames: Tensor) -> float:
    """Share of the values outside [0, 1]."""
    with torch.no_grad():
        return ((frames < 0) | (frames > 1)).float().mean().item()


def decode_clips(
    model: VideoModel, latents: Tensor, condition: Condition, *, chunk_size: int = 0, checkpointing: bool = False
) -> Tensor:
    """Decode a batch: frames_BTCHW around [0, 1], not clamped.

    Args:
        chunk_size: clips decoded at a time; 0 is all of them.
        checkpointing: keep few activations and evaluate the decoder again in backward, by the family's own pieces.
    """
    size = chunk_size or len(latents)
    chunks = []
    for start in range(0, len(latents), size):
        some, what = latents[start : start + size], condition[start : start + size]
        if checkpointing and torch.is_grad_enabled():
            chunks.append(model.decode(some, what, checkpointing=True))
        else:
            chunks.append(model.decode(some, what))
    return torch.cat(chunks)

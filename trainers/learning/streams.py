"""The streams of random numbers of a run, each with its number, and what is drawn from them.

A number never changes: the clips of a seed would be others. A new purpose takes a number of its own.
"""

from __future__ import annotations

import enum

import numpy as np
import torch


class Stream(enum.IntEnum):
    """The purposes that random numbers are drawn for. No two share a draw."""

    NOISE = 0
    """The noise that a clip is sampled from, and its first frame's latents."""
    CHOICES = 1
    """A step's own choices, the same on every process: which denoising steps carry gradient, which give a distance."""
    DATA_NOISE = 2
    """Noise levels and noise on clean latents, for the denoising loss."""
    REFERENCE_NOISE = 3
    """The same for the distance to the reference of a weighted regression."""
    PHYSICS_NOISE = 4
    """The same for the clean clip whose physics is measured."""
    PROMPT = 5
    """The first frame's latents that the samples of a prompt share."""
    HELD_OUT = 7
    """Held-out clips: they never share their noise with training."""
    COMMITMENT = 11
    """Clips whose motion is about to be measured over the noise levels."""
    COMPLETIONS = 12
    """Their completions: this number for the first of the first level, one more for each that follows."""


def clip_generators(seed: int, numbers: list[int], stream: int = Stream.NOISE) -> list[torch.Generator]:
    """One source of noise per clip, decided by the run's seed, the clip's number and the purpose alone."""
    states = [np.random.SeedSequence([seed, number, stream]).generate_state(1, np.uint64)[0] for number in numbers]
    return [torch.Generator().manual_seed(int(state)) for state in states]


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch goes through `count` things."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()

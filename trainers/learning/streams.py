"""The streams of random numbers of a run, each with its number."""

from __future__ import annotations

NOISE, CHOICES, DATA_NOISE = 0, 1, 2
"""Streams of random numbers: of generated clips, of a step's own choices, of the noise on clean latents."""

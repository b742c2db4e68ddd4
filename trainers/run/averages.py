"""The moving average of the trained weights, and weights held for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainers.run.checkpoint import TrainState
from trainers.run.processes.parallel import gathered


def start_ema(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The moving average of weights that have not moved yet."""
    with gathered(weights.values()):
        return {name: weight.detach().clone() for name, weight in weights.items()}


def update_ema(ema: dict[str, Tensor], weights: dict[str, nn.Parameter], decay: float, step: int) -> None:
    """ema <- d ema + (1 - d) weights with d = min(decay, (1 + step) / (10 + step)): a young average forgets faster."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad(), gathered(weights.values() if ema else []):
        for name, average in ema.items():
            average.lerp_(weights[name].to(average), 1 - decay)


@contextlib.contextmanager
def holding(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> Iterator[None]:
    """Inside the block the LoRA holds these values, where there are any; all processes must enter."""

    def exchange(values: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad(), gathered(weights.values() if values else [], write=True):
            saved = {name: weights[name].detach().clone() for name in values}
            for name, value in values.items():
                weights[name].copy_(value)
        return saved

    saved = exchange(values)
    try:
        yield
    finally:
        exchange(saved)


def averaged(state: TrainState) -> contextlib.AbstractContextManager[None]:
    """Inside the block the LoRA holds its moving average, where there is one; all processes must enter."""
    return holding(state.weights, state.ema)

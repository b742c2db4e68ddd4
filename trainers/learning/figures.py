"""Figures of scored clips, gathered over the processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from trainers.learning.scoring import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """What a loss asks of the other processes; by default there are none.

    Args:
        index: this process's own.
        gather: one value per clip of this process -> those of all processes, in their order; all must call.
    """

    index: int = 0
    gather: Callable[[Tensor], Tensor] = torch.Tensor.float

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        """Those that run under accelerate."""

        def gather(value_B: Tensor) -> Tensor:
            everything: Any = accelerator.gather(value_B.contiguous())
            return everything.float()

        return cls(index=accelerator.process_index, gather=gather)


ALONE = Processes()
"""Of a single process."""


def of_all(processes: Processes, scored: Scored) -> Scored:
    """The scores of the clips of all processes, in their order; all must call. Reasons stay behind."""
    reward_M = processes.gather(scored.reward_B)
    return Scored(
        reward_B=reward_M,
        terms={name: processes.gather(value_B) for name, value_B in scored.terms.items()},
        measurable_B=processes.gather(scored.measurable_B),
        reasons=[None] * len(reward_M),
        visibility_B=None if scored.visibility_B is None else processes.gather(scored.visibility_B),
    )


def reward_metrics(processes: Processes, scored: Scored) -> dict[str, float]:
    """Figures over the clips of all processes; a term's mean and spread are over the clips that could be measured."""
    reward_B = processes.gather(scored.reward_B)
    metrics = {
        "reward": reward_B.mean().item(),
        "reward_std": reward_B.std(correction=0).item(),
        "measurable": processes.gather(scored.measurable_B).mean().item(),
    }
    for name, value_B in scored.terms.items():
        value_B = processes.gather(value_B)
        value_B = value_B[value_B.isfinite()]
        if len(value_B):
            metrics[f"rewards/{name}/mean"] = value_B.mean().item()
            metrics[f"rewards/{name}/std"] = value_B.std(correction=0).item()
    if scored.pixel_grad_norm_B is not None and scored.dropped_B is not None:
        norm_B = processes.gather(scored.pixel_grad_norm_B)
        metrics |= {"pixel_grad_norm": norm_B.median().item(), "pixel_grad_norm_max": norm_B.max().item()}
        metrics["dropped_gradients"] = processes.gather(scored.dropped_B).sum().item()
    if scored.saturated_B is not None:
        metrics["saturated"] = processes.gather(scored.saturated_B).mean().item()
    for name, value_B in scored.gradient_figures.items():
        value_B = processes.gather(value_B)
        value_B = value_B[value_B.isfinite()]
        if len(value_B):
            metrics[name] = value_B.median().item()
    return metrics

"""Figures of scored clips, gathered over the processes."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import Tensor

from trainers.learning.scoring import Scored


def gather(accelerator: Accelerator, value_B: Tensor) -> Tensor:
    """One value a clip of all processes, in their order; all must call."""
    everything: Any = accelerator.gather(value_B.contiguous())
    return everything.float()


def reward_metrics(accelerator: Accelerator, scored: Scored) -> dict[str, float]:
    """Figures over the clips of all processes; a term's mean and spread are over the clips that could be measured."""

    def gathered(value_B: Tensor) -> Tensor:
        return gather(accelerator, value_B)

    reward_B = gathered(scored.reward_B)
    metrics = {
        "reward": reward_B.mean().item(),
        "reward_std": reward_B.std(correction=0).item(),
        "measurable": gathered(scored.measurable_B).mean().item(),
    }
    for name, value_B in scored.terms.items():
        value_B = gathered(value_B)
        value_B = value_B[value_B.isfinite()]
        if len(value_B):
            metrics[f"rewards/{name}/mean"] = value_B.mean().item()
            metrics[f"rewards/{name}/std"] = value_B.std(correction=0).item()
    if scored.pixel_grad_norm_B is not None and scored.dropped_B is not None:
        norm_B = gathered(scored.pixel_grad_norm_B)
        metrics |= {"pixel_grad_norm": norm_B.median().item(), "pixel_grad_norm_max": norm_B.max().item()}
        metrics["dropped_gradients"] = gathered(scored.dropped_B).sum().item()
    if scored.saturated_B is not None:
        metrics["saturated"] = gathered(scored.saturated_B).mean().item()
    for name, value_B in scored.gradient_figures.items():
        value_B = gathered(value_B)
        value_B = value_B[value_B.isfinite()]
        if len(value_B):
            metrics[name] = value_B.median().item()
    return metrics

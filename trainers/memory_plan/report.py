"""A plan of memory in lines, with what cheaper settings would make of its peak."""

from __future__ import annotations

import dataclasses
from typing import Any

from trainers.memory_plan.blank import C, Step
from trainers.memory_plan.meter import Workspace
from trainers.memory_plan.plan import GIB, Plan, Planner
from trainers.models.sizes import Size

CHEAPER: tuple[dict[str, Any], ...] = (
    {"bf16": True},
    {"offload_text_encoder": True},
    {"block_checkpointing": True},
    {"offload_transformer": True, "block_checkpointing": True},
    {"gradient_checkpointing": True},
    {"decode_checkpointing": True},
    {"per_device_train_batch_size": 1},
    {"sampling_batch_size": 1},
    {"reference_steps": 1},
    {"detach_negative": True},
    {"grad_steps": "last", "grad_steps_k": 1},
)
"""Settings that lower the peak, of all trainers."""
WORTH = 0.99
"""A setting is reported where the peak falls to less than this share."""


def cheaper(config: C) -> list[tuple[str, C]]:
    """Settings that lower the peak, in words, with the config that has them."""
    known = {field.name for field in dataclasses.fields(config)}
    suggestions = []
    for changes in CHEAPER:
        if known.issuperset(changes) and any(getattr(config, name) != value for name, value in changes.items()):
            words = ", ".join(f"{name} {value}" for name, value in changes.items())
            suggestions.append((words, dataclasses.replace(config, **changes)))
    return suggestions


def report(size: Size, config: C, step: Step[C], memory_gib: float, *, workspace: Workspace | None = None) -> str:
    """The plan in lines, and what each cheaper setting would make of its peak.

    Raises:
        ValueError: frames or sizes that the autoencoder does not take, a mode that the model has not.
    """
    planner = Planner(size, step, workspace)
    plan = planner.plan(config)
    lines = [
        f"{name:29} {value / GIB:8.2f} GiB" + (f", {plan.weights[name]:,} weights" if plan.weights.get(name) else "")
        for name, value in plan.held.items()
    ]
    lines += [f"{'peak of ' + name:29} {value / GIB:8.2f} GiB beside them" for name, value in plan.phases.items()]
    fits = plan.peak_bytes < memory_gib * GIB
    verdict = "fits in" if fits else "does not fit in"
    lines.append(f"{'peak':29} {plan.peak_bytes / GIB:8.2f} GiB: {verdict} {memory_gib:.4g} GiB")
    for words, cheaper_config in cheaper(config):
        if words.startswith("decode_checkpointing") and not _decides(plan, "decode"):
            continue
        try:
            peak = planner.plan(cheaper_config).peak_bytes
        except ValueError:  # not every number of frames is one that the autoencoder takes
            continue
        if peak < WORTH * plan.peak_bytes:
            lines.append(f"  with {words}: {peak / GIB:.2f} GiB")
    return "\n".join(lines)


def _decides(plan: Plan, phase: str) -> bool:
    """Whether the peak would fall to less than `WORTH` if a phase cost nothing."""
    figures = [value for name, value in plan.phases.items() if name != phase]
    return dataclasses.replace(plan, phases={"others": max(figures)}).peak_bytes < WORTH * plan.peak_bytes

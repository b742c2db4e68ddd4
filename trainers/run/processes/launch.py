"""What the launch configuration asks for, against the trainer's own settings: where they disagree, one line says so.

`accelerate launch` hands its configuration on by the environment. Precision, accumulation and clipping belong to the
trainer: the frozen networks are float32 or bfloat16 (`bf16`), the LoRA is float32 always.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

SHARDED_OTHERWISE = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}
"""Switches of what no trainer honours."""


def settle_launch(
    *,
    bf16: bool,
    gradient_accumulation_steps: int,
    max_grad_norm: float,
    environment: MutableMapping[str, str] | None = None,
) -> None:
    """Check the launch configuration and leave in it what accelerate must read: nothing that acts a second time.

    Args:
        bf16, gradient_accumulation_steps, max_grad_norm: the trainer's settings.
        environment: that of this process.

    Raises:
        ValueError: the configuration asks for something else, or for what the trainers do not have.
    """
    found = os.environ if environment is None else environment
    for switch, name in SHARDED_OTHERWISE.items():
        if found.get(switch, "false").lower() in ("true", "1"):
            raise ValueError(
                f"the launch configuration asks for {name}, which the trainers do not use: launch with "
                "configs/accelerate/zero3.yaml to shard the transformer, or with multi_gpu.yaml to share out clips"
            )
    dynamo = found.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if dynamo.lower() != "no":
        raise ValueError(
            f"dynamo_backend must be no in the launch configuration, got {dynamo.lower()}: set torch_compile: true in "
            "the trainer's config"
        )
    _check_precision(found.get("ACCELERATE_MIXED_PRECISION", "no").lower(), bf16=bf16)
    _check_same(found, "GRADIENT_ACCUMULATION_STEPS", gradient_accumulation_steps, "gradient_accumulation_steps")
    _check_same(found, "GRADIENT_CLIPPING", max_grad_norm, "max_grad_norm")
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):
        if name in found:  # accelerate would cast, or divide the loss, once more
            found[name] = "no" if name.endswith("PRECISION") else "1"


def settle_deepspeed(settings: dict[str, Any], *, bf16: bool, accumulation: int, max_grad_norm: float) -> None:
    """The same of the file that `deepspeed_config_file` names, as accelerate has read it.

    Raises:
        ValueError: as `settle_launch`.
    """
    for section in ("optimizer", "scheduler"):
        if section in settings:
            raise ValueError(
                f"the DeepSpeed file must have no section {section}: the trainer's config has learning_rate, "
                "weight_decay and lr_scheduler_type"
            )
    for section, kind in (
        ("bf16", "bf16"),
        ("bfloat16", "bf16"),
        ("fp16", "fp16"),
        ("amp", "amp"),
        ("torch_autocast", "amp"),
    ):
        part = settings.get(section)
        if isinstance(part, Mapping) and str(part.get("enabled", "false")).lower() == "true":
            _check_precision(kind, bf16=bf16)
            settings[section] = {"enabled": False}
    _agree("gradient_accumulation_steps", settings.get("gradient_accumulation_steps"), accumulation)
    _agree("gradient_clipping", settings.get("gradient_clipping"), max_grad_norm, "max_grad_norm")


def _check_precision(asked: str, *, bf16: bool) -> None:
    if asked in ("no", "fp32") or (asked == "bf16" and bf16):
        return
    if asked == "bf16":
        raise ValueError(
            "mixed_precision is bf16 in the launch configuration, but bf16 is false in the trainer's config: set bf16: "
            'true there (frozen networks in bfloat16, the LoRA in float32), or mixed_precision: "no"'
        )
    raise ValueError(
        f'mixed_precision must be no or bf16 in the launch configuration, got {asked}: set it to "no", and bf16: true '
        "in the trainer's config for frozen networks in bfloat16"
    )


def _check_same(found: Mapping[str, str], name: str, own: float, own_name: str) -> None:
    _agree(name.lower(), found.get(f"ACCELERATE_{name}"), own, own_name)


def _agree(name: str, asked: Any, own: float, own_name: str = "gradient_accumulation_steps") -> None:
    """Raise ValueError where the launcher names another number; its default is 1 or none."""
    try:
        number = float(asked)
    except (TypeError, ValueError):  # auto, none or nothing
        return
    if number == own or (number == 1 and name == "gradient_accumulation_steps") or number == 0:
        return
    raise ValueError(
        f"{name} is {number:g} in the launch configuration, but {own_name} is {own:g} in the trainer's config: set it "
        "in the trainer's config alone"
    )

"""Reading weight files: safetensors or plain tensors, with errors that say what to do.

Nothing here unpickles code: `.safetensors` by the safetensors library, everything else with `weights_only=True`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

EMBEDDED = Path(__file__).resolve().parents[2] / "data" / "drops" / "estimators"
"""Where the embedded estimators lie in a checkout."""

Shape = TypeVar("Shape")


def read_config(folder: Path, thing: str) -> dict[str, Any]:
    """The `config.json` of a folder of weights.

    Raises:
        ValueError: the folder or the file is missing, or is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{thing}: expected {path}, found none: give a folder with config.json and model.safetensors")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{thing}: {path} is not JSON ({error}): restore the file") from error
    if not isinstance(config, dict):
        raise ValueError(f"{thing}: {path} must hold a JSON object, got {type(config).__name__}: restore the file")
    return config


def shape_from_config(
    kind: Callable[..., Shape], architecture: str, config: Mapping[str, Any], thing: str, source: Path
) -> Shape:
    """A network's shape, a dataclass of numbers and tuples, from its `config.json`.

    Raises:
        ValueError: a config of another architecture, or with unknown fields.
    """
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
    if values.pop("architecture", None) != architecture:
        raise ValueError(
            f"{thing}: {source} must say architecture {architecture}, got {config.get('architecture')!r}: "
            f"give a folder written by trainers.pretrain.{thing}, or name one of the known models"
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{thing}: {source} has a field that is not known: {error}") from error


def read_weights(path: Path, thing: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pth` or `.pt` file, on the CPU.

    Raises:
        ValueError: the file is missing, corrupt, or holds anything but named tensors.
    """
    if not path.is_file():
        raise ValueError(f"{thing}: weights file {path} does not exist: check the path or fetch the file again")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ValueError(
            f"{thing}: cannot read weights file {path} of {path.stat().st_size} bytes ({reason}): fetch it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{thing}: {path} must hold named tensors, got {type(state).__name__}: give a state dict")
    return dict(state)


def load_into(module: nn.Module, state: Mapping[str, Tensor], thing: str, source: str | Path) -> None:
    """Load `state` into `module`; names, shapes and finiteness must be right.

    Raises:
        ValueError: names missing or unexpected, a wrong shape, or numbers that are not finite.
    """
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(
            f"{thing}: {source} is for another network: expected {len(wanted)} tensors, got {len(state)}, "
            f"missing {missing[:2]}, unexpected {extra[:2]}: give weights of this architecture"
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{thing}: {name} in {source} must have shape {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}: "
                "give weights of this architecture"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{thing}: {name} in {source} holds NaN or infinity: fetch or train the weights again")
    module.load_state_dict(dict(state))


def freeze(module: nn.Module) -> None:
    """No gradient to the weights and no training mode; gradients to the inputs still flow."""
    module.requires_grad_(False)
    module.eval()


def at_least_float(tensor: Tensor) -> Tensor:
    """Out of half precision; float32 and float64 stay as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor

"""The global generators of Python, numpy and torch, as plain values."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def get_rng() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's global generators, as plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  libraries draw from it
    return {
        "python": list(random.getstate()[1]),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng(state: dict[str, Any]) -> None:
    """Go on where `get_rng` was called."""
    random.setstate((3, tuple(state["python"]), None))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])

"""What this process holds: memory, open files, and the global generators."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch


def release_memory() -> None:
    """Give the system back what evaluations and checkpoints have freed, and the allocators of C and Arrow keep."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
        if trim is not None:
            trim(0)


def memory_gb() -> float:
    """The GPU's peak so far, or without one what the process holds; NaN where the system does not say."""
    return torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else held_gb()


def held_gb() -> float:
    """The memory that the process holds and nobody can take from it, in RAM or swapped out; NaN where the system does
    not say. Mapped files, such as libraries, are left out: their pages come and go as the system likes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    kilobytes = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.strip()}
    own = [kilobytes[name] for name in ("RssAnon", "RssShmem", "VmSwap") if name in kilobytes]
    return sum(map(int, own)) * 1024 / 1e9 if own else float("nan")


def open_files() -> float:
    """How many files, pipes and sockets the process holds open, NaN where the system does not say."""
    try:
        return float(len(os.listdir("/proc/self/fd")))
    except OSError:
        return float("nan")


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

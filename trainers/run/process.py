"""What this process holds: memory and open files."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

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

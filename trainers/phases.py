"""How long each part of a step takes, and how much memory the process holds."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch


class Phases:
    """Seconds of each phase since they were last taken.

    A GPU works on while Python goes ahead: it is waited for at both ends of a phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = _now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + _now() - started

    def take(self) -> dict[str, float]:
        """`seconds/NAME` of each phase; begins anew."""
        taken = {f"seconds/{name}": value for name, value in self.seconds.items()}
        self.seconds = {}
        return taken


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def memory_gb() -> float:
    """The GPU's peak so far, or without one the process's resident memory; NaN where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1e9
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9

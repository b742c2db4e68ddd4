"""How long each part of a step takes, and what the process holds: memory and open files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Phases:
    """Seconds of each phase since they were last taken. A phase within another counts for itself alone.

    A GPU works on while Python goes ahead: it is waited for at both ends of a phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within: list[float] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = _now()
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = _now() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + whole - self._within.pop()
            if self._within:
                self._within[-1] += whole

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A part of a phase, which has no clock of its own. The plan of memory tells it apart."""
        return contextlib.nullcontext()

    def take(self) -> dict[str, float]:
        """`seconds/NAME` of each phase; begins anew."""
        taken = {f"seconds/{name}": value for name, value in self.seconds.items()}
        self.seconds = {}
        return taken


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

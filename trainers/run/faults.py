"""What can go wrong while a run goes on, and how all processes end together.

A process that fails leaves with its message, and the launcher ends the others; one that hangs is ended by its own
watchdog; a process that is asked to stop (SIGTERM, as schedulers pre-empt) makes all of them save and stop
after the step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from reward_physics.video import Video

STOPPED = 128 + signal.SIGTERM
"""Exit status of a run that was asked to stop and has saved."""


class StopSignal:
    """Remembers a SIGTERM until the step's end. A second one ends the process at once."""

    def __init__(self) -> None:
        self.received = False
        self.before: Any = None

    def listen(self) -> None:
        """Catch SIGTERM from now on; only a process's main thread can."""
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def forget(self) -> None:
        """Give SIGTERM back its old meaning."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def asked(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; all processes must ask."""
        return any_process(accelerator, self.received)


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether a flag is set on at least one process; all processes must ask."""
    if accelerator.num_processes == 1:
        return flag
    count = torch.tensor([int(flag)], device=accelerator.device)
    return bool(accelerator.reduce(count, reduction="sum").item())  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def watchdog(seconds: float, what: str, *, process: int = 0) -> Iterator[None]:
    """End this process where the block takes longer than `seconds`: the launcher then ends the others.

    A thread stands guard, since a block that hangs in a library's own code runs no Python. 0 seconds is no guard.
    """

    def bark() -> None:
        sys.stderr.write(
            f"error: {what} took longer than {seconds:g} s on process {process}: mend it, or raise reward_timeout_s. "
            "Resume with --resume_from_checkpoint auto\n"
        )
        sys.stderr.flush()
        os._exit(3)

    if seconds <= 0:
        yield
        return
    timer = threading.Timer(seconds, bark)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Watched:
    """A judge under a watchdog: one that hangs ends its process with a message instead of stopping all for ever."""

    def __init__(self, judge: Any, seconds: float, process: int) -> None:
        self.inner, self.seconds, self.process = judge, seconds, process

    def __getattr__(self, name: str) -> Any:
        """All else that the judge has."""
        return getattr(self.inner, name)

    def score(self, video: Video, columns: dict[str, Any], grad: bool) -> Any:
        try:
            with watchdog(self.seconds, "the reward", process=self.process):
                return self.inner.score(video, columns, grad)
        except ValueError as error:
            clips = f", clips {', '.join(columns['id'])}" if "id" in columns else ""
            raise ValueError(f"{error} (process {self.process}{clips})") from error


def warn(lines: Sequence[str], is_main: bool) -> None:
    """Say things that a user should know before the first step, on the main process alone."""
    if is_main:
        sys.stderr.writelines(f"warning: {line}\n" for line in lines)
        sys.stderr.flush()


def warn_not_finite(what: str, bad_B: Tensor, clips: Sequence[str], process: int) -> None:
    """Say on stderr which clips of a batch something is not finite for."""
    bad_clips = [clip for clip, bad in zip(clips, bad_B.expand(len(clips)).tolist(), strict=True) if bad]
    if bad_clips:
        sys.stderr.write(f"warning: the {what} of {', '.join(bad_clips)} is not finite on process {process}\n")
        sys.stderr.flush()

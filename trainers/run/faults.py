"""What can go wrong while a run goes on, and how all processes end together.

A process that fails leaves with its message, and the launcher ends the others; one that hangs is ended by its own
watchdog; a process that is asked to stop (SIGTERM, as schedulers pre-empt, Ctrl-C or SIGHUP) makes all of them save
and stop after the step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor

from reward_physics.video import Video

STOPPED = 128 + signal.SIGTERM
"""Exit status of a run that was asked to stop and has saved."""


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a run to stop: a scheduler, Ctrl-C, a terminal that closes."""

GRACE_S = 3.0
"""A launcher passes a signal on, or sends another, within about 2 s: until then a second one does not count."""


class StopSignal:
    """Remembers the first of `SIGNALS` until the step's end. A second one after `GRACE_S` does what it did before."""

    def __init__(self) -> None:
        self.received = 0
        self.since_s = 0.0
        self.before: dict[int, Any] = {}

    def listen(self) -> None:
        """Catch the signals from now on, except ignored ones (`nohup`); only a process's main thread can."""
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self.before = {number: signal.signal(number, self._receive) for number in heard}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self.since_s = number, time.monotonic()
        elif time.monotonic() - self.since_s > GRACE_S:
            self.forget()
            os.kill(os.getpid(), number)

    def forget(self) -> None:
        """Give the signals back their old meaning."""
        for number, before in self.before.items():
            signal.signal(number, before)
        self.before = {}

    def asked(self, accelerator: Accelerator) -> int:
        """The signal by which any process was asked to stop, 0 for none; all processes must ask."""
        if accelerator.num_processes == 1:
            return self.received
        mine = torch.tensor([self.received], device=accelerator.device)
        everyone: Any = accelerator.gather(mine)
        return int(everyone.max().item())


def leave(accelerator: Accelerator, stop: StopSignal, number: int, step: int, trackers: Any) -> NoReturn:
    """Say how to go on, and end this process with the status of a signal, 128 + its number."""
    name = signal.Signals(number).name
    accelerator.print(f"stopped by {name} after step {step}: go on with --resume_from_checkpoint auto")
    if trackers is not None:
        trackers.close()
    accelerator.end_training()
    stop.forget()
    raise SystemExit(128 + number)


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

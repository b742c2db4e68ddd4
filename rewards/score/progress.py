"""What the scoring command is doing, as a bar on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from reward_physics.observation import Observation


class Progress:
    """A bar over the clips that says what is done with the one at hand, and counts the frames that are read.

    Args:
        clips: how many there are.
        disabled: no bar; there is none where standard error is no terminal either.
    """

    def __init__(self, clips: int, *, disabled: bool) -> None:
        self._bar = tqdm(total=clips, unit="clip", leave=False, disable=True if disabled else None)
        self._name, self._frames, self._begun = "", 0, False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.update(int(self._begun))
        self._bar.close()

    def begin(self, path: str) -> None:
        """The next clip."""
        self._bar.update(int(self._begun))
        self._name, self._frames, self._begun = Path(path).name, 0, True

    def saying(self, what: str) -> None:
        """Show what is being done."""
        self._bar.set_description(f"{self._name}: {what}")

    def tick(self) -> None:
        """One more frame was read."""
        self._frames += 1
        if self._frames % 50 == 0:
            self._bar.set_postfix_str(f"{self._frames} frames read")


def measure_in_steps(observation: Observation, saying: Callable[[str], object]) -> None:
    """Measure what an Observation is asked for most, one thing after another, and say which."""
    for what, name in (("finding", "found"), ("flow", "image_track"), ("fitting", "fit")):
        saying(what)
        getattr(observation, name)
    saying("scoring")

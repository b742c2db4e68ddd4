"""Runs from which nothing is learned: the first such step of a row is said, and a long row ends the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from accelerate import Accelerator


@dataclasses.dataclass(kw_only=True)
class Standstill:
    """Counts the steps or rounds in a row that taught nothing. All processes count alike.

    Args:
        unit: what is counted.
    """

    unit: str
    count: int = 0

    def note(self, accelerator: Accelerator, why: str | None, number: int, limit: int) -> None:
        """Take in one of them.

        Args:
            why: it taught nothing; None where it did.
            number: its own, for the message.
            limit: how many in a row are borne.

        Raises:
            ValueError: more in a row than that.
        """
        if why is None:
            self.count = 0
            return
        self.count += 1
        if self.count > limit:
            raise ValueError(
                f"nothing was learned in {self.count} {self.unit}s in a row, the last of them {number}: {why}. "
                "Mend the reward or its recipe, and resume from the last checkpoint; max_skipped_steps says how many "
                "are borne"
            )
        if self.count == 1:
            accelerator.print(f"warning: {self.unit} {number} teaches nothing: {why}")


@dataclasses.dataclass(kw_only=True)
class Learning:
    """Whether a run's steps and rounds teach anything.

    Args:
        silent: why the reward teaches nothing in the step that is under way; the trainer says so.
        watches_steps: a gradient of 0 is a standstill; not where whole rounds are watched.
        moved: some step had a gradient.
    """

    steps: Standstill = dataclasses.field(default_factory=lambda: Standstill(unit="step"))
    rounds: Standstill = dataclasses.field(default_factory=lambda: Standstill(unit="round"))
    silent: str | None = None
    watches_steps: bool = True
    moved: bool = False

    def step(self, accelerator: Accelerator, norm: float, number: int, limit: int) -> None:
        """Take in a step by the norm of its gradient; raises as `Standstill.note`."""
        self.moved = self.moved or norm > 0
        if self.watches_steps:
            why = self.silent or ("its gradient is exactly 0" if norm == 0 else None)
            self.steps.note(accelerator, why, number, limit)

    def end(self, accelerator: Accelerator) -> None:
        """Say where no step of the run had a gradient."""
        if not self.moved:
            accelerator.print("warning: no step of this run had a gradient: what it leaves is what it began with")


def why_reward_is_silent(figures: Mapping[str, float], *, given_first: bool) -> str | None:
    """Why the reward's gradient is 0 on all clips of a step, None where it is not.

    Args:
        figures: of the step, over its micro-batches and all processes.
        given_first: the clips' first frame is given, so that its pixels have no gradient.
    """
    if figures.get("pixel_grad_norm_max", 1.0) > 0:
        return None
    if figures.get("dropped_gradients", 0.0) > 0:
        return "the reward's gradient at the pixels is finite on no clip"
    if figures.get("measurable", 1.0) == 0:
        return "no clip could be measured, and nothing pulls the objects back into sight"
    first = " (the first frame is given: what is read off it alone cannot be changed)" if given_first else ""
    return f"the reward's gradient at the generated pixels is exactly 0 on every clip{first}"


def check_first_step(why: str | None, figures: Mapping[str, float]) -> None:
    """Raise ValueError where the reward has no gradient in the first step, though its clips were measured."""
    measured = figures.get("measurable", 0.0) > 0 and not figures.get("dropped_gradients", 0.0)
    if why is not None and measured:
        raise ValueError(
            f"nothing can be learned: {why} of the first step. Use a reward that changes with the motion, or more "
            "clips a step where it is flat on some"
        )

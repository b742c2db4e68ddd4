"""The queue of drops-bench: cells that run, those that are left, and the tables of what is done."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from reward_physics.figures.intervals import Interval
from reward_physics.figures.metrics import nan_median
from trainers.clips.folder import write_text
from trainers.drops_bench.cells import STEPS, Cell, Plan, cells_of
from trainers.evaluation.fall_figures import comparison, summary
from trainers.evaluation.figures import column
from trainers.evaluation.measured import plain
from trainers.evaluation.tables import details_table, markdown_table
from trainers.run.faults import STOPPED
from trainers.settings.options import Positive, Rate, Weight, option, strict

GRACE_S = 120
"""How long a cell that is stopped may take to write its checkpoint."""

POLL_S = 0.05


@strict
class DropsBenchConfig:
    """Compare ways of learning on the embedded world."""

    output_dir: str = option("outputs/drops_bench", "folder of all cells and of the table")
    seeds: list[int] = option([0, 1, 2], "seeds of the core table; the ablations take the first")
    stage: Literal["core", "all"] = option("all", "core leaves out the ablations")
    only: list[str] = option([], "run these arms alone, such as oro rwr psft+oro; by default all")
    model_name_or_path: str = option("data/drops/model", "diffusers pipeline that every arm starts from")
    split: str = option("heldout", "split of the scenes that are judged")
    scenes: Positive = option(64, "scenes of the split, at rest in the first frame")
    clips: Positive = option(1200, "clips of true gravity that PSFT learns from")
    true_clips: list[str] = option([], "folder of splits and split of clips for PSFT, instead of writing them")
    cell_minutes: Rate = option(30.0, "a cell that takes longer is stopped; the next run goes on with it")
    total_minutes: Weight = option(0.0, "stop all cells after so long, with the tables of what is done; 0 is never")
    jobs: Positive = option(1, "cells that run at a time, the cores shared out between them")
    set: list[str] = option(
        [],
        "METHOD.NAME=VALUE for every training by that method, such as rwr.max_steps=150; commas part a list's values",
    )
    tolerance: Rate = option(0.15, "relative error of g that still counts as right")
    quick: bool = option(False, "one step and two scenes a cell, to see the queue run")
    dry_run: bool = option(False, "print the cells with their estimated time and stop")


def run_cells(config: DropsBenchConfig) -> list[str]:
    """Run what is not done, write the tables; returns the names of the cells that failed or could not start."""
    cells = chosen(config)
    folder = Path(config.output_dir)
    if config.dry_run:
        print(queue_table(cells, folder))
        return []
    try:
        return run_queue(config, cells, folder)
    finally:
        gather(config, cells)


def run_queue(config: DropsBenchConfig, cells: Sequence[Cell], folder: Path) -> list[str]:
    """Keep `jobs` cells running, each after those that it needs, in the order of the queue otherwise.

    Whatever ends this, an interrupt too, no cell is left behind: all are asked to stop, and killed after `GRACE_S`.
    """
    ended_s = time.monotonic() + 60 * (config.total_minutes or math.inf)
    numbers = {cell.name: number for number, cell in enumerate(cells, start=1)}
    waiting, running, missed, finished = list(cells), [], [], set()

    def tell(cell: Cell, outcome: str) -> None:
        print(f"{numbers[cell.name]}/{len(cells)} {cell.name}: {outcome}", flush=True)

    try:
        while waiting or running:
            for cell in list(waiting):
                lost = [need for need in cell.needs if need in missed]
                known = is_done(folder, cell)
                if known:
                    finished.add(cell.name)
                    tell(cell, "done before")
                elif lost or time.monotonic() > ended_s:
                    missed.append(cell.name)
                    tell(cell, f"left out, {lost[0]} is not done" if lost else "left out, the time is over")
                elif len(running) < config.jobs and all(need in finished for need in cell.needs):
                    running.append(Running(cell, folder, jobs=config.jobs))
                else:
                    continue
                waiting.remove(cell)
            time.sleep(POLL_S)
            for job in running:
                if time.monotonic() > min(job.started_s + 60 * config.cell_minutes, ended_s):
                    job.stop()
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                outcome = job.finish()
                missed += [job.cell.name] if outcome else []
                finished |= set() if outcome else {job.cell.name}
                tell(job.cell, outcome or "done")
                if job.cell.arm and not outcome:
                    gather(config, cells)
    finally:
        stop_all(running)
    return missed


def chosen(config: DropsBenchConfig) -> list[Cell]:
    """The cells that the config asks for, with those that they need.

    Raises:
        ValueError: an arm that does not exist, true_clips that are not a folder and a split.
    """
    if config.true_clips and len(config.true_clips) != 2:
        raise ValueError(f"true_clips must be a folder of splits and the name of a split, got {config.true_clips}")
    cells = cells_of(
        Plan(
            folder=Path(config.output_dir),
            seeds=config.seeds,
            stage=config.stage,
            quick=config.quick,
            scenes=config.scenes,
            split=config.split,
            clips=config.clips,
            model=config.model_name_or_path,
            true_clips=(config.true_clips[0], config.true_clips[1]) if config.true_clips else None,
            changes=changes_of(config.set),
        )
    )
    arms = dict.fromkeys(cell.arm for cell in cells if cell.arm)
    unknown = [name for name in config.only if name not in arms]
    if unknown:
        raise ValueError(f"only names the arm {unknown[0]}, which is none of {', '.join(arms)}")
    wanted = {cell.name for cell in cells if not config.only or cell.arm in (*config.only, "base")}
    for cell in reversed(cells):
        wanted |= set(cell.needs) if cell.name in wanted else set()
    return [cell for cell in cells if cell.name in wanted]


def changes_of(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Flags of each method from METHOD.NAME=VALUE.

    Raises:
        ValueError: another form, or no such method.
    """
    flags: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        method, _, setting = name.partition(".")
        if method not in STEPS or not setting or not value:
            raise ValueError(f"set must be METHOD.NAME=VALUE with a method of {', '.join(STEPS)}, got {text}")
        flags[method] = (*flags.get(method, ()), f"--{setting}", *value.split(","))
    return flags


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether this very command has ended well before."""
    path = folder / "cells" / f"{cell.name}.json"
    return path.exists() and json.loads(path.read_text())["command"] == list(cell.command)


@dataclass
class Running:
    """A cell that runs in a process of its own, its output in a log beside its record."""

    cell: Cell
    folder: Path
    jobs: int = field(kw_only=True)

    def __post_init__(self) -> None:
        self.log = self.folder / "cells" / f"{self.cell.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs))} if self.jobs > 1 else {}
        self.started_s, self.stopped_s = time.monotonic(), math.inf
        self.file: IO[str] = self.log.open("a")
        # A session of its own: an interrupt at the keyboard reaches this process alone, which asks cells to save first.
        self.process = subprocess.Popen(
            self.cell.command,
            stdout=self.file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=True,
        )

    def stop(self) -> None:
        """Ask it to end, which trainers do with a checkpoint; after `GRACE_S` it is killed. May be called again."""
        if self.stopped_s == math.inf:
            self.stopped_s = time.monotonic()
            self.process.terminate()
        elif time.monotonic() > self.stopped_s + GRACE_S:
            self.process.kill()

    def finish(self) -> str | None:
        """Write the record of a process that has ended; returns what went wrong in words."""
        self.file.close()
        minutes, status = (time.monotonic() - self.started_s) / 60, self.process.returncode
        if self.stopped_s < math.inf and status:
            return f"stopped after {minutes:.2g} minutes: run again and it goes on from its checkpoint"
        if status:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            return f"failed with exit status {status} ({lines[-1] if lines else 'no output'}): see {self.log}"
        record = {"command": list(self.cell.command), "minutes": round(minutes, 2)}
        write_text(self.folder / "cells" / f"{self.cell.name}.json", json.dumps(record) + "\n")
        return None


def stop_all(running: Sequence[Running]) -> None:
    """End every cell, all of them at a time."""
    while any(job.process.poll() is None for job in running):
        for job in running:
            if job.process.poll() is None:
                job.stop()
        time.sleep(POLL_S)
    for job in running:
        job.finish()


def queue_table(cells: Sequence[Cell], folder: Path) -> str:
    """The cells in their order, what is left of them, and about how long that takes."""
    lines = []
    for cell in cells:
        state = "done" if is_done(folder, cell) else f"{cell.minutes:4.1f} min"
        lines.append(f"{state:>9}  {cell.name:24} {' '.join(cell.command[1:])}")
    left = [cell for cell in cells if not is_done(folder, cell)]
    total = sum(cell.minutes for cell in left)
    return "\n".join([*lines, f"{len(left)} of {len(cells)} cells to run, about {total / 60:.1f} hours of one core"])


def gather(config: DropsBenchConfig, cells: Sequence[Cell]) -> dict[str, Any]:
    """Every evaluation that there is as one table: seeds of an arm together, intervals over scenes."""
    folder = Path(config.output_dir)
    seeds_of_arm: dict[str, list[list[dict[str, Any]]]] = {}
    for cell in cells:
        path = folder / cell.name / "evaluation.json"
        if cell.arm and is_done(folder, cell) and path.exists():
            (arm,) = json.loads(path.read_text())["arms"].values()
            seeds_of_arm.setdefault(cell.arm, []).append(arm["clips"])
    arms = {name: arm_of_seeds(seeds, tolerance=config.tolerance) for name, seeds in seeds_of_arm.items()}
    base = seeds_of_arm["base"][0] if "base" in seeds_of_arm else None
    record = {
        "settings": {"tolerance": config.tolerance, "quick": config.quick},
        "arms": arms,
        "against": "base",
        "comparisons": {
            name: comparison(base, [clip for clips in seeds for clip in clips])
            for name, seeds in seeds_of_arm.items()
            if base is not None and name != "base"
        },
    }
    if arms:
        write_text(folder / "results.json", json.dumps(plain(record), indent=1) + "\n")
        write_text(folder / "table.md", f"{markdown_table(record)}\n\n{seeds_table(record)}\n")
        write_text(folder / "details.md", details_table(record) + "\n")
    return record


def arm_of_seeds(seeds: list[list[dict[str, Any]]], *, tolerance: float) -> dict[str, Any]:
    """One arm: the figures of all its seeds together, and the median g of each."""
    together = summary([clip for clips in seeds for clip in clips], tolerance=tolerance) | {"diversity": math.nan}
    medians = [nan_median(column(clips, "g_scaled_m_s2", "judge")) for clips in seeds]
    return {"source": {"kind": "model"}, "summary": together, "seeds": len(seeds), "g_by_seed_m_s2": medians}


def seeds_table(record: dict[str, Any]) -> str:
    """Median g by the judge of every seed of an arm."""
    lines = ["| arm | seeds | median error | median g of each seed (m/s²) |", "|---|---|---|---|"]
    for name, arm in record["arms"].items():
        error: Interval = arm["summary"]["judge"]["g_error"]
        medians = ", ".join(f"{g_m_s2:.2f}" for g_m_s2 in arm["g_by_seed_m_s2"])
        lines.append(f"| {name} | {arm['seeds']} | {error.estimate:.1%} | {medians} |")
    return "\n".join(lines)


def on_terminate(*_: object) -> None:
    """End as by an interrupt, so that cells are stopped."""
    sys.exit(STOPPED)

"""drops-bench: which way of learning works, on the embedded world, by one command that goes on where it was stopped.

    python -m trainers.drops_bench --output_dir outputs/drops_bench
    python -m trainers.drops_bench --dry_run
    python -m trainers.drops_bench --quick --only oro rwr     a look: one step and two scenes a cell

A queue of cells, each a command of its own of at most 30 minutes: base, PSFT, ORO, RWR, PSFT+ORO and PSFT+RWR with
three seeds at the same budget of time, then ablations with one seed. A finished cell is not run again; a training that
ran out of time goes on from its checkpoint the next time. table.md and details.md hold what there is so far. ORO and
RWR alone see no clip that falls at 9.81. This is no PisaBench: see `data.pisabench` for that one's clips.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from reward_physics.intervals import Interval
from reward_physics.metrics import nan_median
from trainers.bench_cells import Cell, Plan, cells_of
from trainers.clips import write_text
from trainers.config import Positive, Rate, exit_with_one_line, option, parse_config, strict
from trainers.details import details_table
from trainers.evaluation import plain
from trainers.summary import column, comparison, markdown_table, summary

GRACE_S = 120
"""How long a cell that is stopped may take to write its checkpoint."""


@strict
class DropsBenchConfig:
    """Compare ways of learning on the embedded world."""

    output_dir: str = option("outputs/drops_bench", "folder of all cells and of the table")
    seeds: list[int] = option([0, 1, 2], "seeds of the core table; the ablations take the first")
    stage: Literal["core", "all"] = option("all", "core leaves out the ablations")
    only: list[str] = option([], "run these arms alone, such as oro rwr psft+oro; by default all")
    model: str = option("data/drops/model", "diffusers pipeline that every arm starts from")
    split: str = option("heldout", "split of the scenes that are judged")
    scenes: Positive = option(64, "scenes of the split, at rest in the first frame")
    clips: Positive = option(600, "clips of true gravity that PSFT learns from")
    true_clips: list[str] = option([], "folder of splits and split of clips for PSFT, instead of writing them")
    cell_minutes: Rate = option(30.0, "a cell that takes longer is stopped; the next run goes on with it")
    tolerance: Rate = option(0.15, "relative error of g that still counts as right")
    quick: bool = option(False, "one step and two scenes a cell, to see the queue run")
    dry_run: bool = option(False, "print the cells with their estimated time and stop")


def run(config: DropsBenchConfig) -> list[str]:
    """Run what is not done, write the tables; returns the names of the cells that failed or could not start."""
    cells = chosen(config)
    folder = Path(config.output_dir)
    if config.dry_run:
        print(plan_table(cells, folder))
        return []
    missed: list[str] = []
    for number, cell in enumerate(cells, start=1):
        head = f"{number}/{len(cells)} {cell.name}"
        waits = [need for need in cell.needs if not is_done(folder, find(cells, need))]
        if is_done(folder, cell):
            print(f"{head}: done before", flush=True)
        elif waits:
            print(f"{head}: left out, {waits[0]} is not done", flush=True)
            missed.append(cell.name)
        else:
            outcome = run_cell(cell, folder, minutes=config.cell_minutes)
            print(f"{head}: {outcome or 'done'}", flush=True)
            missed += [cell.name] if outcome else []
        if cell.arm and not missed:
            gather(config, cells)
    gather(config, cells)
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
            model=config.model,
            true_clips=(config.true_clips[0], config.true_clips[1]) if config.true_clips else None,
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


def find(cells: Sequence[Cell], name: str) -> Cell:
    """The cell of this name."""
    return next(cell for cell in cells if cell.name == name)


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether this very command has ended well before."""
    path = folder / "cells" / f"{cell.name}.json"
    return path.exists() and json.loads(path.read_text())["command"] == list(cell.command)


def run_cell(cell: Cell, folder: Path, *, minutes: float) -> str | None:
    """Run one cell, its output in a log beside its record; returns what went wrong in words."""
    log = folder / "cells" / f"{cell.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("a") as file, subprocess.Popen(cell.command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            status = process.wait(timeout=60 * minutes)
        except BaseException as stopped:
            process.terminate()  # trainers write a checkpoint then
            try:
                process.wait(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            return f"stopped after {minutes:g} minutes: run again and it goes on from its checkpoint"
    if status:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"failed with exit status {status} ({lines[-1] if lines else 'no output'}): see {log}"
    record = {"command": list(cell.command), "minutes": round((time.perf_counter() - started) / 60, 2)}
    write_text(folder / "cells" / f"{cell.name}.json", json.dumps(record) + "\n")
    return None


def plan_table(cells: Sequence[Cell], folder: Path) -> str:
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
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for cell in cells:
        path = folder / cell.name / "evaluation.json"
        if cell.arm and is_done(folder, cell) and path.exists():
            (arm,) = json.loads(path.read_text())["arms"].values()
            found.setdefault(cell.arm, []).append(arm["clips"])
    arms = {name: measured(seeds, tolerance=config.tolerance) for name, seeds in found.items()}
    base = found["base"][0] if "base" in found else None
    record = {
        "settings": {"tolerance": config.tolerance, "quick": config.quick},
        "arms": arms,
        "against": "base",
        "comparisons": {
            name: comparison(base, [clip for clips in seeds for clip in clips])
            for name, seeds in found.items()
            if base is not None and name != "base"
        },
    }
    if arms:
        write_text(folder / "results.json", json.dumps(plain(record), indent=1) + "\n")
        write_text(folder / "table.md", f"{markdown_table(record)}\n\n{seeds_table(record)}\n")
        write_text(folder / "details.md", details_table(record) + "\n")
    return record


def measured(seeds: list[list[dict[str, Any]]], *, tolerance: float) -> dict[str, Any]:
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


def main() -> None:
    """The command."""
    config = parse_config(DropsBenchConfig)
    missed = run(config)
    table = Path(config.output_dir) / "table.md"
    if table.exists() and not config.dry_run:
        print(f"\n{table.read_text()}\nin {config.output_dir}")
    if missed:
        print(f"not done: {', '.join(missed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    exit_with_one_line(main)

"""How well g is read off simulated clips over a grid, with exact flow, depth and masks and with a recipe's estimators.

    python benchmarks/measuring_grid.py                          # goes on where it was stopped
    python benchmarks/measuring_grid.py --fps 16 --sizes_px 12 --gravities 9.81 --draws 1 --output /tmp/grid.md
    python benchmarks/measuring_grid.py --seed 1 --true depth --output /tmp/grid.md   # with exact depth

The grid: 4 frame rates x 4 sizes x 4 gravities x 3 pitches x 3 kinds of motion; texture, colours, light, room, start,
throw and restitution are drawn. Exact instruments see every one of the 576 cells. The estimators see a third of them:
of the 9 pairs of pitch and kind every frame rate, size and gravity has 3, in a Latin square that shifts from one to the
next, so that every pair comes equally often.

A cell states the height fallen, the clean frames (whole in the picture, within the first flight that has five of them)
and the Cramer-Rao bound of g for these frames and a centroid noise of 0.1 px.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from measuring_scenes import (
    KINDS,
    MIN_CLEAN_FRAMES,
    Cell,
    Drawn,
    Exact,
    blank_video,
    clean_range,
    draw,
    provenance,
    rendered_video,
    write_text,
)

from reward_physics.laws.kinematics import cramer_rao_g_m_s2
from reward_physics.observation import Instruments, Observation

ROOT = Path(__file__).resolve().parents[1]
FPS, SIZES_PX, GRAVITIES = (8.0, 16.0, 24.0, 60.0), (6.0, 12.0, 24.0, 40.0), (2.0, 4.0, 9.81, 16.0)
PITCHES = (0.0, 15.0, 30.0)
NOISE_PX = 0.1
FIRST_SEED = 40_000_000
BATCH = 4
PARTS = {"depth": ("surface_depth_BT", "centre_depth_BT"), "positions": ("centroid_BT2",), "flow": ("flow_BS2",)}
"""Parts of a track that `--true` replaces, to show which of them a reading errs by."""


def grid(fps: Iterable[float], sizes_px: Iterable[float], gravities: Iterable[float]) -> list[Cell]:
    """All cells."""
    return [
        Cell(fps=f, g_m_s2=g, diameter_px=d, pitch_deg=p, kind=k)
        for f, d, g, p, k in itertools.product(fps, sizes_px, gravities, PITCHES, KINDS)
    ]


def latin_third(cells: list[Cell]) -> list[Cell]:
    """Of every frame rate, size and gravity the cells whose pitch + kind + (number of the triple) is 0 modulo 3."""
    triples = list(dict.fromkeys((c.fps, c.diameter_px, c.g_m_s2) for c in cells))
    shift = {triple: n for n, triple in enumerate(triples)}
    return [
        c
        for c in cells
        if (PITCHES.index(c.pitch_deg) + KINDS.index(c.kind) + shift[c.fps, c.diameter_px, c.g_m_s2]) % 3 == 0
    ]


def key_of(cell: Cell, n: int, seed: int, instruments: str) -> str:
    return json.dumps([instruments, *dataclasses.astuple(cell), n, seed])


def drawn_clip(cell: Cell, n: int, seed: int) -> Drawn:
    """The n-th draw of a cell; the same with exact instruments and with estimators."""
    digest = hashlib.blake2b(key_of(cell, n, seed, "").encode(), digest_size=4).digest()
    return draw(cell, FIRST_SEED + int.from_bytes(digest) % 10_000_000)


def exactly(drawn: list[Drawn]) -> Observation:
    """Exact depth, masks and flow."""
    exact = Exact(drawn)
    instruments = Instruments(
        depth=exact, flow=exact.flow, centroid_noise_px=0.03, flow_noise_px=0.03, depth_bias=0.002
    )
    return Observation(blank_video(drawn), instruments, grad=False)


def by_recipe(path: str, true_parts: Iterable[str] = ()) -> Callable[[list[Drawn]], Observation]:
    """The instruments of a recipe on the rendered clips, with some parts of what they read replaced by the truth."""
    from rewards.recipe.file import read_recipe

    instruments = read_recipe(path).instruments.build()
    names = [name for part in true_parts for name in PARTS[part]]

    def observe(drawn: list[Drawn]) -> Observation:
        observation = Observation(rendered_video(drawn), instruments, grad=False)
        if names:
            with torch.no_grad():
                track, truth = observation.image_track, exactly(drawn).image_track
            true = {name: getattr(truth, name).to(getattr(track, name)) for name in names}
            observation.__dict__["image_track"] = dataclasses.replace(track, **true)
        return observation

    return observe


def read(drawn: list[Drawn], observe: Callable[[list[Drawn]], Observation]) -> list[dict[str, Any]]:
    """What is read off some clips of one size and length, beside what the cell allows."""
    with torch.no_grad():
        fit = observe(drawn).fit
    low, high = fit.g_interval()
    rows = []
    for n, clip in enumerate(drawn):
        clean, px_per_m = clean_range(clip)
        bound = cramer_rao_g_m_s2(
            num_frames=len(clean), fps=clip.cell.fps, noise_px=NOISE_PX, px_per_m=px_per_m
        )  # fmt: skip
        rows.append(
            {
                **dataclasses.asdict(clip.cell),
                "fall_m": clip.fall_m,
                "clean_frames": len(clean),
                "bound": bound / clip.cell.g_m_s2 if math.isfinite(bound) else None,
                "error": float(fit.g_m_s2_B[n]) / clip.cell.g_m_s2 - 1 if fit.measurable_B[n] else None,
                "covered": bool(low[n] <= clip.cell.g_m_s2 <= high[n]),
                "reason": fit.reasons[n],
            }
        )
    return rows


def run(
    cells: list[Cell], name: str, observe: Callable[[list[Drawn]], Observation], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Read all cells, from the file of results where they are in it already."""
    path: Path = options.results
    known = {} if not path.exists() else dict(_known(path))
    rows: list[dict[str, Any]] = []
    todo = []
    for cell, n in itertools.product(cells, range(options.draws)):
        key = key_of(cell, n, options.seed, name)
        if key in known:
            rows.append(known[key])
        else:
            todo.append((cell, n, key))
    todo.sort(key=lambda item: (item[0].side_px, item[0].frames, item[0].fps))
    begun = time.process_time()
    path.parent.mkdir(parents=True, exist_ok=True)
    for _, alike in itertools.groupby(todo, key=lambda item: (item[0].side_px, item[0].frames)):
        group = list(alike)
        for first in range(0, len(group), BATCH):
            part = group[first : first + BATCH]
            fresh = read([drawn_clip(cell, n, options.seed) for cell, n, _ in part], observe)
            with path.open("a", encoding="utf-8") as file:
                for (_, _, key), row in zip(part, fresh, strict=True):
                    file.write(json.dumps({"key": key, "row": row}) + "\n")
            rows += fresh
            progress = f"{name}: {len(rows)} of {len(cells) * options.draws}"
            print(f"{progress}, {time.process_time() - begun:.0f} CPU s", file=sys.stderr, flush=True)
    return rows


def _known(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # cut off while it was written
            continue
        yield record["key"], record["row"]


def percent(values: list[float], share: float | None = None) -> str:
    """Median (or a quantile) of some shares, in per cent; a dash for none."""
    if not values:
        return "–"
    at = statistics.median(values) if share is None else float(torch.tensor(values).double().quantile(share))
    return f"{100 * at:.2f} %" if at < 0.1 else f"{100 * at:.0f} %"


def errors(rows: list[dict[str, Any]]) -> list[float]:
    return [abs(row["error"]) for row in rows if row["error"] is not None]


def table(exact: list[dict[str, Any]], estimated: list[dict[str, Any]]) -> str:
    """One row per frame rate, size and gravity, over its pitches and kinds."""
    lines = [
        "| fps | diameter (px) | g (m/s²) | fallen (m) | clean frames | bound | exact: median | exact: largest "
        "| estimators: median | largest | measured |",
        "|" + "---|" * 11,
    ]
    triples = list(dict.fromkeys((row["fps"], row["diameter_px"], row["g_m_s2"]) for row in exact))
    for triple in triples:
        here, there = (
            [row for row in rows if (row["fps"], row["diameter_px"], row["g_m_s2"]) == triple]
            for rows in (exact, estimated)
        )
        fallen = [row["fall_m"] for row in here]
        clean = [row["clean_frames"] for row in here]
        bound = [row["bound"] for row in here if row["bound"] is not None]
        cells = [f"{x:g}" for x in triple]
        cells += [f"{min(fallen):.2f} to {max(fallen):.2f}", f"{min(clean)} to {max(clean)}", percent(bound)]
        cells += [
            percent(errors(here)),
            percent(errors(here), 1.0),
            percent(errors(there)),
            percent(errors(there), 1.0),
        ]
        cells.append(f"{len(errors(there))} of {len(there)}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """By what the cells allow, and by pitch, kind, size and frame rate where the bound is at most 1.5 %."""

    def line(name: str, group: list[dict[str, Any]]) -> str:
        signed = [row["error"] for row in group if row["error"] is not None]
        bias = f"{100 * statistics.median(signed):+.2f} %" if signed else "–"
        covered = [row["covered"] for row in group if row["error"] is not None]
        return (
            f"| {name} | {len(group)} | {len(signed)} | {percent(errors(group))} | {percent(errors(group), 0.95)} "
            f"| {bias} | {f'{100 * statistics.fmean(covered):.0f} %' if covered else '–'} |"
        )

    sharp, rest, short = [], [], []
    for row in rows:
        if row["clean_frames"] < MIN_CLEAN_FRAMES:
            short.append(row)
        else:
            (sharp if row["bound"] <= 0.015 else rest).append(row)
    lines = ["| clips | number | measured | median error | p95 | bias | 95 % interval covers |", "|" + "---|" * 7]
    lines.append(line("bound at most 1.5 %", sharp))
    lines.append(line("bound above 1.5 %", rest))
    lines.append(line("under 5 clean frames", short))
    for field in ("kind", "pitch_deg", "diameter_px", "fps"):
        for value in dict.fromkeys(row[field] for row in sharp):
            lines.append(line(f"bound at most 1.5 %, {field} {value}", [row for row in sharp if row[field] == value]))
    measured = [row for row in rest if row["error"] is not None]
    within = sum(abs(row["error"]) <= 2 * row["bound"] for row in measured)
    if measured:
        lines.append("")
        lines.append(f"Above 1.5 % the error is at most twice the bound in {within} of {len(measured)} measured clips.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipe", default=str(ROOT / "configs" / "recipes" / "gravity.yaml"), help="recipe with the estimators")
    add("--exact_only", action="store_true", help="leave the estimators out: nothing is rendered")
    add("--true", nargs="+", choices=PARTS, default=[], help="parts of what is read to replace by the truth")
    add("--draws", type=int, default=1, help="draws a cell (default: %(default)s)")
    add("--fps", type=float, nargs="+", default=FPS, help="frame rates")
    add("--sizes_px", type=float, nargs="+", default=SIZES_PX, help="diameters of the ball, px")
    add("--gravities", type=float, nargs="+", default=GRAVITIES, help="g, m/s^2")
    add("--seed", type=int, default=0)
    add("--results", type=Path, default=ROOT / "outputs" / "measuring_grid.jsonl", help="every clip's reading")
    add("--output", type=Path, default=ROOT / "docs" / "results" / "measuring_grid.md", help="the tables")
    options = parser.parse_args()
    if options.draws < 1:
        parser.error(f"--draws must be at least 1, got {options.draws}")
    cells = grid(options.fps, options.sizes_px, options.gravities)
    exact = run(cells, "exact", exactly, options)
    estimated: list[dict[str, Any]] = []
    if not options.exact_only:
        recipe = " ".join([Path(options.recipe).stem, *options.true])
        estimated = run(latin_third(cells), recipe, by_recipe(options.recipe, options.true), options)
    command = f"python benchmarks/measuring_grid.py --draws {options.draws} --seed {options.seed}"
    command += f" --true {' '.join(options.true)}" if options.true else ""
    parts = ["# g over a grid of simulated clips", __doc__.split("\n\n", 2)[2].strip() if __doc__ else ""]
    parts += ["## Exact flow, depth and masks", summary(exact)]
    if estimated:
        replaced = f", with true {' and '.join(options.true)}" if options.true else ""
        parts += [f"## Estimators of `{Path(options.recipe).name}`{replaced}", summary(estimated)]
    parts += ["## Cells", table(exact, estimated), provenance(command)]
    write_text(options.output, "\n\n".join(parts) + "\n")
    print("\n\n".join(parts[2:-2]))


if __name__ == "__main__":
    main()

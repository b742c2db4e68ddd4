"""Simulate and render any number of clips of a split to Parquet: `python -m data.write --split train --clips 4000`.

`--g_m_s2 9.81` gives the same scenes under that gravity, in a split of its own, `train-g9.81`: what supervised
fine-tuning learns from.

`--world package.module:Class` writes another world's clips (see `data.worlds`); `--g_m_s2` is then the constant of its
law.

Clips are written in shards; a shard that exists is kept, so a stopped command goes on where it stopped. A larger
`--clips` with the same `--shard_size` adds shards to those that exist.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import multiprocessing
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.worlds import WORLDS, world_of

LARGE_CLIP_BYTES = 4_000_000
"""Pixels of a clip from which on a file of many is not unpacked for one of them."""


def clip(
    task: tuple[str, int, int, int, float | None], world: str = "drops", fps: float | None = None
) -> dict[str, Any]:
    """Row `index` of `split`: `task` is (split, index, frames, pixels a side, g or None for the scene's own).

    Args:
        fps: frames a second, or None for the split's own.
    """
    split, index, frames, side_px, law = task
    source = world_of(world)
    rate = {} if fps is None else {"fps": fps}
    scene = source.draw(split, index, frames=frames, side_px=side_px, law=law, **rate)
    motion = source.simulate(scene)
    return source.row(scene, split_name(split, law), motion, source.render(scene, motion))


def split_name(split: str, g_m_s2: float | None) -> str:
    """The split's own name, or with another value of the law `train-g9.81`."""
    return split if g_m_s2 is None else f"{split}-g{g_m_s2:g}"


def write_shard(rows: list[dict[str, Any]], path: Path, *, light: bool = False, world: str = "drops") -> None:
    """Write rows to a temporary file beside `path`, then rename it; `light` leaves out the world's heavy columns.

    Columns that the world does not know are kept. Large clips are each a group of the file, so that any is read alone.
    """
    import datasets
    import numpy as np
    import pyarrow.parquet as pq

    source = world_of(world)
    typed = source.features(*rows[0]["frames"].shape[:3])
    left_out = set(source.heavy_columns) if light else set()
    columns = {
        name: np.stack([row[name] for row in rows]) if isinstance(value, np.ndarray) else [row[name] for row in rows]
        for name, value in rows[0].items()
        if name not in left_out
    }
    further = {name: values for name, values in columns.items() if name not in typed}
    kinds = dict(typed) | dict(datasets.Dataset.from_dict(further).features)
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features({name: kinds[name] for name in columns}))
    temporary = path.with_suffix(".partial")
    large = rows[0]["frames"].nbytes >= LARGE_CLIP_BYTES
    group = 1 if large else None
    pq.write_table(dataset.data.table, temporary, compression="zstd", compression_level=5, row_group_size=group)
    os.replace(temporary, path)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the shards that are missing."""
    options = parse(arguments)
    folder = Path(options.output_dir) / split_name(options.split, options.g_m_s2)
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(options.first, options.first + options.clips, options.shard_size)
    missing = [start for start in starts if not shard_path(folder, start).exists()]
    for start in set(starts) - set(missing):
        check_alike(shard_path(folder, start), options)
    skipped = options.clips - sum(_shard_length(options, start) for start in missing)
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(options.workers, maxtasksperchild=200) as pool,
        tqdm(total=options.clips, initial=skipped, unit="clip", desc=options.split) as progress,
    ):
        for start in missing:
            tasks = [
                (options.split, start + i, options.frames, options.side_px, options.g_m_s2)
                for i in range(_shard_length(options, start))
            ]
            rows = []
            for row in pool.imap(functools.partial(clip, world=options.world, fps=options.fps), tasks):
                rows.append(row)
                progress.update()
            write_shard(rows, shard_path(folder, start), light=options.light, world=options.world)


def shard_path(folder: Path, start: int) -> Path:
    """Where the shard whose first clip has index `start` is kept."""
    return folder / f"clips-{start:07d}.parquet"


def check_alike(path: Path, options: argparse.Namespace) -> None:
    """End the command where a shard that exists was written with another size or frame rate."""
    import pyarrow.parquet as pq

    from data.split import Split

    shape = tuple(getattr(pq.read_schema(path).field("frames").type, "shape", ())[:3])
    asked = (options.frames, options.side_px, options.side_px)
    rate = float(Split([path], ["fps"])["fps"][0])
    if shape not in ((), asked) or options.fps not in (None, rate):
        was = f"{' x '.join(map(str, shape))} at {rate:g} fps"
        raise SystemExit(f"error: {path} holds clips of {was}, which were not asked for: give another --output_dir")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument(
        "--world", default="drops", help=f"{', '.join(WORLDS)} or package.module:Class (default: %(default)s)"
    )
    try:
        world = world_of(first.parse_known_args(arguments)[0].world)
    except ValueError as error:
        first.error(str(error))
    parser = argparse.ArgumentParser(prog="python -m data.write", description=__doc__, parents=[first])
    add = parser.add_argument
    add("--split", choices=sorted(world.splits), required=True, help="which distribution of scenes to draw from")
    add("--clips", type=int, required=True, help="how many clips")
    add("--output_dir", default="data/rendered", help="clips go to OUTPUT_DIR/SPLIT/*.parquet (default: %(default)s)")
    add("--g_m_s2", type=float, default=None, help="gravity of every clip, m/s^2 (default: the split's own)")
    add("--first", type=int, default=0, help="index of the first clip within the split (default: %(default)s)")
    add("--shard_size", type=int, default=100, help="clips a file (default: %(default)s)")
    add("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    add(
        "--light",
        action="store_true",
        help="leave out depth and flow, which only estimators train on: a third of the size",
    )
    add("--frames", type=int, default=17, help="frames a clip (default: %(default)s)")
    add("--fps", type=float, default=None, help="frames a second (default: the split's own)")
    add("--side_px", type=int, default=64, help="height and width in pixels (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("clips", "shard_size", "workers", "frames", "side_px"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.fps is not None and not 0 < options.fps <= 1000:
        parser.error(f"--fps must be > 0 and at most 1000, got {options.fps}")
    if options.fps is not None and "fps" not in inspect.signature(world.draw).parameters:
        parser.error(f"--fps: the world {world.name} draws scenes at its own rate alone: leave --fps out")
    if options.g_m_s2 is not None and not 0 < options.g_m_s2 < 100:
        parser.error(f"--g_m_s2 must be > 0 and < 100 m/s^2, got {options.g_m_s2}")
    return options


def _shard_length(options: argparse.Namespace, start: int) -> int:
    return min(options.shard_size, options.first + options.clips - start)


if __name__ == "__main__":
    main()

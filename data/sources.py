"""What a run is told to learn from, opened: the shipped clips, a folder of splits, a file of clips or of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.captions import CAPTIONS, read_captions
from data.rates import at_rate
from data.rows import CAMERA_COLUMNS, LIGHT_COLUMNS, SCALE_COLUMNS, load_split
from data.split import Split


def open_split(dataset: str, split: str) -> Any:
    """The rows of a split of `dataset`: `drops`, a folder of splits, or a file, which is a split by itself.

    Returns: a `Split`, or of a file of prompts a table of captions.

    Raises:
        ValueError: there is none, or its rows lack columns.
    """
    if dataset != "drops" and Path(dataset).is_file():
        path = Path(dataset)
        if path.suffix.lower() != ".parquet":
            return read_captions(path)
        table, name = Split([path]), str(path)
    else:
        root = None if dataset == "drops" else Path(dataset)
        if root is not None and not root.is_dir():
            raise ValueError(
                f"dataset must be `drops` or a folder of splits, or a file of clips or prompts, but {dataset} does "
                "not exist"
            )
        if Path(split).name != split or split == "..":
            raise ValueError(f"a split must be the name of a folder in dataset and no path, got {split!r}")
        table, name = load_split(split, root), split
    check_columns(name, table.column_names)
    return table


def check_columns(split: str, names: list[str]) -> None:
    """Raise ValueError where rows lack what training needs: captions, and of clips their frame rate.

    Rows of a simulated scene have all columns of `data.rows` but the camera's and the scale's.
    """
    if "scene" in names:
        missing = sorted(set(LIGHT_COLUMNS) - {*SCALE_COLUMNS, *CAMERA_COLUMNS} - set(names))
        if missing:
            raise ValueError(
                f"split {split} must have the columns of `data.rows`, but lacks {', '.join(missing)}: "
                f"write it again with `python -m data.write --split {split}`"
            )
    if not set(CAPTIONS) & set(names):
        raise ValueError(f"split {split} must have a column `caption` or `prompt`, got {', '.join(names)}: add it")
    if "frames" in names and "fps" not in names:
        raise ValueError(f"split {split} has frames and must have a column `fps`, their frames a second: add it")
    half = [name for name in ("intrinsics", "world_from_camera") if name in names]
    if len(half) == 1:
        raise ValueError(f"split {split} has {half[0]} alone: a camera is intrinsics and world_from_camera, give both")


def check_scales(split: str, table: Any) -> None:
    """Raise ValueError, which names the clip, where some clips of a split have a scale and others none."""
    for name in SCALE_COLUMNS:
        if name not in table.column_names:
            continue
        values = np.array([np.nan if value is None else value for value in table[name]], dtype=float)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any() and not np.isnan(values).all():
            index = int(bad.argmax())
            clip = table["id"][index] if "id" in table.column_names else f"of row {index}"
            raise ValueError(
                f"split {split}: {name} must be > 0 for every clip, got {values[index]:g} for clip {clip}: give it "
                "one, or leave the column out"
            )


def check_rates(split: str, table: Any, fps: float, num_frames: int | None) -> None:
    """Raise ValueError, which names the clip, where clips have no frames at that rate, or not equally many of them."""
    rates = [float(rate) for rate in table["fps"]]
    counts: dict[float, int] = {}
    for index, rate in enumerate(rates):
        if rate not in counts:
            counts[rate] = len(at_rate(completed(table[index], split, index), fps, num_frames)["frames"])
    few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[few] != counts[many]:
        raise ValueError(
            f"split {split} has clips of {few:g} and of {many:g} frames a second, which give {counts[few]} and "
            f"{counts[many]} frames at fps {fps:g}: set num_frames to {counts[few]} or less"
        )


def completed(row: dict[str, Any], split: str, index: int) -> dict[str, Any]:
    """A row under the names of `data.rows`, with a name and a seed where it has none."""
    caption = next(row[name] for name in CAPTIONS if name in row)
    defaults = {"id": f"{split}-{index}", "seed": index}
    return defaults | {name: value for name, value in row.items() if name != "prompt"} | {"caption": caption}

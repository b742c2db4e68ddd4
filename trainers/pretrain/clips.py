"""Rendered clips in memory, as the estimators' training reads them.

Axes: N clips, T frames, S = T - 1 pairs, H rows, W columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

COLUMNS = {
    "frames_NTHW3": "frames",
    "mask_NTHW": "mask",
    "depth_NTHW": "depth_m",
    "flow_NSHW2": "flow_px",
    "intrinsics_N33": "intrinsics",
    "world_from_camera_N44": "world_from_camera",
}


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Arrays of many clips, small enough that thousands fit: bytes and half floats."""

    frames_NTHW3: Tensor
    """uint8 colours."""
    mask_NTHW: Tensor
    """uint8: 0 background, k the k-th object."""
    depth_NTHW: Tensor
    """float16, metres along the optical axis."""
    flow_NSHW2: Tensor
    """float16, px to the next frame."""
    intrinsics_N33: Tensor
    """float32, px."""
    world_from_camera_N44: Tensor
    """float32, metres."""

    def __len__(self) -> int:
        return self.frames_NTHW3.shape[0]


def read_clips(folders: Iterable[str | Path], limit: int) -> Clips | None:
    """The first `limit` clips of folders of Parquet files, or None where they have none (yet).

    Each file is decoded once; its tensors are kept beside it in `.tensors/`, and read from there the next time.
    """
    parts: list[dict[str, Tensor]] = []
    for file in (file for folder in folders for file in sorted(Path(folder).glob("*.parquet"))):
        left = limit - sum(len(part["mask_NTHW"]) for part in parts)
        if left <= 0:
            break
        parts.append({name: tensor[:left] for name, tensor in _decoded(file).items()})
    if not parts:
        return None
    return Clips(**{f.name: torch.cat([part[f.name] for part in parts]) for f in fields(Clips)})


def _decoded(file: Path) -> dict[str, Tensor]:
    kept = file.parent / ".tensors" / f"{file.stem}-{file.stat().st_mtime_ns}.safetensors"
    if kept.exists():
        return load_file(kept)
    table = pq.read_table(file, columns=list(COLUMNS.values()))
    shapes = datasets.Features.from_arrow_schema(table.schema)
    tensors = {ours: _column(table[name], shapes[name].shape) for ours, name in COLUMNS.items()}
    tensors |= {name: tensors[name].half() for name in ("depth_NTHW", "flow_NSHW2")}
    kept.parent.mkdir(exist_ok=True)
    temporary = kept.with_suffix(f".{os.getpid()}")
    save_file(tensors, temporary)
    os.replace(temporary, kept)
    return tensors


def _column(column: Any, shape: tuple[int, ...]) -> Tensor:
    """A column of fixed-shape arrays as one tensor, without going through Python lists."""
    values = column.combine_chunks()
    values = getattr(values, "storage", values)
    while hasattr(values.type, "value_type"):
        values = values.flatten()
    return torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False))).view(len(column), *shape)

"""Clips of any world as rows of a `datasets` table: loading a split, and batches of tensors.

A row of every world has the columns `BASE_COLUMNS`. What else it has is stacked too where a batch knows how.
`features`, `LIGHT_COLUMNS` and `HEAVY_COLUMNS` are the columns of bodies that a camera with known pose watches, as the
embedded world has them; a world may have others, see `data.worlds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from data.split import Split
from reward_physics.camera import Camera
from reward_physics.video import Video

BASE_COLUMNS = ("id", "split", "seed", "caption", "fps", "frames")
"""What every clip is a row of: its name, its split, the seed of its scene, a prompt, frames a second and pixels."""

SHIPPED = Path(__file__).resolve().parent / "drops" / "clips"
"""Folder of the splits that come with the project, one sub-folder per split."""

MAX_OBJECTS = 2

CAMERA_COLUMNS = ["poses", "intrinsics", "world_from_camera"]
"""Where the camera is and the bodies are; rows of filmed clips may have none."""

SCALE_COLUMNS = ["px_per_m", "object_diameter_m"]
"""What gives metres without a camera: pixels a metre at the object, and its true diameter in m. Rows may have none."""

LIGHT_COLUMNS = [
    "id", "seed", "caption", "kind", "shape", "at_rest", "fps", "g_m_s2", "radius_m", "height_m", "impact_times_s",
    "frames", "mask", *CAMERA_COLUMNS, "scene", *SCALE_COLUMNS,
]  # fmt: skip
"""What judging needs of them: depth and flow stay on the disk."""

HEAVY_COLUMNS = ["depth_m", "flow_px"]
"""What only estimators learn from; a light split has none."""


def features(frames: int, height: int, width: int) -> datasets.Features:
    """The typed columns of a clip of bodies: `frames` images of `height` x `width` pixels."""
    value, array = datasets.Value, datasets.Array3D
    return datasets.Features(
        {
            "id": value("string"),
            "split": value("string"),
            "seed": value("int64"),
            "caption": value("string"),
            "kind": value("string"),
            "shape": value("string"),
            "at_rest": value("bool"),
            "fps": value("float32"),
            "g_m_s2": value("float32"),
            "radius_m": value("float32"),
            "height_m": value("float32"),
            "impact_times_s": datasets.List(value("float32")),
            "frames": datasets.Array4D((frames, height, width, 3), "uint8"),
            "depth_m": array((frames, height, width), "float32"),
            "mask": array((frames, height, width), "uint8"),
            "flow_px": datasets.Array4D((frames - 1, height, width, 2), "float32"),
            "poses": array((frames, MAX_OBJECTS, 7), "float32"),
            "intrinsics": datasets.Array2D((3, 3), "float32"),
            "world_from_camera": datasets.Array2D((4, 4), "float32"),
            "scene": value("string"),
        }
    )


def load_split(
    split: str, root: str | Path | None = None, columns: Sequence[str] | None = None, *, without: Sequence[str] = ()
) -> Split:
    """The rows of every Parquet file of `root/split` (the shipped clips by default), in the order of the files' names.

    Several splits are joined by +, as `practice+tall`.

    Args:
        columns: those to read; by default all.
        without: columns to leave out.

    Returns: a table whose rows are NumPy arrays.

    Raises: ValueError where a folder holds no Parquet file or a file cannot be read.
    """
    files: list[Path] = []
    for name in split.split("+"):
        folder = Path(root or SHIPPED) / name
        paths = sorted(folder.glob("*.parquet"))
        if not paths:
            known = ", ".join(sorted(path.name for path in folder.parent.glob("*/"))) or "none"
            raise ValueError(
                f"split {name!r}: expected Parquet files in {folder}, found none (splits there: {known}): "
                f"name another split or write it with `python -m data.write --split {name}`"
            )
        files += paths
    return Split(files, columns, without)


TENSORS: dict[str, tuple[str, torch.dtype]] = {
    "mask": ("mask_BTHW", torch.uint8),
    "depth_m": ("depth_BTHW", torch.float32),
    "flow_px": ("flow_BSHW2", torch.float32),
    "poses": ("poses_BTN7", torch.float32),
    "intrinsics": ("intrinsics_B33", torch.float32),
    "world_from_camera": ("world_from_camera_B44", torch.float32),
}
"""Columns that are arrays: what each is called in a batch, and its type."""


def collate(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack rows: frames_BTCHW in [0, 1], depth_BTHW (m), mask_BTHW, flow_BSHW2 (px), poses_BTN7 and the scalars.

    Columns that some of the rows lack are left out. A further column of numbers becomes `NAME_B`, one of texts or of
    lists a list under its own name; `split` says nothing of a clip and is dropped.

    Raises:
        ValueError: clips of several sizes, with the name of the clip that differs.
    """
    rows = list(rows)
    batch: dict[str, Any] = {}
    for name, first in rows[0].items():
        value = np.asarray(first)
        if name == "split" or any(name not in row for row in rows):
            continue
        if name == "frames":
            batch["frames_BTCHW"] = _stacked(rows, name, torch.float32).permute(0, 1, 4, 2, 3).contiguous() / 255
        elif name in TENSORS:
            ours, dtype = TENSORS[name]
            batch[ours] = _stacked(rows, name, dtype)
        elif value.ndim == 0 and value.dtype.kind in "USO":
            batch[name] = [str(row[name]) for row in rows]
        elif value.ndim == 0:
            dtype = {"at_rest": torch.bool, "seed": torch.int64}.get(name, torch.float32)
            batch[f"{name}_B"] = _stacked(rows, name, dtype)
        else:
            batch[name] = [np.asarray(row[name]).tolist() for row in rows]
    return batch


def _stacked(rows: Sequence[Mapping[str, Any]], name: str, dtype: torch.dtype) -> torch.Tensor:
    values = [np.asarray(row[name]) for row in rows]
    for row, value in zip(rows, values, strict=True):
        if value.shape != values[0].shape:
            shapes = [" x ".join(map(str, each.shape)) or "one number" for each in (value, values[0])]
            raise ValueError(
                f"clips of a batch must have one size, but {name} of clip {row['id']} is {shapes[0]} and of clip "
                f"{rows[0]['id']} {shapes[1]}: write the split at one size, or take as many frames with num_frames"
            )
    return torch.as_tensor(np.stack(values), dtype=dtype)


def reward_columns(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a reward may ask for by name: all of a collated batch, its true clips as `reference_BTCHW`."""
    return {"reference_BTCHW" if name == "frames_BTCHW" else name: value for name, value in batch.items()}


def to_camera(batch: Mapping[str, Any]) -> Camera:
    """The cameras of a collated batch."""
    height, width = batch["frames_BTCHW"].shape[-2:]
    return Camera(
        intrinsics_B33=batch["intrinsics_B33"],
        world_from_camera_B44=batch["world_from_camera_B44"],
        height_px=height,
        width_px=width,
    )


def to_video(batch: Mapping[str, Any]) -> Video:
    """A collated batch as a `Video`, with what its rows report of the scene.

    That is the camera, the objects' masks and the first one's distance in the first frame, whether all are at rest, and
    the scale of clips without a camera.
    """
    camera = to_camera(batch) if "intrinsics_B33" in batch else None
    mask_BHW = batch["mask_BTHW"][:, 0] if "mask_BTHW" in batch else None
    depth_B = None
    if camera is not None and "poses_BTN7" in batch:
        _, depth_B = camera.project(batch["poses_BTN7"][:, 0, 0, :3])
    return Video(
        frames_BTCHW=batch["frames_BTCHW"],
        fps_B=batch["fps_B"],
        camera=camera,
        first_mask_BHW=None if mask_BHW is None else (mask_BHW == 1).float(),
        object_masks_BNHW=None
        if mask_BHW is None
        else torch.stack([(mask_BHW == n + 1).float() for n in range(MAX_OBJECTS)], dim=1),
        object_depth_m_B=depth_B,
        at_rest_B=batch.get("at_rest_B"),
        **{f"{name}_B": _known(batch.get(f"{name}_B")) for name in SCALE_COLUMNS},
    )


def _known(value_B: torch.Tensor | None) -> torch.Tensor | None:
    """A number of each clip, or None where no clip has one."""
    return None if value_B is None or value_B.isnan().all() else value_B

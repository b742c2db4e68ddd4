"""Clips as rows of a `datasets` table: the typed columns, loading a split, and batches of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.drops.scenes import Scene
from data.drops.simulation import Geometry, Motion, camera_matrices
from reward_physics.camera import Camera
from reward_physics.video import Video

SHIPPED = Path(__file__).resolve().parent / "drops" / "clips"
"""Folder of the splits that come with the project, one sub-folder a split."""

MAX_OBJECTS = 2

LIGHT_COLUMNS = [
    "id", "seed", "caption", "kind", "shape", "at_rest", "fps", "g_m_s2", "radius_m", "height_m", "impact_times_s",
    "frames", "mask", "poses", "intrinsics", "world_from_camera", "scene",
]  # fmt: skip
"""All that `collate` needs: depth and flow stay on the disk."""

HEAVY_COLUMNS = ["depth_m", "flow_px"]
"""What only estimators learn from; a light split has none."""


def features(frames: int, height: int, width: int) -> datasets.Features:
    """The typed columns of a clip of `frames` images of `height` x `width` pixels."""
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


def make_row(scene: Scene, split: str, motion: Motion, geometry: Geometry, frames_THW3: np.ndarray) -> dict[str, Any]:
    """One clip as a row; depth is kept to a tenth of a millimetre and flow to 1/1024 px, so that files stay small."""
    intrinsics, pose = camera_matrices(scene)
    poses = np.zeros((scene.frames, MAX_OBJECTS, 7), np.float32)
    poses[:, : len(scene.bodies)] = motion.poses_TN7
    return {
        "id": f"{split}-{scene.seed}",
        "split": split,
        "seed": scene.seed,
        "caption": scene.caption,
        "kind": scene.kind,
        "shape": scene.bodies[0].shape,
        "at_rest": scene.at_rest,
        "fps": scene.fps,
        "g_m_s2": scene.g_m_s2,
        "radius_m": scene.bodies[0].size_m,
        "height_m": scene.release_height_m,
        "impact_times_s": list(motion.impact_times_s[0]),
        "frames": frames_THW3,
        "depth_m": geometry.depth_THW.round(4).astype(np.float32),
        "mask": geometry.mask_THW,
        "flow_px": (np.round(geometry.flow_SHW2 * 1024) / 1024).astype(np.float32),
        "poses": poses,
        "intrinsics": intrinsics.astype(np.float32),
        "world_from_camera": pose.astype(np.float32),
        "scene": scene.to_json(),
    }


def load_split(split: str, root: str | Path | None = None, columns: list[str] | None = None) -> datasets.Dataset:
    """Load every Parquet file of `root/split` (the shipped clips by default), in the order of their names.

    Several splits are joined by +, as `practice+tall`.

    Returns: a table whose rows are NumPy arrays.

    Raises: ValueError where a folder holds no Parquet file or a file cannot be read.
    """
    files: list[Path] = []
    for name in split.split("+"):
        folder = Path(root or SHIPPED) / name
        found = sorted(folder.glob("*.parquet"))
        if not found:
            known = ", ".join(sorted(path.name for path in folder.parent.glob("*/"))) or "none"
            raise ValueError(
                f"split {name!r}: expected Parquet files in {folder}, found none (splits there: {known}): "
                f"name another split or write it with `python -m data.write --split {name}`"
            )
        files += found
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file, columns=columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file}: expected a Parquet file of clips, could not read it ({error})") from error
    table = pa.concat_tables(tables).replace_schema_metadata(tables[0].schema.metadata)
    key = "|".join(f"{file}:{file.stat().st_mtime_ns}" for file in files) + f"|{columns}"
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:16]  # by default `datasets` hashes every pixel: seconds
    return datasets.Dataset(table, fingerprint=fingerprint).with_format("numpy")


def collate(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack rows: frames_BTCHW in [0, 1], depth_BTHW (m), mask_BTHW, flow_BSHW2 (px), poses_BTN7 and the scalars.

    Depth and flow, large and not needed by all, are left out where the rows lack them.
    """
    rows = list(rows)

    def stack(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.as_tensor(np.stack([np.asarray(row[name]) for row in rows]), dtype=dtype)

    texts = ("id", "caption", "kind", "shape", "scene")
    batch: dict[str, Any] = {name: [str(row[name]) for row in rows] for name in texts}
    batch["frames_BTCHW"] = stack("frames").permute(0, 1, 4, 2, 3).contiguous() / 255
    batch["mask_BTHW"] = stack("mask", torch.uint8)
    for ours, name in (("depth_BTHW", "depth_m"), ("flow_BSHW2", "flow_px")):
        if name in rows[0]:
            batch[ours] = stack(name)
    batch["poses_BTN7"] = stack("poses")
    batch["intrinsics_B33"] = stack("intrinsics")
    batch["world_from_camera_B44"] = stack("world_from_camera")
    for name in ("fps", "g_m_s2", "radius_m", "height_m", "at_rest", "seed"):
        dtype = {"at_rest": torch.bool, "seed": torch.int64}.get(name, torch.float32)
        batch[f"{name}_B"] = stack(name, dtype)
    batch["impact_times_s"] = [[float(time) for time in row["impact_times_s"]] for row in rows]
    return batch


def reward_columns(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a reward may ask for by name: all of a collated batch, its true clips as `reference_BTCHW`."""
    return {name: value for name, value in batch.items() if name != "frames_BTCHW"} | {
        "reference_BTCHW": batch["frames_BTCHW"]
    }


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
    """A collated batch as a `Video` with its camera, frame rate, the objects' masks and the first one's distance in the
    first frame."""
    camera = to_camera(batch)
    _, depth_B = camera.project(batch["poses_BTN7"][:, 0, 0, :3])
    return Video(
        frames_BTCHW=batch["frames_BTCHW"],
        fps_B=batch["fps_B"],
        camera=camera,
        first_mask_BHW=(batch["mask_BTHW"][:, 0] == 1).float(),
        object_masks_BNHW=torch.stack([(batch["mask_BTHW"][:, 0] == n + 1).float() for n in range(MAX_OBJECTS)], dim=1),
        object_depth_m_B=depth_B,
        at_rest_B=batch["at_rest_B"],
    )

"""The columns of a clip of drops, and one simulated clip as a row of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np

from data.drops.scenes import Scene
from data.drops.simulation import Geometry, Motion, camera_matrices

SHIPPED = Path(__file__).resolve().parent / "clips"
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

"""The embedded world of falling things, as a `World`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np

from data.drops import simulation
from data.drops.ranges import SPLIT_SEEDS, SPLITS
from data.drops.scenes import Scene, draw_scene
from data.drops.simulation import Geometry, Motion, camera_matrices
from data.drops.truth import TrueScene
from data.rows import HEAVY_COLUMNS, LIGHT_COLUMNS, MAX_OBJECTS, SCALE_COLUMNS, SHIPPED, features
from data.worlds import World
from reward_physics.figures.metrics import STANDARD_G_M_S2


class Drops(World):
    """Things that are dropped, thrown or pushed on a tiled floor; the constant of its law is g in m/s^2."""

    name = "drops"
    splits = tuple(SPLITS)
    columns = tuple(name for name in LIGHT_COLUMNS if name not in SCALE_COLUMNS)
    heavy_columns = tuple(HEAVY_COLUMNS)
    shipped = SHIPPED
    report = "falls"

    def draw(
        self,
        split: str,
        number: int,
        *,
        frames: int,
        side_px: int,
        law: float | None = None,
        fps: float | None = None,
    ) -> Scene:
        """Scene `number` of a split, under its own g and at its own rate, or those given."""
        seed = SPLIT_SEEDS[split] + number
        scene = draw_scene(seed, SPLITS[split], frames=frames, height_px=side_px, width_px=side_px)
        scene = scene if fps is None else dataclasses.replace(scene, fps=fps)
        return scene if law is None else scene.with_gravity(law)

    def simulate(self, scene: Scene) -> Motion:
        """Poses and impacts by MuJoCo."""
        return simulation.simulate(scene)

    def render(self, scene: Scene, motion: Motion) -> np.ndarray:
        """frames_THW3 by MuJoCo's renderer, which needs OpenGL."""
        return simulation.render(scene, motion)

    def features(self, frames: int, height: int, width: int) -> datasets.Features:
        """The typed columns of a clip."""
        return features(frames, height, width)

    def row(self, scene: Scene, split: str, motion: Motion, frames_THW3: np.ndarray) -> dict[str, Any]:
        """One clip as a row, with depth, masks and flow by ray casting."""
        return make_row(scene, split, motion, simulation.geometry(scene, motion), frames_THW3)

    def truth(self, row: Mapping[str, Any]) -> TrueScene:
        """The row's scene under any g, by simulation."""
        return TrueScene(Scene.from_json(str(row["scene"])))

    def law(self, row: Mapping[str, Any], *, is_true: bool) -> float:
        """The g that is right, m/s^2: the scene's own in a true clip, 9.81 in a generated one."""
        return float(row["g_m_s2"]) if is_true else STANDARD_G_M_S2


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

"""What the simulator says of a scene under any gravity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.drops.scenes import Scene
from data.drops.simulation import camera_matrices, geometry, simulate
from reward_physics.camera import Camera
from reward_physics.figures.metrics import STANDARD_G_M_S2

LEAST_G_M_S2 = 0.1
"""A fitted g below this (a thing that hovers or rises) is simulated with this."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What the simulator says of the first object under one gravity."""

    mask_THW: Tensor
    position_T3: Tensor
    centroid_T2: Tensor
    """Its centre in the picture, px."""
    impact_s: float


class TrueScene:
    """A scene of drops under any gravity, by simulation and ray casting; each gravity is simulated once."""

    def __init__(self, scene: Scene) -> None:
        intrinsics, pose = (torch.tensor(matrix, dtype=torch.float32)[None] for matrix in camera_matrices(scene))
        self.scene = scene
        self.camera = Camera(
            intrinsics_B33=intrinsics,
            world_from_camera_B44=pose,
            height_px=scene.height_px,
            width_px=scene.width_px,
        )
        self._truths: dict[float, Truth] = {}

    def at(self, g_m_s2: float) -> Truth:
        """The scene under this gravity, to 0.1 m/s^2 (but 9.81 exactly)."""
        g = max(LEAST_G_M_S2, round(g_m_s2, 1) if abs(g_m_s2 - STANDARD_G_M_S2) > 1e-3 else g_m_s2)
        if g not in self._truths:
            scene = self.scene.with_gravity(g)
            motion = simulate(scene)
            impacts = motion.impact_times_s[0]
            position_T3 = torch.from_numpy(motion.poses_TN7[:, 0, :3].astype(np.float32))
            self._truths[g] = Truth(
                mask_THW=torch.from_numpy(geometry(scene, motion).mask_THW == 1).float(),
                position_T3=position_T3,
                centroid_T2=self.camera.project(position_T3[None])[0][0],
                impact_s=impacts[0] if impacts else math.inf,
            )
        return self._truths[g]

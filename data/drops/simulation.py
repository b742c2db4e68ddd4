"""MuJoCo simulation of a `Scene`: motion, exact depth, masks and optical flow by ray casting, and rendered pixels.

Only `render` needs OpenGL (EGL or OSMesa); simulation and geometry run anywhere. World frame: z up, metres. Camera
frame: OpenCV (x right, y down, z forward). The centre of pixel (row i, column j) is at (u, v) = (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import ctypes.util
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.drops.scenes import LOOK_AT_M, TILE_M, Body, Scene

GL_LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}

# MuJoCo chooses its OpenGL at its first import, so the choice is made before any.
os.environ.setdefault(
    "MUJOCO_GL", next((gl for gl, library in GL_LIBRARIES.items() if ctypes.util.find_library(library)), "disable")
)

CONTACT_SECONDS = 0.012
"""How long an impact lasts; sets the contact stiffness."""

REBOUND_SECONDS = 0.04
"""A contact after less time in the air than this belongs to the impact before it."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What the simulator did. T frames, N objects."""

    poses_TN7: np.ndarray
    """Position (m) and orientation (quaternion w, x, y, z) of every object at every frame."""
    impact_times_s: tuple[tuple[float, ...], ...]
    """For each object the times at which it hit something after flying."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What an ideal camera measures of a clip, without noise and at pixel centres."""

    depth_THW: np.ndarray
    """Distance along the optical axis in metres."""
    mask_THW: np.ndarray
    """Zero for the background, k for the k-th object, counted from one."""
    flow_SHW2: np.ndarray
    """Displacement in pixels (right, down) from frame t to t + 1; S = T - 1."""


def _mujoco() -> Any:
    import mujoco  # its functions come from a compiled module that type checkers cannot read

    return mujoco


def camera_matrices(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics (3, 3) in pixels and the world-from-camera transform (4, 4), OpenCV axes."""
    focal = 0.5 * scene.height_px / math.tan(math.radians(scene.fov_deg) / 2)
    intrinsics = np.array([[focal, 0, scene.width_px / 2], [0, focal, scene.height_px / 2], [0, 0, 1]])
    pitch = math.radians(scene.pitch_deg)
    forward = np.array([0.0, math.cos(pitch), -math.sin(pitch)])
    right = np.array([1.0, 0.0, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = np.array(LOOK_AT_M) - scene.distance_m * forward
    return intrinsics, pose


def simulate(scene: Scene) -> Motion:
    """Run the scene and return the poses at its frames; the first frame is the moment of release."""
    mujoco = _mujoco()
    model = mujoco.MjModel.from_xml_string(scene_xml(scene))
    state = mujoco.MjData(model)
    for k, body in enumerate(scene.bodies):
        state.qvel[6 * k : 6 * k + 3] = body.velocity_m_s
    steps = max(1, math.ceil(1000 / scene.fps))
    model.opt.timestep = 1 / (scene.fps * steps)
    mujoco.mj_forward(model, state)
    poses = np.empty((scene.frames, len(scene.bodies), 7))
    last_touch = [0.0 if _touches(model, state, k) else -math.inf for k in range(len(scene.bodies))]
    impacts: list[list[float]] = [[] for _ in scene.bodies]
    for t in range(scene.frames):
        poses[t] = state.qpos.reshape(-1, 7)
        for _ in range(steps if t + 1 < scene.frames else 0):
            mujoco.mj_step(model, state)
            for k in range(len(scene.bodies)):
                if _touches(model, state, k):
                    if state.time - last_touch[k] > REBOUND_SECONDS:
                        impacts[k].append(float(state.time))
                    last_touch[k] = state.time
    return Motion(poses_TN7=poses, impact_times_s=tuple(tuple(times) for times in impacts))


def geometry(scene: Scene, motion: Motion) -> Geometry:
    """Cast one ray per pixel and frame; the flow follows each visible surface point to the next frame."""
    mujoco = _mujoco()
    model = mujoco.MjModel.from_xml_string(scene_xml(scene))
    state = mujoco.MjData(model)
    intrinsics, pose = camera_matrices(scene)
    height, width, frames = scene.height_px, scene.width_px, scene.frames
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.linalg.inv(intrinsics) @ np.stack([u.ravel(), v.ravel(), np.ones(height * width)])
    rays_world = np.ascontiguousarray((pose[:3, :3] @ rays).T)
    lengths = np.linalg.norm(rays_world, axis=1)
    directions = np.ascontiguousarray(rays_world / lengths[:, None]).ravel()
    body_index = np.array([max(0, b) for b in model.geom_bodyid])
    depth = np.empty((frames, height * width))
    mask = np.empty((frames, height * width), np.uint8)
    flow = np.zeros((frames - 1, height * width, 2))
    geom_ids = np.zeros(height * width, np.int32)
    distance = np.zeros(height * width)
    for t in range(frames):
        state.qpos[:] = motion.poses_TN7[t].ravel()
        mujoco.mj_kinematics(model, state)
        mujoco.mj_multiRay(
            model, state, pose[:3, 3], directions, None, 1, -1, geom_ids, distance, None, height * width, 1e3
        )
        depth[t] = distance / lengths
        mask[t] = np.where(geom_ids >= 0, body_index[geom_ids], 0)
        if t + 1 < frames:
            flow[t] = _rigid_flow(motion.poses_TN7[t], motion.poses_TN7[t + 1], mask[t], depth[t], rays, scene)
    return Geometry(
        depth_THW=depth.reshape(frames, height, width),
        mask_THW=mask.reshape(frames, height, width),
        flow_SHW2=flow.reshape(frames - 1, height, width, 2),
    )


def _rigid_flow(
    pose_N7: np.ndarray, next_pose_N7: np.ndarray, mask: np.ndarray, depth: np.ndarray, rays: np.ndarray, scene: Scene
) -> np.ndarray:
    intrinsics, camera = camera_matrices(scene)
    flow = np.zeros((mask.size, 2))
    for k in range(len(pose_N7)):
        here = np.flatnonzero(mask == k + 1)
        world = camera[:3, :3] @ (rays[:, here] * depth[here]) + camera[:3, 3:]
        local = _rotation(pose_N7[k, 3:]).T @ (world - pose_N7[k, :3, None])
        moved = _rotation(next_pose_N7[k, 3:]) @ local + next_pose_N7[k, :3, None]
        pixels = intrinsics @ (camera[:3, :3].T @ (moved - camera[:3, 3:]))
        before = intrinsics @ rays[:, here]
        flow[here] = (pixels[:2] / pixels[2] - before[:2]).T
    return flow


def render(scene: Scene, motion: Motion) -> np.ndarray:
    """Draw the clip with MuJoCo's renderer.

    Returns: frames_THW3 uint8.
    Raises: RuntimeError where neither EGL nor OSMesa can be used.
    """
    mujoco = _mujoco()
    if not hasattr(mujoco, "GLContext"):
        raise RuntimeError(
            f"rendering needs OpenGL without a screen, and MUJOCO_GL={os.environ['MUJOCO_GL']} gives none: "
            "install Debian's libosmesa6, or libegl1 and set MUJOCO_GL=egl"
        )
    model = mujoco.MjModel.from_xml_string(scene_xml(scene))
    state = mujoco.MjData(model)
    frames = np.empty((scene.frames, scene.height_px, scene.width_px, 3), np.uint8)
    with mujoco.Renderer(model, scene.height_px, scene.width_px) as renderer:
        for t in range(scene.frames):
            state.qpos[:] = motion.poses_TN7[t].ravel()
            mujoco.mj_forward(model, state)
            renderer.update_scene(state, "camera")
            frames[t] = renderer.render()
    return frames


def scene_xml(scene: Scene) -> str:
    """MJCF of the scene: a tiled floor, a plain wall behind, one light with shadow, the objects, the camera."""
    _, pose = camera_matrices(scene)
    right, down = pose[:3, 0], pose[:3, 1]
    damping_ratio = -math.log(scene.restitution) / math.hypot(math.pi, math.log(scene.restitution))
    frequency = math.pi / (CONTACT_SECONDS * math.sqrt(1 - damping_ratio**2))
    contact = f'solref="{-(frequency**2):.6g} {-2 * damping_ratio * frequency:.6g}" solimp="0.99 0.99 0.001 0.5 2"'
    bodies = "".join(_body_xml(k, body) for k, body in enumerate(scene.bodies))
    assets = "".join(_texture_xml(f"object{k}", body) for k, body in enumerate(scene.bodies))
    light, strength = scene.light_direction, scene.light_strength
    light_position = [-3.0 * c for c in light]
    return f"""
<mujoco>
  <option gravity="0 0 {-scene.g_m_s2:.9g}" timestep="0.001" integrator="implicitfast"/>
  <visual>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient="0.4 0.4 0.4" diffuse="{0.9 - strength} {0.9 - strength} {0.9 - strength}" specular="0 0 0"/>
    <global offwidth="{scene.width_px}" offheight="{scene.height_px}"/>
    <map znear="0.01"/>
  </visual>
  <default><geom {contact} friction="{scene.friction:.6g} 0.005 0.0001"/></default>
  <asset>
    <texture name="tiles" type="2d" builtin="checker" width="256" height="256"
             rgb1="{_numbers(scene.floor_colours[0])}" rgb2="{_numbers(scene.floor_colours[1])}"/>
    <material name="floor" texture="tiles" texuniform="true" texrepeat="{0.5 / TILE_M} {0.5 / TILE_M}"/>
    {assets}
  </asset>
  <worldbody>
    <light type="directional" pos="{_numbers(light_position)}" dir="{_numbers(light)}" castshadow="true"
           diffuse="{strength} {strength} {strength}" specular="0.1 0.1 0.1"/>
    <camera name="camera" pos="{_numbers(pose[:3, 3])}" xyaxes="{_numbers(right)} {_numbers(-down)}"
            fovy="{scene.fov_deg:.9g}"/>
    <geom type="plane" size="30 30 1" material="floor"/>
    <geom type="plane" pos="0 {scene.wall_distance_m:.9g} 0" zaxis="0 -1 0" size="30 30 1"
          rgba="{_numbers(scene.wall_colour)} 1"/>
    {bodies}
  </worldbody>
</mujoco>"""


def _texture_xml(name: str, body: Body) -> str:
    builtin = "checker" if body.textured else "flat"
    return f"""
    <texture name="{name}" type="cube" builtin="{builtin}" width="64" height="64"
             rgb1="{_numbers(body.colour)}" rgb2="{_numbers(body.second_colour)}"/>
    <material name="{name}" texture="{name}" texuniform="true" texrepeat="4 4" specular="0.2"/>"""


def _body_xml(index: int, body: Body) -> str:
    return f"""
    <body pos="{_numbers(body.position_m)}" quat="{_numbers(body.quaternion_wxyz)}">
      <freejoint/>
      <geom type="{body.shape}" size="{_numbers(body.half_extents_m)}" material="object{index}" density="300"/>
    </body>"""


def _numbers(values) -> str:
    return " ".join(f"{float(value):.9g}" for value in values)


def _touches(model, state, index: int) -> bool:
    bodies = model.geom_bodyid[state.contact.geom[: state.ncon]]
    return bool(np.any(bodies == index + 1)) if state.ncon else False


def _rotation(quaternion_wxyz: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion_wxyz
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )

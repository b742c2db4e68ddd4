"""The scenes of the measuring benchmark: a ball that falls, is thrown or bounces on a path known in closed form, what
exact instruments see of it, and how it is rendered.

The ball moves as x(t) = x_0 + v t - g t^2 / 2 e_z; where it touches the floor its vertical speed turns round and is
multiplied by the restitution. Exact masks hold the covered share of every pixel (5 x 5 rays), exact depth is that of
the visible surface and exact flow that of its points.

Axes: B clips, T frames, S = T - 1 pairs, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math
import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.drops.ranges import TRAINING
from data.drops.scenes import Body, Scene, draw_scene
from data.drops.simulation import Motion, camera_matrices, render
from reward_physics.camera import Camera
from reward_physics.estimators.depth import Depth
from reward_physics.video import Video

KINDS = ("fall", "throw", "bounce")
DISTANCE_M, FOV_DEG = 3.6, 46.0
MIN_CLEAN_FRAMES = 5
_RAYS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of the grid.

    Args:
        fps: frames a second.
        g_m_s2: gravity.
        diameter_px: of the ball in the picture, which has 64 px a side up to a diameter of 16 px, and 128 px above.
        pitch_deg: how far the camera looks down.
        kind: fall, throw or bounce.
    """

    fps: float
    g_m_s2: float
    diameter_px: float
    pitch_deg: float
    kind: str

    @property
    def side_px(self) -> int:
        return 64 if self.diameter_px <= 16 else 128

    @property
    def frames(self) -> int:
        """As many as the embedded world's clips have, and more where they would end before anything has moved."""
        return 17 if self.fps < 40 else 33

    @property
    def focal_px(self) -> float:
        return 0.5 * self.side_px / math.tan(math.radians(FOV_DEG) / 2)

    @property
    def radius_m(self) -> float:
        return 0.5 * self.diameter_px * DISTANCE_M / self.focal_px


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """One draw of a cell: the scene, the path of the centre, and the moments at which it touches the floor."""

    cell: Cell
    scene: Scene
    centre_T3: np.ndarray
    impacts_s: tuple[float, ...]
    """The last is where the ball comes to rest, if `rests`."""
    rests: bool
    fall_m: float
    """Height between the highest and the lowest point of the first flight that the clip shows."""


def draw(cell: Cell, seed: int) -> Drawn:
    """Draw where it starts, how it is thrown, how it bounces, its looks, the room and the light."""
    rng = np.random.default_rng(seed)
    r, g = cell.radius_m, cell.g_m_s2
    side = float(rng.choice((-1.0, 1.0)))
    restitution = rng.uniform(0.7, 0.85) if cell.kind == "bounce" else rng.uniform(0.2, 0.5)
    velocity = (0.0, 0.0, 0.0)
    if cell.kind == "throw":
        start_z, climb = r + rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.7)
        flight_s = math.sqrt(2 * climb / g) + math.sqrt(2 * (climb + start_z - r) / g)
        velocity = (-side * rng.uniform(0.6, 1.0) / flight_s, 0.0, math.sqrt(2 * g * climb))
        start = (side * rng.uniform(0.3, 0.5), rng.uniform(-0.2, 0.2), start_z)
    else:
        start = (rng.uniform(-0.45, 0.45), rng.uniform(-0.2, 0.2), r + rng.uniform(1.2, 1.4))
    time = np.arange(cell.frames) / cell.fps
    centre, impacts, rests = _path(np.array(start), np.array(velocity), g, r, restitution, time)
    scene = draw_scene(seed, TRAINING, frames=cell.frames, height_px=cell.side_px, width_px=cell.side_px)
    looks = scene.bodies[0]
    body = Body(
        shape="sphere",
        size_m=r,
        colour=looks.colour,
        second_colour=looks.second_colour,
        textured=looks.textured,
        position_m=start,
        quaternion_wxyz=looks.quaternion_wxyz,
        velocity_m_s=velocity,
    )
    scene = dataclasses.replace(
        scene,
        bodies=(body,),
        kind={"fall": "drop"}.get(cell.kind, cell.kind),
        g_m_s2=g,
        fps=cell.fps,
        restitution=float(restitution),
        pitch_deg=cell.pitch_deg,
        fov_deg=FOV_DEG,
        distance_m=DISTANCE_M,
    )
    flying = centre[time <= impacts[0], 2] if impacts else centre[:, 2]
    return Drawn(cell=cell, scene=scene, centre_T3=centre, impacts_s=impacts, rests=rests, fall_m=float(np.ptp(flying)))


def _path(
    start: np.ndarray, velocity: np.ndarray, g: float, radius: float, restitution: float, time: np.ndarray
) -> tuple[np.ndarray, tuple[float, ...], bool]:
    """Centres (T, 3), the times of the impacts within the clip, and whether it comes to rest: on rebounds of 1 mm."""
    centre = np.empty((len(time), 3))
    impacts: list[float] = []
    begun, z, v, rests = 0.0, float(start[2]), float(velocity[2]), False
    for t, moment in enumerate(time):
        while not rests:
            impact = begun + (v + math.sqrt(v * v + 2 * g * (z - radius))) / g
            if moment < impact:
                break
            impacts.append(impact)
            v = restitution * (g * (impact - begun) - v)
            begun, z, rests = impact, radius, v * v / (2 * g) < 1e-3
        s = moment - begun
        height = radius if rests else z + v * s - 0.5 * g * s * s
        centre[t] = start[0] + velocity[0] * moment, start[1] + velocity[1] * moment, height
    return centre, tuple(impacts), rests


def camera_of(drawn: list[Drawn]) -> Camera:
    """The cameras of draws of one size."""
    matrices = [camera_matrices(clip.scene) for clip in drawn]
    return Camera(
        intrinsics_B33=torch.tensor(np.stack([k for k, _ in matrices]), dtype=torch.float64),
        world_from_camera_B44=torch.tensor(np.stack([pose for _, pose in matrices]), dtype=torch.float64),
        height_px=drawn[0].cell.side_px,
        width_px=drawn[0].cell.side_px,
    )


def clean_range(drawn: Drawn) -> tuple[range, float]:
    """The frames of the flight that is to be measured, wholly in the picture, and the pixels of a vertical metre there.

    It is the first flight that has five such frames, else the longest; the camera's tilt shortens a vertical metre.
    """
    cell, camera = drawn.cell, camera_of([drawn])
    centre = torch.tensor(drawn.centre_T3)[None]
    uv, depth = camera.project(centre)
    reach = cell.focal_px * cell.radius_m / depth[0]
    inside = ((uv[0] - reach[:, None] > 0) & (uv[0] + reach[:, None] < cell.side_px)).all(-1).numpy()
    time = np.arange(cell.frames) / cell.fps
    ends = list(drawn.impacts_s) if drawn.rests else [*drawn.impacts_s, math.inf]
    flights = []
    for begin, end in zip([-1.0, *ends], ends, strict=False):
        frames = np.flatnonzero(inside & (time > begin) & (time < end))
        flights.append(range(frames[0], frames[-1] + 1) if len(frames) else range(0))
    chosen = next((flight for flight in flights if len(flight) >= MIN_CLEAN_FRAMES), max(flights, key=len))
    middle = centre[:, list(chosen) or [0]].mean(1, keepdim=True)
    up = middle + torch.tensor([0.0, 0.0, 1e-3])
    return chosen, float((camera.project(up)[0] - camera.project(middle)[0]).norm()) / 1e-3


def provenance(command: str) -> str:
    """The line under a table: command and commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    return f"`{command}` at commit {commit.strip() or 'unknown'}."


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


class Exact:
    """Exact depth, masks and flow of some draws, as an Observation's instruments `depth` and `flow`."""

    metric = True

    def __init__(self, drawn: list[Drawn]) -> None:
        self.camera = camera_of(drawn)
        pose = self.camera.world_from_camera_B44
        world = torch.tensor(np.stack([clip.centre_T3 for clip in drawn]))
        self.centre_BT3 = (pose[:, None, :3, :3].mT @ (world - pose[:, None, :3, 3])[..., None])[..., 0]
        self.radius_B = torch.tensor([clip.cell.radius_m for clip in drawn], dtype=torch.float64)

    def _hit(self, shift_u: float, shift_v: float, frames: int) -> tuple[Tensor, Tensor]:
        """z-depth of the ball along the rays through all pixels, moved by a part of a pixel, and where they hit it."""
        uv = self.camera.rays_uv() + torch.tensor([shift_u, shift_v], dtype=torch.float64)
        k = self.camera.intrinsics_B33[0]
        ray = torch.cat(((uv - k[:2, 2]) / k[0, 0], torch.ones_like(uv[..., :1])), dim=-1)
        centre = self.centre_BT3[:, :frames]
        along = torch.einsum("hwi,bti->bthw", ray, centre)
        length2 = ray.square().sum(-1)
        away = centre.square().sum(-1)[..., None, None] - self.radius_B.square()[:, None, None, None]
        inside = along.square() - length2 * away
        return (along - inside.clamp(min=0).sqrt()) / length2, inside > 0

    def __call__(self, frames_BTCHW: Tensor, camera: Camera | None = None) -> Depth:
        frames = frames_BTCHW.shape[1]
        shifts = [(n + 0.5) / _RAYS - 0.5 for n in range(_RAYS)]
        share = sum(self._hit(u, v, frames)[1].float() for u in shifts for v in shifts) / _RAYS**2
        share = torch.as_tensor(share).clamp(1e-4, 1 - 1e-4)
        depth, _ = self._hit(0.0, 0.0, frames)
        return Depth(depth_BTHW=depth.float(), metric=True, mask_logits_BTHW=torch.logit(share))

    def flow(self, frames_BTCHW: Tensor, *, stride: int = 1) -> Tensor:
        """Displacement of the surface point in every pixel; the ball does not spin."""
        frames = frames_BTCHW.shape[1]
        depth, hit = self._hit(0.0, 0.0, frames)
        moved = self.centre_BT3[:, stride:frames] - self.centre_BT3[:, : frames - stride]
        k = self.camera.intrinsics_B33[0]
        uv = self.camera.rays_uv()
        here = torch.cat(((uv - k[:2, 2]) / k[0, 0], torch.ones_like(uv[..., :1])), dim=-1)
        there = here * depth[:, : frames - stride, ..., None] + moved[:, :, None, None]
        flow = k[0, 0] * (there[..., :2] / there[..., 2:] - here[..., :2])
        return (flow * hit[:, : frames - stride, ..., None]).float()


def blank_video(drawn: list[Drawn]) -> Video:
    """A clip of the right shape without pixels: exact instruments do not look at them."""
    side, frames = drawn[0].cell.side_px, drawn[0].cell.frames
    blank = torch.zeros(1, 1, 1, 1, 1).expand(len(drawn), frames, 3, side, side)
    return Video.make(blank, torch.tensor([clip.cell.fps for clip in drawn]), camera=camera_of(drawn))


def rendered_video(drawn: list[Drawn]) -> Video:
    """The clips as MuJoCo draws them, with texture, light and shadow."""
    clips = []
    for clip in drawn:
        turn = np.broadcast_to(clip.scene.bodies[0].quaternion_wxyz, (clip.cell.frames, 4))
        poses = np.concatenate((clip.centre_T3, turn), axis=1)[:, None]
        clips.append(render(clip.scene, Motion(poses_TN7=poses, impact_times_s=(clip.impacts_s,))))
    frames = torch.tensor(np.stack(clips)).movedim(-1, 2).float() / 255
    camera = camera_of(drawn)
    camera = dataclasses.replace(
        camera,
        intrinsics_B33=camera.intrinsics_B33.float(),
        world_from_camera_B44=camera.world_from_camera_B44.float(),
    )
    return Video.make(frames, torch.tensor([clip.cell.fps for clip in drawn]), camera=camera)

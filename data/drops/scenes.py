"""Scenes of the embedded world: what falls, from where, seen by which camera; drawn from stated ranges by a seed.

`draw_scene(seed, ranges)` is a pure function of both.
"""

from __future__ import annotations

import colorsys
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from data.drops.ranges import Interval, Ranges

TILE_M = 0.5
"""Side of one floor tile in metres: the same in every scene, so that the first frame shows the scale."""

LOOK_AT_M = (0.0, 0.0, 1.05)
"""The point that every camera looks at."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """One object: its form, looks and state at release (world frame, z up, metres, metres per second)."""

    shape: str
    size_m: float
    colour: tuple[float, float, float]
    second_colour: tuple[float, float, float]
    textured: bool
    position_m: tuple[float, float, float]
    quaternion_wxyz: tuple[float, float, float, float]
    velocity_m_s: tuple[float, float, float]

    @property
    def half_extents_m(self) -> tuple[float, float, float]:
        """MuJoCo's `size` of the geometry: radius, half-sides or (radius, half-length)."""
        s = self.size_m
        return {
            "sphere": (s, 0.0, 0.0),
            "box": (0.85 * s, 0.85 * s, 0.85 * s),
            "cylinder": (0.8 * s, s, 0.0),
            "capsule": (0.75 * s, 0.5 * s, 0.0),
        }[self.shape]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that determines a clip. Serialise with `to_json`, read back with `Scene.from_json`."""

    seed: int
    kind: str
    bodies: tuple[Body, ...]
    g_m_s2: float
    fps: float
    frames: int
    height_px: int
    width_px: int
    restitution: float
    friction: float
    release_height_m: float
    distance_m: float
    pitch_deg: float
    fov_deg: float
    floor_colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    wall_colour: tuple[float, float, float]
    wall_distance_m: float
    light_direction: tuple[float, float, float]
    light_strength: float

    @property
    def at_rest(self) -> bool:
        """True where every object is released without velocity."""
        return all(v == 0.0 for body in self.bodies for v in body.velocity_m_s)

    @property
    def caption(self) -> str:
        """What a prompt says of the scene: object, size, motion and camera; never g."""
        body = self.bodies[0]
        verb = {
            "drop": f"is dropped from {self.release_height_m:.1f} m",
            "bounce": f"is dropped from {self.release_height_m:.1f} m and bounces",
            "throw": f"is thrown from {self.release_height_m:.1f} m",
            "slide": "slides over the floor",
            "collide": f"slides into a {colour_name(self.bodies[-1].colour)} {self.bodies[-1].shape}",
        }[self.kind]
        return (
            f"a {colour_name(body.colour)} {body.shape} of {2 * body.size_m:.2f} m {verb} , "
            f"camera at {self.distance_m:.1f} m , pitch {self.pitch_deg:.0f} degrees , view {self.fov_deg:.0f} degrees"
        )

    def with_gravity(self, g_m_s2: float) -> Scene:
        """The same scene under another gravity, in metres per second squared."""
        return replace(self, g_m_s2=float(g_m_s2))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Scene:
        """Inverse of `to_json`."""
        values = {key: _tuples(value) for key, value in json.loads(text).items()}
        bodies = tuple(Body(**body) for body in values.pop("bodies"))
        return Scene(bodies=bodies, **values)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def colour_name(rgb: tuple[float, float, float]) -> str:
    """The nearest of seven hue names."""
    hue = colorsys.rgb_to_hsv(*rgb)[0]
    names = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "red")
    edges = (0.03, 0.11, 0.20, 0.43, 0.54, 0.70, 0.83, 0.96, 1.01)
    return next(name for name, edge in zip(names, edges, strict=True) if hue < edge)


def draw_scene(seed: int, ranges: Ranges, *, frames: int = 17, height_px: int = 64, width_px: int = 64) -> Scene:
    """Draw one scene from `ranges`; the same seed gives the same scene on every machine."""
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(ranges.kinds), p=list(ranges.kinds.values())))
    probabilities = [p for p, _, _ in ranges.g_m_s2]
    _, g_low, g_high = ranges.g_m_s2[int(rng.choice(len(probabilities), p=probabilities))]
    g = _uniform(rng, (g_low, g_high))
    height = _uniform(rng, ranges.height_m)
    restitution = _uniform(rng, (0.7, 0.85) if kind == "bounce" else ranges.restitution)
    grey = rng.uniform(0.35, 0.8)
    contrast = rng.uniform(0.08, 0.2)
    tint = rng.uniform(-0.05, 0.05, 3)
    wall = np.clip(rng.uniform(0.35, 0.85) + rng.uniform(-0.12, 0.12, 3), 0, 1)
    return Scene(
        seed=seed,
        kind=kind,
        bodies=_draw_bodies(rng, ranges, kind, height, g),
        g_m_s2=g,
        fps=float(rng.choice(ranges.fps)),
        frames=frames,
        height_px=height_px,
        width_px=width_px,
        restitution=restitution,
        friction=_uniform(rng, (0.1, 0.5)),
        release_height_m=height if kind in ("drop", "bounce", "throw") else 0.0,
        distance_m=_uniform(rng, ranges.distance_m),
        pitch_deg=_uniform(rng, ranges.pitch_deg),
        fov_deg=_uniform(rng, ranges.fov_deg),
        floor_colours=(_colour(grey + contrast + tint), _colour(grey - contrast + tint)),
        wall_colour=_colour(wall),
        wall_distance_m=_uniform(rng, (1.2, 2.5)),
        light_direction=(_uniform(rng, (-0.25, 0.25)), _uniform(rng, (-0.1, 0.3)), -1.0),
        light_strength=_uniform(rng, (0.5, 0.8)),
    )


def _draw_bodies(rng: np.random.Generator, ranges: Ranges, kind: str, height: float, g: float) -> tuple[Body, ...]:
    first = _draw_body(rng, ranges)
    lowest = _lowest_m(first)
    depth = rng.uniform(-0.2, 0.2)
    side = rng.choice((-1.0, 1.0))
    if kind in ("drop", "bounce"):
        return (replace(first, position_m=(rng.uniform(-0.45, 0.45), depth, height + lowest)),)
    if kind == "throw":
        speed_x = -side * rng.uniform(0.4, 1.2)
        speed_z = math.sqrt(2 * g * rng.uniform(0.02, 0.25))
        position = (side * rng.uniform(0.3, 0.6), depth, 0.8 * height + lowest)
        return (replace(first, position_m=position, velocity_m_s=(speed_x, 0.0, speed_z)),)
    first = _upright(first)
    position = (side * rng.uniform(0.5, 0.8), depth, _lowest_m(first))
    first = replace(first, position_m=position, velocity_m_s=(-side * rng.uniform(0.8, 2.0), 0.0, 0.0))
    if kind == "slide":
        return (first,)
    second = _upright(_draw_body(rng, ranges))
    return (first, replace(second, position_m=(-side * rng.uniform(0.0, 0.3), depth, _lowest_m(second))))


def _draw_body(rng: np.random.Generator, ranges: Ranges) -> Body:
    hue, saturation, value = _uniform(rng, ranges.hue), rng.uniform(0.65, 1.0), rng.uniform(0.55, 0.95)
    colour = colorsys.hsv_to_rgb(hue, saturation, value)
    yaw, tilt = rng.uniform(0, 2 * math.pi), rng.uniform(-0.5, 0.5)
    quaternion = (
        math.cos(yaw / 2) * math.cos(tilt / 2),
        math.cos(yaw / 2) * math.sin(tilt / 2),
        math.sin(yaw / 2) * math.sin(tilt / 2),
        math.sin(yaw / 2) * math.cos(tilt / 2),
    )
    return Body(
        shape=str(rng.choice(ranges.shapes)),
        size_m=_uniform(rng, ranges.size_m),
        colour=_colour(np.array(colour)),
        second_colour=_colour(np.array(colorsys.hsv_to_rgb(hue, 0.6 * saturation, min(1.0, 1.3 * value)))),
        textured=bool(rng.uniform() < 0.4),
        position_m=(0.0, 0.0, 0.0),
        quaternion_wxyz=quaternion,
        velocity_m_s=(0.0, 0.0, 0.0),
    )


def _upright(body: Body) -> Body:
    return replace(body, quaternion_wxyz=(1.0, 0.0, 0.0, 0.0))


def _lowest_m(body: Body) -> float:
    """Distance from the body's centre to its lowest point in its present orientation."""
    a, b, c = body.half_extents_m
    w, x, y, z = body.quaternion_wxyz
    down = (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y))
    if body.shape == "sphere":
        return a
    if body.shape == "box":
        return a * abs(down[0]) + b * abs(down[1]) + c * abs(down[2])
    if body.shape == "cylinder":
        return b * abs(down[2]) + a * math.sqrt(max(0.0, 1 - down[2] ** 2))
    return b * abs(down[2]) + a


def _uniform(rng: np.random.Generator, interval: Interval) -> float:
    return float(rng.uniform(*interval))


def _colour(rgb: np.ndarray) -> tuple[float, float, float]:
    r, g, b = np.clip(rgb, 0.0, 1.0).round(4).tolist()
    return (r, g, b)

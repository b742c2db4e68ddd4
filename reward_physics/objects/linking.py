"""Blobs of change linked from frame to frame into paths, and the choice of the one that is the moving object.

Everything is detached.

Axes: T frames, N blobs of a frame, P points of a path.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from reward_physics.objects.blobs import Blobs
from reward_physics.objects.growth import SHORTEST_PATH, grow_all

_LEAST_MERIT = 0.25
_MERGED = 1.4
"""Two blobs become one of more than this many times the larger's usual area, unless the other is much smaller."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """One thing that moves.

    Args:
        frames_P: the frames it was found in, rising.
        ticks_P: their times, in usual steps from frame to frame.
        blobs_P: its blob in each.
        centre_P2: (u, v), px.
        area_P: px^2.
        axes_P2: standard deviations along the short and the long axis, px.
        sharpness_P: gradient of the change at its edges, per px.
        border_P: whether it touches the picture's border.
        shades_P: whether it only dims or lights what lies behind it.
    """

    frames_P: np.ndarray
    ticks_P: np.ndarray
    blobs_P: np.ndarray
    centre_P2: np.ndarray
    area_P: np.ndarray
    axes_P2: np.ndarray
    sharpness_P: np.ndarray
    border_P: np.ndarray
    shades_P: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[Blobs], members: dict[int, int], ticks_T: np.ndarray) -> Path:
        times = sorted(members)
        pick = [(frames[t], members[t]) for t in times]
        return cls(
            frames_P=np.array(times),
            ticks_P=ticks_T[times],
            blobs_P=np.array([members[t] for t in times]),
            centre_P2=np.stack([blobs.centre_N2[n] for blobs, n in pick]),
            area_P=np.array([blobs.area_N[n] for blobs, n in pick]),
            axes_P2=np.stack([blobs.axes_N2[n] for blobs, n in pick]),
            sharpness_P=np.array([blobs.sharpness_N[n] for blobs, n in pick]),
            border_P=np.array([blobs.border_N[n] for blobs, n in pick]),
            shades_P=np.array([blobs.shades_N[n] for blobs, n in pick]),
        )

    def __len__(self) -> int:
        return len(self.frames_P)

    def at(self, points: np.ndarray) -> Path:
        """Some of its points."""
        return Path(**{field.name: getattr(self, field.name)[points] for field in dataclasses.fields(self)})

    @functools.cached_property
    def longest_flight(self) -> tuple[int, float, int]:
        """Points, extent (px) and first point of its longest piece that is a parabola."""
        return _longest_flight(self)

    @property
    def diameter_px(self) -> float:
        """Of the disc with the object's short axis, which motion blur does not lengthen."""
        return float(4 * np.median(self.axes_P2[:, 0]))

    @property
    def extent_px(self) -> float:
        """Diagonal of the box around its centres."""
        return float(np.linalg.norm(np.ptp(self.centre_P2, axis=0)))


def find_paths(frames: Sequence[Blobs], ticks_T: np.ndarray | None = None) -> list[Path]:
    """All paths of at least four points, each blob in one of them, longest first where they compete.

    Args:
        frames: the blobs of every frame.
        ticks_T: the frames' times in usual steps from frame to frame; without it 0, 1, 2, ...
    """
    ticks_T = np.arange(len(frames), dtype=float) if ticks_T is None else ticks_T
    grown = [members for members in grow_all(frames, ticks_T) if len(members) >= SHORTEST_PATH]
    used: set[tuple[int, int]] = set()
    paths = []
    for members in sorted(grown, key=len, reverse=True):
        free = {t: n for t, n in members.items() if (t, n) not in used}
        if len(free) >= SHORTEST_PATH:
            used |= set(free.items())
            paths.append(Path.of(frames, free, ticks_T))
    return paths


def choose_path(paths: Sequence[Path]) -> Path | None:
    """The path that most looks like a thing in flight: long, parabolic, compact, of constant size, clear of the border.

    Shadows and reflections are left out: of two paths that move alike the softer, and what only shades the background
    where something else looks at least a quarter as much like a thing in flight.
    """
    return max(_things(paths), key=merit, default=None)


def choose_paths(paths: Sequence[Path]) -> list[Path]:
    """The paths of all that looks like a thing in flight, the plainest first: that of `choose_path`, and those that
    look at least a quarter as much like one and are seen at the same time. What is never seen together with another is
    a later piece of its path.
    """
    chosen: list[Path] = []
    for path in sorted(_things(paths), key=merit, reverse=True):
        if not chosen:
            chosen = [path]
            continue
        alike = merit(path) >= _LEAST_MERIT * merit(chosen[0]) and flight(path)[0] > SHORTEST_PATH
        if alike and all(_seen_together(path, partner) for partner in chosen):
            chosen.append(path)
    return chosen


def _things(paths: Sequence[Path]) -> list[Path]:
    """The paths that move and are no shadows."""
    clear = [path for path in paths if not any(_is_shadow_of(path, caster) for caster in paths if caster is not path)]
    moving = [path for path in clear if path.extent_px > max(2.0, 0.3 * path.diameter_px)]
    lit = [path for path in moving if path.shades_P.mean() <= 0.5]
    least = _LEAST_MERIT * max((merit(path) for path in moving), default=0.0)
    return lit if any(merit(path) >= least for path in lit) else moving


def without_merged(paths: Sequence[Path]) -> list[Path]:
    """The same paths without the frames in which two objects are one blob: larger than usual while another object that
    was seen before and after is not found."""
    apart = []
    for path in paths:
        usual = float(np.median(path.area_P))
        missing = np.zeros(len(path), dtype=bool)
        for partner in paths:
            if partner is not path:
                within = (path.frames_P > partner.frames_P[0]) & (path.frames_P < partner.frames_P[-1])
                missing |= within & ~np.isin(path.frames_P, partner.frames_P)
        kept = ~(missing & (path.area_P > _MERGED * usual))
        apart.append(path.at(kept) if kept.sum() >= SHORTEST_PATH else path)
    return apart


def path_at(paths: Sequence[Path], centre_2: np.ndarray, radius_px: float) -> Path | None:
    """The path that passes nearest to a place in its first frames; None when none comes within a diameter."""
    near = []
    for path in paths:
        away = float(np.linalg.norm(path.centre_P2[0] - centre_2))
        step = float(np.median(np.linalg.norm(np.diff(path.centre_P2, axis=0), axis=1)))
        if away <= 2 * radius_px + step * (path.frames_P[0] + 1):
            near.append((away / len(path), path))
    return min(near, key=lambda pair: pair[0])[1] if near else None


def flight(path: Path) -> tuple[int, float]:
    """Points and extent (px) of its longest piece that is a parabola within a pixel or two: a thing left to itself."""
    points, extent, _ = path.longest_flight
    return points, extent


def _longest_flight(path: Path) -> tuple[int, float, int]:
    """Points, extent (px) and first point of that piece."""
    best = (0, 0.0, 0)
    for first in range(len(path) - SHORTEST_PATH + 1):
        last = first + max(SHORTEST_PATH, best[0] + 1)
        while last <= len(path):
            time = path.ticks_P[first:last] - path.ticks_P[first]
            points = path.centre_P2[first:last]
            design = np.vander(time, 3)
            residual = points - design @ np.linalg.lstsq(design, points, rcond=None)[0]
            extent = float(np.linalg.norm(np.ptp(points, axis=0)))
            if np.sqrt(np.square(residual).sum(axis=1).mean()) > 0.4 + 0.01 * extent:
                break
            best = (last - first, extent, first)
            last += 1
    return best


def merit(path: Path) -> float:
    """How much a path looks like a thing in flight: its points in free flight, less for what is short or changes."""
    points, extent = flight(path)
    far = extent / (extent + 5 * path.diameter_px)
    constant = float(np.exp(-np.std(np.log(path.area_P))))
    # An ellipse that is filled has an area of 4 pi times the product of its standard deviations.
    compact = float(np.median(path.area_P / (4 * np.pi * path.axes_P2.prod(axis=1))).clip(0, 1))
    inside = 1 - 0.9 * float(path.border_P.mean())
    return points * far * constant * compact**2 * inside


def _seen_together(path: Path, partner: Path) -> bool:
    """Whether two paths share enough frames to be two things."""
    return len(np.intersect1d(path.frames_P, partner.frames_P)) >= SHORTEST_PATH


def _is_shadow_of(path: Path, caster: Path) -> bool:
    """Whether the path moves with the caster's and its edges are softer."""
    together, i, j = np.intersect1d(path.frames_P, caster.frames_P, return_indices=True)
    if len(together) < max(SHORTEST_PATH, 0.5 * len(path)):
        return False
    step = visible_step(caster.centre_P2[j])
    apart = _moved(path.centre_P2[i] - caster.centre_P2[j], step)
    moved = _moved(caster.centre_P2[j], step)
    alike = np.linalg.norm(apart, axis=1).mean() < 0.5 * np.linalg.norm(moved, axis=1).mean()
    relative = np.median(path.sharpness_P[i] / caster.sharpness_P[j])
    return bool(alike and relative < 0.7)


def visible_step(centre_P2: np.ndarray) -> int:
    """Points over which a motion can be told from the noise of its points; 1 for what moves by a pixel from one to the
    next."""
    step = 1
    while 8 * step < len(centre_P2) and np.median(np.linalg.norm(_moved(centre_P2, step), axis=1)) < 1.0:
        step *= 2
    return step


def _moved(centre_P2: np.ndarray, step: int) -> np.ndarray:
    return centre_P2[step:] - centre_P2[:-step]

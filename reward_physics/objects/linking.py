"""Blobs of change linked from frame to frame into paths, and the choice of the one that is the moving object.

A path is grown from three blobs alike, forwards and backwards, by the parabola through its last points; a bounce may
break the prediction as long as the next blob looks the same. Everything is detached.

Axes: T frames, N blobs of a frame, P points of a path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from reward_physics.objects.blobs import Blobs

SHORTEST_PATH = 4
"""A path of fewer points says nothing about acceleration."""

_SEED_STEPS = (1, 2, 4)
_MOST_SEEDS = 3000
_MOST_MISSED = 3
_POINTS_FOR_PREDICTION = 6
_LEAST_MERIT = 0.25
_MERGED = 1.4
"""Two blobs become one of more than this many times the larger's usual area, unless the other is much smaller."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """One thing that moves.

    Args:
        frames_P: the frames it was found in, rising.
        blobs_P: its blob in each.
        centre_P2: (u, v), px.
        area_P: px^2.
        axes_P2: standard deviations along the short and the long axis, px.
        sharpness_P: gradient of the change at its edges, per px.
        border_P: whether it touches the picture's border.
        shades_P: whether it only dims or lights what lies behind it.
    """

    frames_P: np.ndarray
    blobs_P: np.ndarray
    centre_P2: np.ndarray
    area_P: np.ndarray
    axes_P2: np.ndarray
    sharpness_P: np.ndarray
    border_P: np.ndarray
    shades_P: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[Blobs], members: dict[int, int]) -> Path:
        times = sorted(members)
        pick = [(frames[t], members[t]) for t in times]
        return cls(
            frames_P=np.array(times),
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

    @property
    def diameter_px(self) -> float:
        """Of the disc with the object's short axis, which motion blur does not lengthen."""
        return float(4 * np.median(self.axes_P2[:, 0]))

    @property
    def extent_px(self) -> float:
        """Diagonal of the box around its centres."""
        return float(np.linalg.norm(np.ptp(self.centre_P2, axis=0)))


def find_paths(frames: Sequence[Blobs]) -> list[Path]:
    """All paths of at least four points, each blob in one of them, longest first where they compete."""
    grown: list[dict[int, int]] = []
    taken: set[tuple[int, int]] = set()
    for seed in _seeds(frames):
        if sum(item in taken for item in seed.items()) >= 2:
            continue
        members = dict(seed)
        for way in (1, -1):
            _grow(frames, members, way)
        if len(members) >= SHORTEST_PATH:
            grown.append(members)
            taken |= set(members.items())
    used: set[tuple[int, int]] = set()
    paths = []
    for members in sorted(grown, key=len, reverse=True):
        free = {t: n for t, n in members.items() if (t, n) not in used}
        if len(free) >= SHORTEST_PATH:
            used |= set(free.items())
            paths.append(Path.of(frames, free))
    return paths


def choose_path(paths: Sequence[Path]) -> Path | None:
    """The path that most looks like a thing in flight: long, parabolic, compact, of constant size, clear of the border.

    Shadows and reflections are left out: of two paths that move alike the softer, and what only shades the background
    where something else looks at least a quarter as much like a thing in flight.
    """
    return max(_things(paths), key=_merit, default=None)


def choose_paths(paths: Sequence[Path]) -> list[Path]:
    """The paths of all that looks like a thing in flight, the plainest first: that of `choose_path`, and those that
    look at least a quarter as much like one and are seen at the same time. What is never seen together with another is
    a later piece of its path.
    """
    chosen: list[Path] = []
    for path in sorted(_things(paths), key=_merit, reverse=True):
        if not chosen:
            chosen = [path]
            continue
        alike = _merit(path) >= _LEAST_MERIT * _merit(chosen[0]) and flight(path)[0] > SHORTEST_PATH
        if alike and all(_seen_together(path, partner) for partner in chosen):
            chosen.append(path)
    return chosen


def _things(paths: Sequence[Path]) -> list[Path]:
    """The paths that move and are no shadows."""
    clear = [path for path in paths if not any(_is_shadow_of(path, caster) for caster in paths if caster is not path)]
    moving = [path for path in clear if path.extent_px > max(2.0, 0.3 * path.diameter_px)]
    lit = [path for path in moving if path.shades_P.mean() <= 0.5]
    least = _LEAST_MERIT * max((_merit(path) for path in moving), default=0.0)
    return lit if any(_merit(path) >= least for path in lit) else moving


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
    best = (0, 0.0)
    for first in range(len(path) - SHORTEST_PATH + 1):
        last = first + max(SHORTEST_PATH, best[0] + 1)
        while last <= len(path):
            time = (path.frames_P[first:last] - path.frames_P[first]).astype(float)
            points = path.centre_P2[first:last]
            design = np.vander(time, 3)
            residual = points - design @ np.linalg.lstsq(design, points, rcond=None)[0]
            extent = float(np.linalg.norm(np.ptp(points, axis=0)))
            if np.sqrt(np.square(residual).sum(axis=1).mean()) > 0.4 + 0.01 * extent:
                break
            best = (last - first, extent)
            last += 1
    return best


def _merit(path: Path) -> float:
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
    apart = np.diff(path.centre_P2[i] - caster.centre_P2[j], axis=0)
    moved = np.diff(caster.centre_P2[j], axis=0)
    alike = np.linalg.norm(apart, axis=1).mean() < 0.5 * np.linalg.norm(moved, axis=1).mean()
    relative = np.median(path.sharpness_P[i] / caster.sharpness_P[j])
    return bool(alike and relative < 0.7)


def _seeds(frames: Sequence[Blobs]) -> list[dict[int, int]]:
    """Triples of blobs alike at equal steps whose path bends little, those with the strongest change first."""
    triples: list[tuple[float, dict[int, int]]] = []
    for step in _SEED_STEPS:
        for t in range(len(frames) - 2 * step):
            a, b, c = frames[t], frames[t + step], frames[t + 2 * step]
            if not (len(a) and len(b) and len(c)):
                continue
            alike_ab, alike_bc = _alike(a, b), _alike(b, c)
            go = b.centre_N2[None] - a.centre_N2[:, None]
            on = c.centre_N2[None] - b.centre_N2[:, None]
            bend = np.linalg.norm(on[None] - go[:, :, None], axis=-1)
            length = np.linalg.norm(on[None] + go[:, :, None], axis=-1)
            size = 4 * b.axes_N2[:, 0]
            fits = alike_ab[:, :, None] & alike_bc[None] & (bend < 0.35 * length + 0.5 * size[None, :, None] + 1)
            fits &= length > 0.3 * size[None, :, None]
            for i, j, k in zip(*np.nonzero(fits), strict=True):
                strength = a.change_N[i] + b.change_N[j] + c.change_N[k]
                rank = bend[i, j, k] / (length[i, j, k] + 1) - 0.01 * np.log(strength)
                triples.append((rank, {t: int(i), t + step: int(j), t + 2 * step: int(k)}))
    triples.sort(key=lambda pair: pair[0])
    return [members for _, members in triples[:_MOST_SEEDS]]


def _alike(a: Blobs, b: Blobs) -> np.ndarray:
    """Whether blobs (N of a, N of b) can be one thing: area within a factor of 2.5, colours within 0.2."""
    ratio = np.log(a.area_N[:, None] / b.area_N[None])
    colour = np.linalg.norm(a.colour_N3[:, None] - b.colour_N3[None], axis=-1)
    return (np.abs(ratio) < np.log(2.5)) & (colour < 0.2)


def _grow(frames: Sequence[Blobs], members: dict[int, int], way: int) -> None:
    """Add blobs to `members` one frame at a time, until too many frames are missed."""
    t, missed = max(members) if way > 0 else min(members), 0
    while missed <= _MOST_MISSED and 0 <= t + way < len(frames):
        t += way
        if t in members:
            continue
        pick = _next(frames, members, t, way, missed)
        if pick is None:
            missed += 1
        else:
            members[t], missed = pick, 0


def _next(frames: Sequence[Blobs], members: dict[int, int], t: int, way: int, missed: int) -> int | None:
    """The blob of frame t that continues the path, or None."""
    blobs = frames[t]
    if not len(blobs):
        return None
    times = sorted(members, reverse=way > 0)[:_POINTS_FOR_PREDICTION]
    points = np.stack([frames[s].centre_N2[members[s]] for s in times])
    offset = np.array(times, dtype=float) - t
    last, index = times[0], members[times[0]]
    design = np.vander(offset, 3 if len(times) >= 4 else 2)
    coefficients = np.linalg.lstsq(design, points, rcond=None)[0]
    predicted = coefficients[-1]
    step = np.linalg.norm(points[0] - points[1]) / abs(times[0] - times[1])
    size = 4 * frames[last].axes_N2[index, 0]
    alike = _alike(frames[last], blobs)[index]
    away = np.linalg.norm(blobs.centre_N2 - predicted, axis=1)
    away = np.where(alike, away, np.inf)
    nearest = int(away.argmin())
    if away[nearest] < 0.6 * size + 0.35 * step * (missed + 1) + 1:
        return nearest
    # After an impact the prediction is wrong, but nothing can have gone farther than it was going.
    jump = np.where(alike, np.linalg.norm(blobs.centre_N2 - points[0], axis=1), np.inf)
    reachable = np.flatnonzero(jump < 1.2 * step * (missed + 1) + 0.5 * size)
    return int(reachable[0]) if len(reachable) == 1 and missed <= 1 else None

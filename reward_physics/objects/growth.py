"""Paths grown through the blobs of a clip: from three blobs alike, forwards and backwards.

The parabola through a path's last points says where it goes on; a bounce may break the prediction as long as the next
blob looks the same. In slow motion neighbouring frames show no motion: there the three blobs are taken farther apart.

Axes: T frames, N blobs of a frame.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from reward_physics.objects.blobs import Blobs

SHORTEST_PATH = 4
"""A path of fewer points says nothing about acceleration."""

_SEED_STEPS = (1, 2, 4)
_SLOW_STEPS = (8, 16, 32, 64, 128)
"""Frames between the three blobs where a clip has eight times as many: what crosses a third of its own size in no
fewer."""

_MOST_SEEDS = 3000
_MOST_MISSED = 3
_POINTS_FOR_PREDICTION = 6


def grow_all(frames: Sequence[Blobs], ticks_T: np.ndarray) -> list[dict[int, int]]:
    """Paths as frame -> blob, each grown from a seed of which less than two blobs are in a path already."""
    grown: list[dict[int, int]] = []
    taken: set[tuple[int, int]] = set()
    for steps in (_SEED_STEPS, *((step,) for step in _SLOW_STEPS if 8 * step <= len(frames))):
        for seed in _seeds(frames, ticks_T, steps):
            if sum(item in taken for item in seed.items()) >= 2:
                continue
            members = dict(seed)
            if steps != _SEED_STEPS:
                _fill(frames, ticks_T, members)
            for way in (1, -1):
                _grow(frames, ticks_T, members, way)
            if len(members) >= SHORTEST_PATH:
                grown.append(members)
                taken |= set(members.items())
    return grown


def _seeds(frames: Sequence[Blobs], ticks_T: np.ndarray, steps: Sequence[int]) -> list[dict[int, int]]:
    """Triples of blobs alike at equal steps whose path bends little, those with the strongest change first."""
    parts = list(_ranked_triples(frames, ticks_T, steps))
    if not parts:
        return []
    rank_M, seed_M6 = (np.concatenate(column) for column in zip(*parts, strict=True))
    first = np.argsort(rank_M, kind="stable")[:_MOST_SEEDS]
    return [{t: i, t2: j, t3: k} for t, i, t2, j, t3, k in seed_M6[first].tolist()]


def _ranked_triples(
    frames: Sequence[Blobs], ticks_T: np.ndarray, steps: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each three frames the ranks (M,) of their triples and (frame, blob) of the three (M, 6), the best at most."""
    for step in steps:
        for t in range(len(frames) - 2 * step):
            a, b, c = frames[t], frames[t + step], frames[t + 2 * step]
            if not (len(a) and len(b) and len(c)):
                continue
            alike_ab, alike_bc = alike(a, b), alike(b, c)
            even = (ticks_T[t + step] - ticks_T[t]) / (ticks_T[t + 2 * step] - ticks_T[t + step])
            go = b.centre_N2[None] - a.centre_N2[:, None]
            on = (c.centre_N2[None] - b.centre_N2[:, None]) * even
            bend = np.linalg.norm(on[None] - go[:, :, None], axis=-1)
            length = np.linalg.norm(on[None] + go[:, :, None], axis=-1)
            size = 4 * b.axes_N2[:, 0]
            fits = alike_ab[:, :, None] & alike_bc[None] & (bend < 0.35 * length + 0.5 * size[None, :, None] + 1)
            fits &= length > 0.3 * size[None, :, None]
            i, j, k = np.nonzero(fits)
            if not len(i):
                continue
            strength = a.change_N[i] + b.change_N[j] + c.change_N[k]
            rank = bend[i, j, k] / (length[i, j, k] + 1) - 0.01 * np.log(strength)
            best = np.argsort(rank, kind="stable")[: _MOST_SEEDS // 10]
            at = (np.full(len(i), t + n * step) for n in range(3))
            seeds = np.stack([column for pair in zip(at, (i, j, k), strict=True) for column in pair], axis=-1)
            yield rank[best], seeds[best]


def alike(a: Blobs, b: Blobs) -> np.ndarray:
    """Whether blobs (N of a, N of b) can be one thing: area within a factor of 2.5, colours within 0.2."""
    ratio = np.log(a.area_N[:, None] / b.area_N[None])
    colour = np.linalg.norm(a.colour_N3[:, None] - b.colour_N3[None], axis=-1)
    return (np.abs(ratio) < np.log(2.5)) & (colour < 0.2)


def _fill(frames: Sequence[Blobs], ticks_T: np.ndarray, members: dict[int, int]) -> None:
    """Add the blobs of the frames between a seed's, on the parabola through the three."""
    seed = sorted(members)
    points = np.stack([frames[t].centre_N2[members[t]] for t in seed])
    middle = frames[seed[1]]
    size = 4 * middle.axes_N2[members[seed[1]], 0]
    for t in range(seed[0] + 1, seed[-1]):
        blobs = frames[t]
        if t in members or not len(blobs):
            continue
        away = np.linalg.norm(blobs.centre_N2 - _predicted(ticks_T[seed] - ticks_T[t], points, 3), axis=1)
        away = np.where(alike(middle, blobs)[members[seed[1]]], away, np.inf)
        if away.min() < 0.6 * size + 1:
            members[t] = int(away.argmin())


def _grow(frames: Sequence[Blobs], ticks_T: np.ndarray, members: dict[int, int], way: int) -> None:
    """Add blobs to `members` one frame at a time, until too many frames are missed."""
    t, missed = max(members) if way > 0 else min(members), 0
    last = sorted(members, reverse=way > 0)[:_POINTS_FOR_PREDICTION]
    while missed <= _MOST_MISSED and 0 <= t + way < len(frames):
        t += way
        pick = _next(frames, ticks_T, members, last, t, missed)
        if pick is None:
            missed += 1
        else:
            members[t], missed = pick, 0
            last = [t, *last[: _POINTS_FOR_PREDICTION - 1]]


def _next(
    frames: Sequence[Blobs], ticks_T: np.ndarray, members: dict[int, int], last: list[int], t: int, missed: int
) -> int | None:
    """The blob of frame t that continues the path, whose last frames are given, or None."""
    blobs = frames[t]
    if not len(blobs):
        return None
    points = np.stack([frames[s].centre_N2[members[s]] for s in last])
    newest, index = last[0], members[last[0]]
    predicted = _predicted(ticks_T[last] - ticks_T[t], points, 3 if len(last) >= 4 else 2)
    # The speed of its last step, and the frames since it was seen, both in time.
    step = np.linalg.norm(points[0] - points[1]) / abs(ticks_T[last[0]] - ticks_T[last[1]])
    since = abs(ticks_T[t] - ticks_T[newest])
    size = 4 * frames[newest].axes_N2[index, 0]
    same = alike(frames[newest], blobs)[index]
    away = np.where(same, np.linalg.norm(blobs.centre_N2 - predicted, axis=1), np.inf)
    nearest = int(away.argmin())
    if away[nearest] < 0.6 * size + 0.35 * step * since + 1:
        return nearest
    # After an impact the prediction is wrong, but nothing can have gone farther than it was going.
    jump = np.where(same, np.linalg.norm(blobs.centre_N2 - points[0], axis=1), np.inf)
    reachable = np.flatnonzero(jump < 1.2 * step * since + 0.5 * size)
    return int(reachable[0]) if len(reachable) == 1 and missed <= 1 else None


def _predicted(offset_P: np.ndarray, points_P2: np.ndarray, terms: int) -> np.ndarray:
    """The polynomial of so many terms through points at times around now, taken now: (u, v), px."""
    return np.array(_weights_now(tuple(offset_P.tolist()), terms)) @ points_P2


@functools.lru_cache(maxsize=4096)
def _weights_now(offsets: tuple[float, ...], terms: int) -> tuple[float, ...]:
    """How much each point weighs in the least-squares polynomial's value at offset zero."""
    return tuple(np.linalg.pinv(np.vander(np.array(offsets), terms))[-1].tolist())

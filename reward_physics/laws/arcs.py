"""Which frames are one free flight: a track cut at release and impacts, and the sub-frame time of the impact.

The track is cut into flights, rests and skipped frames by dynamic programming (`partition`). The first flight that
moves vertically is the one that g is measured on (`find_arc`). Where an object is known to be released at rest in the
first frame, the first segment is a flight, and that one is measured. What follows an impact needs all of the segments
(`find_segments`). All of it is detached.

Axes: B clips, T frames, K segments of a clip, D coordinates (the last of them vertical, up).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reward_physics.laws.partition import LOUD, cut_tracks, on_the_cpu, too_few_frames, without_spread_impacts

_VISIBLE_MOTION_SIGMAS = 6.0
_LEAST_SHARE = 0.3
"""A flight moves vertically by this share of the whole track at least: less is a roll with its last hops. What bounces
long enough to be measured after too short a fall keeps more than half of its speed, and so a quarter of the height."""

_LATE = 0.2
"""A frame that lies later than an impact by more than this share of a frame belongs to what follows for certain: impact
times are found to a tenth of a frame where both sides are parabolas."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arc:
    """One free flight per clip.

    Args:
        weights_BT: 1 on the frames of the flight, 0 elsewhere.
        impact_time_B: time (s) at which the flight ends in the next segment, NaN without one.
        sigma_B: the position noise that the track itself shows, in the units of the positions.
        reasons: None, or why a clip has no flight.
    """

    weights_BT: Tensor
    impact_time_B: Tensor
    sigma_B: Tensor
    reasons: list[str | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments:
    """Every piece of every clip's track, in the order of time. Clips with fewer than K pieces end in empty ones.

    Args:
        weights_BKT: 1 on the frames of the piece, 0 elsewhere.
        rest_BK: True where the piece stands still.
        moving_BK: True where it is a parabola of enough frames to be fitted.
        flight_BK: True where a moving piece moves vertically too: a fall, a throw, a rebound.
        sigma_B: the position noise that the track itself shows, in the units of the positions.
        reasons: None, or why a clip has no flight.
    """

    weights_BKT: Tensor
    rest_BK: Tensor
    moving_BK: Tensor
    flight_BK: Tensor
    sigma_B: Tensor
    reasons: list[str | None]


@torch.no_grad()
def find_arc(
    *,
    time_BT: Tensor,
    position_BTD: Tensor,
    weight_BT: Tensor,
    sigma_floor_B: Tensor,
    min_frames: int = 5,
    reasons: Sequence[str | None] | None = None,
    at_rest_B: Tensor | None = None,
) -> Arc:
    """Find the first free flight of every clip.

    Args:
        time_BT: s.
        position_BTD: positions in metres (or pixels), the last coordinate up.
        weight_BT: how far each frame is to be trusted, in [0, 1]; frames under 0.1 are missing.
        sigma_floor_B: noise that no track can fall under, in the units of the positions.
        min_frames: a flight shorter than this is no flight.
        reasons: reasons known beforehand.
        at_rest_B: True where the flight is known to begin with the first frame. Without it, a fall that is no clean
            parabola may be passed over for a later piece of the track, a rebound or the end of a fade.
    """
    time, position, seen, sigma_floor_B = on_the_cpu(time_BT, position_BTD, weight_BT, sigma_floor_B)
    why: list[str | None] = list(reasons or [None] * time.shape[0])
    cuts, sigma_B, released, _ = cut_tracks(time, position, seen, sigma_floor_B, min_frames, at_rest_B)
    weights, impacts = torch.zeros_like(time), torch.full_like(time[:, 0], torch.nan)
    for clip, segments in enumerate(cuts):
        if why[clip] is not None:
            continue
        chosen: int | None = 0
        if not released[clip]:
            sigmas = float(sigma_B[clip]), float(sigma_floor_B[clip])
            chosen, why[clip] = _flight(segments, time[clip], position[clip], seen[clip], *sigmas, min_frames)
        if why[clip] is None and (chosen is None or not segments):
            frames = int(max((seen[clip, i : k + 1].sum() for i, k in segments), default=0))
            why[clip] = too_few_frames(min(frames, min_frames - 1), min_frames)
        if why[clip] is None and chosen is not None:
            track = time[clip], position[clip, :, -1], seen[clip]
            weights[clip], impacts[clip], why[clip] = _until_impact(segments, chosen, *track, min_frames)
    return Arc(
        weights_BT=weights.to(position_BTD.device),
        impact_time_B=impacts.to(position_BTD.device),
        sigma_B=sigma_B.to(position_BTD),
        reasons=why,
    )


def _flight(
    segments: list[tuple[int, int]],
    time_T: Tensor,
    position_TD: Tensor,
    seen_T: Tensor,
    sigma: float,
    sigma_floor: float,
    min_frames: int,
) -> tuple[int | None, str | None]:
    """Which segment is the first free flight, None where each is too short; and why none can be, or None."""
    chosen = _choose(segments, time_T, position_TD, seen_T, sigma, min_frames)
    if chosen is not None and _is_no_parabola(segments[chosen], position_TD[:, -1], seen_T, sigma, sigma_floor):
        return None, "nothing flies freely: no parabola holds five frames"
    return chosen, None


def _until_impact(
    segments: list[tuple[int, int]], chosen: int, time_T: Tensor, height_T: Tensor, seen_T: Tensor, min_frames: int
) -> tuple[Tensor, Tensor, str | None]:
    """weights_T of one flight, the time of the impact that ends it (NaN without one), and why it cannot be measured."""
    (first, last), nan = segments[chosen], torch.full_like(time_T[0], torch.nan)
    weight_T = torch.zeros_like(time_T)
    weight_T[first : last + 1] = seen_T[first : last + 1]
    after = segments[chosen + 1] if chosen + 1 < len(segments) else None
    if after is None or after[0] - last > 3:
        return weight_T, nan, None
    impact = _meeting_time(time_T, height_T, seen_T, (first, last), after)
    # The frame at the cut belongs to the contact when the impact came before it.
    late_T = (time_T >= impact - 1e-3) & (weight_T > 0)
    left = int(weight_T.sum() - late_T.sum())
    if left >= min_frames:
        weight_T[late_T] = 0
    elif (late_T & (time_T > impact + _LATE * _usual_step(time_T))).any():
        return torch.zeros_like(time_T), nan, too_few_frames(left, min_frames)
    return weight_T, impact, None


@torch.no_grad()
def find_segments(
    *,
    time_BT: Tensor,
    position_BTD: Tensor,
    weight_BT: Tensor,
    sigma_floor_B: Tensor,
    min_frames: int = 5,
    reasons: Sequence[str | None] | None = None,
    at_rest_B: Tensor | None = None,
) -> Segments:
    """Find every flight and every rest of every clip; the arguments are those of `find_arc`."""
    time, position, seen, sigma_floor_B = on_the_cpu(time_BT, position_BTD, weight_BT, sigma_floor_B)
    why: list[str | None] = list(reasons or [None] * time.shape[0])
    cuts, sigma_B, _, is_rest_BTT = cut_tracks(time, position, seen, sigma_floor_B, min_frames, at_rest_B)
    parts = zip(cuts, is_rest_BTT, position[..., -1], strict=True)
    cuts = [without_spread_impacts(*part) for part in parts]
    most = max(1, *(len(segments) for segments in cuts))
    weights = time.new_zeros(len(cuts), most, time.shape[1])
    rest, moving, flight = (torch.zeros_like(weights[..., 0], dtype=torch.bool) for _ in range(3))
    for clip, segments in enumerate(cuts):
        if why[clip] is not None:
            continue
        for n, (first, last) in enumerate(segments):
            weights[clip, n, first : last + 1] = seen[clip, first : last + 1]
            rest[clip, n] = is_rest_BTT[clip, first, last]
            moving[clip, n] = ~rest[clip, n] & (weights[clip, n].sum() >= min_frames)
            height = position[clip, weights[clip, n] > 0, -1]
            flight[clip, n] = moving[clip, n] & (height.max() - height.min() > _VISIBLE_MOTION_SIGMAS * sigma_B[clip])
        if not flight[clip].any():
            why[clip] = f"nothing moves vertically for {min_frames} frames"
    device = position_BTD.device
    return Segments(
        weights_BKT=weights.to(device),
        rest_BK=rest.to(device),
        moving_BK=moving.to(device),
        flight_BK=flight.to(device),
        sigma_B=sigma_B.to(position_BTD),
        reasons=why,
    )


def _choose(segments, time: Tensor, position: Tensor, seen: Tensor, sigma: float, min_frames: int) -> int | None:
    """The first segment that moves vertically; else, where nothing does, the first that moves or the longest (an object
    at rest); None where the flights are too short."""
    long_enough = [n for n, (i, k) in enumerate(segments) if seen[i : k + 1].sum() >= min_frames]
    needed = _VISIBLE_MOTION_SIGMAS * sigma

    def path(n: int) -> Tensor:
        i, k = segments[n]
        inside = position[i : k + 1][seen[i : k + 1] > 0]
        return inside.amax(0) - inside.amin(0)

    heights = position[seen > 0, -1]
    whole = float(heights.max() - heights.min()) if len(heights) else 0.0
    for n in long_enough:
        if path(n)[-1] > max(needed, _LEAST_SHARE * whole):
            return n
    if whole > 2 * needed:
        # It does move vertically, and not for long enough: what is left, a rest or a roll, is no flight.
        return None
    for n in long_enough:
        if path(n).norm() > needed:
            return n
    return max(long_enough, key=lambda n: segments[n][1] - segments[n][0], default=None)


def _is_no_parabola(segment: tuple[int, int], height: Tensor, seen: Tensor, sigma: float, floor: float) -> bool:
    """Whether the noise is far beyond what is expected and a visible part of the motion: the frames are too far apart
    for the impacts between them, so that all windows hold one."""
    i, k = segment
    inside = height[i : k + 1][seen[i : k + 1] > 0]
    return sigma > LOUD * floor and sigma > 0.05 * float(inside.max() - inside.min())


def _meeting_time(
    time: Tensor, height: Tensor, seen: Tensor, before: tuple[int, int], after: tuple[int, int]
) -> Tensor:
    """Where the parabolas of two neighbouring segments cross, within a frame of the gap between them; NaN if
    nowhere."""
    origin, step = time[before[1]], _usual_step(time)

    def parabola(segment: tuple[int, int]) -> Tensor:
        i, k = segment
        inside = seen[i : k + 1] > 0
        tau = (time[i : k + 1] - origin)[inside]
        design = torch.stack((tau.square(), tau, torch.ones_like(tau)), dim=-1)
        return torch.linalg.lstsq(design, height[i : k + 1][inside, None], driver="gelsd").solution[:, 0]

    a, b, c = (parabola(before) - parabola(after)).tolist()
    gap = float(time[after[0]] - origin)
    if abs(a) < 1e-9:
        roots = [-c / b] if abs(b) > 1e-9 else []
    else:
        square = b * b - 4 * a * c
        roots = [(-b + sign * math.sqrt(square)) / (2 * a) for sign in (-1, 1)] if square >= 0 else []
    near = [r for r in roots if -float(step) <= r <= gap + float(step)]
    if not near:
        return time.new_tensor(float("nan"))
    return origin + min(near, key=lambda r: abs(r - gap / 2))


def _usual_step(time_T: Tensor) -> Tensor:
    """Usual time from frame to frame, s."""
    return time_T.diff().median()

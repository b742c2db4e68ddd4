"""Which frames are one free flight: a track cut at release and impacts, and the sub-frame time of the impact.

The track is cut by dynamic programming: over all partitions of the frames into flights (a parabola through at least
four frames), rests (a point for at least two) and skipped frames, the least of

    sum over segments (RSS / sigma^2 + P log(2 T)) + skip * (number of skipped frames)

with RSS the residual of the segment's own parabola (P = 6 parameters) or point (P = 2): the Bayesian information
criterion. The first flight that moves vertically is the one that g is measured on (`find_arc`); where an object is
known to be released at rest in the first frame, the first segment is a flight, and that one is measured. What follows
an impact needs all of the segments (`find_segments`). All of it is detached.

Axes: B clips, T frames, K segments of a clip, D coordinates (the last of them vertical, up).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_SHORTEST_FLIGHT, _SHORTEST_REST = 4, 2
_SKIP = 12.0
_VISIBLE_MOTION_SIGMAS = 6.0
_LOUD = 5.0
"""A track whose noise is more than this many times what is expected holds something else than noise."""

_LEAST_SHARE = 0.3
"""A flight moves vertically by this share of the whole track at least: less is a roll with its last hops. What bounces
long enough to be measured after too short a fall keeps more than half of its speed, and so a quarter of the height."""

_LATE = 0.2
"""A frame that lies later than an impact by more than this share of a frame belongs to what follows for certain: impact
times are found to a tenth of a frame where both sides are parabolas."""

_ONE_FLIGHT = 67.0
"""Two neighbouring flights are one where one parabola costs less than this in RSS / sigma^2 more than two: the 99.9 %
quantile of a chi-squared with 6 degrees of freedom (22.5), times (1 + rho) / (1 - rho) = 3, by which errors alike from
frame to frame, rho = 0.5, widen what a smooth curve picks up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arc:
    """One free flight a clip.

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
    time, position, seen, sigma_floor_B = _on_the_cpu(time_BT, position_BTD, weight_BT, sigma_floor_B)
    why: list[str | None] = list(reasons or [None] * time.shape[0])
    cuts, sigma_B, released, _ = _cut(time, position, seen, sigma_floor_B, min_frames, at_rest_B)
    weights, impacts = torch.zeros_like(time), torch.full_like(time[:, 0], torch.nan)
    for clip, segments in enumerate(cuts):
        if why[clip] is not None:
            continue
        chosen = 0
        if not released[clip]:
            chosen = _choose(segments, time[clip], position[clip], seen[clip], float(sigma_B[clip]), min_frames)
        if (
            chosen is not None
            and not released[clip]
            and _is_no_parabola(
                segments[chosen], position[clip, :, -1], seen[clip], float(sigma_B[clip]), float(sigma_floor_B[clip])
            )
        ):
            why[clip] = "nothing flies freely: no parabola holds five frames"
            continue
        if chosen is None or not segments:
            frames = int(max((seen[clip, i : k + 1].sum() for i, k in segments), default=0))
            frames = min(frames, min_frames - 1)
            why[clip] = f"too few frames in free flight: {frames}, needs {min_frames}"
            continue
        first, last = segments[chosen]
        weights[clip, first : last + 1] = seen[clip, first : last + 1]
        after = segments[chosen + 1] if chosen + 1 < len(segments) else None
        if after is not None and after[0] - last <= 3:
            impacts[clip] = _meeting_time(time[clip], position[clip, :, -1], seen[clip], (first, last), after)
            # The frame at the cut belongs to the contact when the impact came before it.
            late = (time[clip] >= impacts[clip] - 1e-3) & (weights[clip] > 0)
            left = int(weights[clip].sum() - late.sum())
            if left >= min_frames:
                weights[clip, late] = 0
            elif (late & (time[clip] > impacts[clip] + _LATE * (time[clip, 1] - time[clip, 0]))).any():
                weights[clip], impacts[clip] = 0, torch.nan
                why[clip] = f"too few frames in free flight: {left}, needs {min_frames}"
    return Arc(
        weights_BT=weights.to(position_BTD.device),
        impact_time_B=impacts.to(position_BTD.device),
        sigma_B=sigma_B.to(position_BTD),
        reasons=why,
    )


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
    time, position, seen, sigma_floor_B = _on_the_cpu(time_BT, position_BTD, weight_BT, sigma_floor_B)
    why: list[str | None] = list(reasons or [None] * time.shape[0])
    cuts, sigma_B, _, is_rest_BTT = _cut(time, position, seen, sigma_floor_B, min_frames, at_rest_B)
    parts = zip(cuts, is_rest_BTT, position[..., -1], strict=True)
    cuts = [_without_spread_impacts(*part) for part in parts]
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


def _on_the_cpu(
    time_BT: Tensor, position_BTD: Tensor, weight_BT: Tensor, sigma_floor_B: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Time, positions, which frames are seen and the least noise, in double precision. A search over a few numbers
    would wait for a GPU at each of its steps, and no GPU has its least squares."""
    seen = (weight_BT.detach().cpu() > 0.1).double()
    return time_BT.cpu().double(), position_BTD.detach().cpu().double(), seen, sigma_floor_B.detach().cpu().double()


def _cut(
    time: Tensor, position: Tensor, seen: Tensor, sigma_floor_B: Tensor, min_frames: int, at_rest_B: Tensor | None
) -> tuple[list[list[tuple[int, int]]], Tensor, Tensor, Tensor]:
    """The cheapest partition of every clip, the noise, which clips begin with a release, and which (first, last) would
    be rests."""
    flight_rss_BTT, rest_rss_BTT, count_BTT = _segment_residuals(time, position, seen)
    released = torch.zeros_like(seen[:, 0], dtype=torch.bool) if at_rest_B is None else at_rest_B.to(seen.device)
    floor_B = sigma_floor_B.detach().double()
    sigma_B = _noise(flight_rss_BTT, count_BTT, floor_B)
    # Where impacts follow each other so closely that most windows hold one, the quietest window is the noise.
    quiet_B = _noise(flight_rss_BTT, count_BTT, floor_B, width=5, quantile=0.0)
    sigma_B = torch.where((sigma_B > _LOUD * floor_B) & ~released, torch.minimum(sigma_B, quiet_B), sigma_B)
    variance, nats = sigma_B.square()[:, None, None], math.log(2 * time.shape[1])
    flight_cost = torch.where(count_BTT >= _SHORTEST_FLIGHT, flight_rss_BTT / variance + 6 * nats, torch.inf)
    rest_cost = torch.where(count_BTT >= _SHORTEST_REST, rest_rss_BTT / variance + 2 * nats, torch.inf)
    cost, skip_BT = torch.minimum(flight_cost, rest_cost), _SKIP * seen
    is_rest = rest_cost <= flight_cost
    for clip in (released & (seen.sum(1) >= min_frames)).nonzero()[:, 0].tolist():
        first = int(seen[clip].argmax())
        skip_BT[clip, first] = torch.inf
        cost[clip, first] = torch.where(count_BTT[clip, first] >= min_frames, flight_cost[clip, first], torch.inf)
        is_rest[clip, first] = False
    cuts = _best_partition(cost, skip_BT)
    excess_BTT = flight_rss_BTT / variance
    return (
        [_merged(cut, excess, rests) for cut, excess, rests in zip(cuts, excess_BTT, is_rest, strict=True)],
        sigma_B,
        released,
        is_rest,
    )


def _merged(cut: list[tuple[int, int]], excess_TT: Tensor, is_rest_TT: Tensor) -> list[tuple[int, int]]:
    """The same cut where no two neighbouring flights are one parabola within noise that is alike in neighbours."""
    pieces = list(cut)
    k = 0
    while k + 1 < len(pieces):
        (i, j), (m, n) = pieces[k], pieces[k + 1]
        both_fly = not bool(is_rest_TT[i, j]) and not bool(is_rest_TT[m, n])
        more = float(excess_TT[i, n] - excess_TT[i, j] - excess_TT[m, n])
        if both_fly and more < _ONE_FLIGHT:
            pieces[k : k + 2] = [(i, n)]
            k = max(0, k - 1)
        else:
            k += 1
    return pieces


def _without_spread_impacts(cut: list[tuple[int, int]], is_rest_TT: Tensor, height_T: Tensor) -> list[tuple[int, int]]:
    """The same cut without rests of two frames at the foot of a fall and of a rise that follows at once: an autoencoder
    spreads an impact over as many."""
    kept = []
    for n, (first, last) in enumerate(cut):
        if 0 < n < len(cut) - 1 and last - first == 1 and bool(is_rest_TT[first, last]):
            (i, j), (k, m) = cut[n - 1], cut[n + 1]
            foot = float(height_T[first : last + 1].max())
            fly = not bool(is_rest_TT[i, j]) and not bool(is_rest_TT[k, m])
            if fly and first - j == 1 and k - last == 1 and min(float(height_T[j]), float(height_T[k])) > foot:
                continue
        kept.append((first, last))
    return kept


def _segment_residuals(time: Tensor, position: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every i <= k the RSS of frames i..k about their parabola and about their mean, and their number, each
    (B, T, T), from running sums."""
    frames = time.shape[1]
    spread = (time[:, -1:] - time[:, :1]).clamp(min=1e-9)
    tau = (time - time.mean(1, keepdim=True)) / spread
    centred = position - (position * weight[..., None]).sum(1, keepdim=True) / weight.sum(1).clamp(min=1)[:, None, None]
    centred = torch.where(weight[..., None] > 0, centred, torch.zeros_like(centred))

    def sums(x: Tensor) -> Tensor:
        running = torch.nn.functional.pad((x * weight[..., None]).cumsum(1), (0, 0, 1, 0))
        return running[:, None, 1:] - running[:, :-1, None]

    powers = tau[..., None] ** torch.arange(5, device=tau.device)
    moment = sums(powers)
    data = torch.stack([sums(centred * powers[..., j : j + 1]) for j in range(3)], dim=-2)
    squares = sums(centred.square()).sum(-1)
    index = torch.arange(3, device=tau.device)
    normal = moment[..., index[:, None] + index]
    count = moment[..., 0] * torch.ones(frames, frames, device=tau.device, dtype=tau.dtype).triu()
    enough = (count >= 3)[..., None, None]
    normal = torch.where(enough, normal, torch.eye(3, dtype=tau.dtype, device=tau.device))
    solved = torch.linalg.solve(normal, torch.where(enough, data, torch.zeros_like(data)))
    rss = (squares - (data * solved).sum((-1, -2))).clamp(min=0)
    about_mean = (squares - data[..., 0, :].square().sum(-1) / count.clamp(min=1)).clamp(min=0)
    return torch.where(enough[..., 0, 0], rss, torch.zeros_like(rss)), about_mean, count


def _noise(rss: Tensor, count: Tensor, floor: Tensor, *, width: int = 6, quantile: float = 0.3) -> Tensor:
    """Noise of a coordinate from parabolas through `width` frames: a low quantile, since windows that hold an impact
    are large. 0.66 is the 0.3 quantile of a chi-squared with 6 degrees of freedom, a degree."""
    frames = rss.shape[1]
    width = min(width, frames)
    i = torch.arange(frames - width + 1, device=rss.device)
    window, full = rss[:, i, i + width - 1], count[:, i, i + width - 1] >= width
    degrees = max(2 * width - 6, 1)
    values = torch.where(full, window / degrees, torch.nan)
    low = torch.nanquantile(values, quantile, dim=1) / 0.66
    return torch.maximum(torch.nan_to_num(low, nan=0.0).sqrt(), floor)


def _best_partition(cost: Tensor, skip_BT: Tensor) -> list[list[tuple[int, int]]]:
    """Segments (first, last) of the cheapest partition of every clip."""
    batch, frames = skip_BT.shape
    best = torch.zeros(batch, frames + 1, dtype=cost.dtype, device=cost.device)
    start = torch.full((batch, frames + 1), -1, dtype=torch.long, device=cost.device)
    for k in range(frames):
        skipped = best[:, k] + skip_BT[:, k]
        joined, first = (best[:, : k + 1] + cost[:, : k + 1, k]).min(1)
        best[:, k + 1] = torch.minimum(skipped, joined)
        start[:, k + 1] = torch.where(joined < skipped, first, -1)
    partitions = []
    for row in start.tolist():
        k, segments = frames, []
        while k > 0:
            if row[k] < 0:
                k -= 1
            else:
                segments.append((row[k], k - 1))
                k = row[k]
        partitions.append(segments[::-1])
    return partitions


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
    return sigma > _LOUD * floor and sigma > 0.05 * float(inside.max() - inside.min())


def _meeting_time(
    time: Tensor, height: Tensor, seen: Tensor, before: tuple[int, int], after: tuple[int, int]
) -> Tensor:
    """Where the parabolas of two neighbouring segments cross, within a frame of the gap between them; NaN if
    nowhere."""
    origin, step = time[before[1]], time[1] - time[0]

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

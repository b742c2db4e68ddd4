"""The cheapest cut of a track into flights, rests and skipped frames, by dynamic programming; all of it detached.

Over all partitions of the frames into flights (a parabola through at least four frames), rests (a point for at least
two) and skipped frames, the least of

    sum over segments (RSS / sigma^2 + P log(2 T)) + skip * (number of skipped frames)

with RSS the residual of the segment's own parabola (P = 6 parameters) or point (P = 2): the Bayesian information
criterion.

Axes: B clips, T frames, D coordinates (the last of them vertical, up); TT first and last frame of a segment.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SHORTEST_FLIGHT, _SHORTEST_REST = 4, 2
_SKIP = 12.0
LOUD = 5.0
"""A track whose noise is more than this many times what is expected holds something else than noise."""

_ONE_FLIGHT = 67.0
"""Two neighbouring flights are one where one parabola costs less than this in RSS / sigma^2 more than two: the 99.9 %
quantile of a chi-squared with 6 degrees of freedom (22.5), times (1 + rho) / (1 - rho) = 3, by which errors alike from
frame to frame, rho = 0.5, widen what a smooth curve picks up."""


def on_the_cpu(
    time_BT: Tensor, position_BTD: Tensor, weight_BT: Tensor, sigma_floor_B: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Time, positions, which frames are seen and the least noise, in double precision. A search over a few numbers
    would wait for a GPU at each of its steps, and no GPU has its least squares."""
    seen = (weight_BT.detach().cpu() > 0.1).double()
    return time_BT.cpu().double(), position_BTD.detach().cpu().double(), seen, sigma_floor_B.detach().cpu().double()


def cut_tracks(
    time: Tensor, position: Tensor, seen: Tensor, sigma_floor_B: Tensor, min_frames: int, at_rest_B: Tensor | None
) -> tuple[list[list[tuple[int, int]]], Tensor, Tensor, Tensor]:
    """The cheapest partition of every clip, the noise, which clips begin with a release, and which (first, last) would
    be rests."""
    flight_rss_BTT, rest_rss_BTT, count_BTT = _segment_residuals(time, position, seen)
    released = torch.zeros_like(seen[:, 0], dtype=torch.bool) if at_rest_B is None else at_rest_B.to(seen.device)
    floor_B = sigma_floor_B.detach().double()
    sigma_B = _noise(flight_rss_BTT, count_BTT, floor_B)
    # Where impacts follow each other so closely that most windows hold one, the quietest window is the noise.
    quiet_B = _quietest(flight_rss_BTT, count_BTT, floor_B)
    sigma_B = torch.where((sigma_B > LOUD * floor_B) & ~released, torch.minimum(sigma_B, quiet_B), sigma_B)
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
    """The same cut where no two flights, neighbours or with one rest between them, as at the top of a toss, are one
    parabola within noise that is alike in neighbours."""
    pieces = list(cut)
    k = 0
    while k + 1 < len(pieces):
        between = k + 2 < len(pieces) and bool(is_rest_TT[pieces[k + 1]])
        parts = pieces[k : k + 2 + between]
        whole = parts[0][0], parts[-1][1]
        both_fly = not bool(is_rest_TT[parts[0]]) and not bool(is_rest_TT[parts[-1]])
        increase = float(excess_TT[whole]) - sum(float(excess_TT[part]) for part in parts[:: 1 + between])
        if both_fly and increase < _ONE_FLIGHT:
            pieces[k : k + len(parts)] = [whole]
            k = max(0, k - 1)
        else:
            k += 1
    return pieces


def without_spread_impacts(cut: list[tuple[int, int]], is_rest_TT: Tensor, height_T: Tensor) -> list[tuple[int, int]]:
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


def _noise(rss: Tensor, count: Tensor, floor: Tensor, *, width: int = 6) -> Tensor:
    """Noise of a coordinate from parabolas through `width` frames: a low quantile, since windows that hold an impact
    are large. 0.66 is the 0.3 quantile of a chi-squared with 6 degrees of freedom, a degree."""
    low = torch.nanquantile(_windows(rss, count, min(width, rss.shape[1])), 0.3, dim=1) / 0.66
    return torch.maximum(torch.nan_to_num(low, nan=0.0).sqrt(), floor)


def _quietest(rss: Tensor, count: Tensor, floor: Tensor) -> Tensor:
    """The same from the quietest window of five frames alone. Of n windows of white noise the least chi-squared with 4
    degrees of freedom is 0.75 / sqrt(n) a degree in the median (drawn for n from 4 to 240, within a fifth)."""
    windows = _windows(rss, count, min(5, rss.shape[1]))
    least = torch.where(windows.isnan(), torch.inf, windows).amin(1)
    expected = (0.75 * (~windows.isnan()).sum(1).clamp(min=1).to(rss).rsqrt()).clamp(max=0.66)
    return torch.maximum((least / expected).nan_to_num(posinf=0.0).sqrt(), floor)


def _windows(rss: Tensor, count: Tensor, width: int) -> Tensor:
    """Squared residuals a degree of freedom of every window of `width` frames that are all seen, NaN elsewhere."""
    i = torch.arange(rss.shape[1] - width + 1, device=rss.device)
    window, full = rss[:, i, i + width - 1], count[:, i, i + width - 1] >= width
    return torch.where(full, window / max(2 * width - 6, 1), torch.nan)


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


def too_few_frames(frames: int, min_frames: int) -> str:
    """Why a flight of so many frames cannot be measured."""
    return f"too few frames in free flight: {frames}, needs {min_frames}"

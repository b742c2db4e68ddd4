"""Simulated violations of growing size for every reward, and the rank correlation of the reward with them.

python tests/helpers/violations.py     the table of docs/rewards.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from discs import OBJECT, free_fall, make_world
from pairs import collide, disc, look
from paths import bounce, path, seen, spearman, times

from reward_physics.camera import Camera
from reward_physics.estimators.depth import Depth
from reward_physics.observation import Instruments, Observation
from rewards.recipe.load import load_reward

Case = Callable[[], tuple[list[float], list[float]]]
GS = (2.0, 4.0, 6.0, 8.0, 9.81, 12.0, 14.0, 16.0)
WRONG = [abs(g - 9.81) / 9.81 for g in GS]


def on_path(reward: str, positions: list[Tensor], unit: str = "m", **parameters) -> list[float]:
    """The reward of exact paths, known to begin at rest."""
    made = load_reward(reward)
    return [made(seen(path(position, unit=unit, at_rest=True)), **parameters).item() for position in positions]


def falls(frames: int = 9) -> list[Tensor]:
    down = [2 - 0.5 * g * times(frames) ** 2 for g in GS]
    return [torch.stack((0 * z, z), dim=-1) for z in down]


def slides() -> list[Tensor]:
    share = math.sin(0.5) - 0.2 * math.cos(0.5)
    ways = [0.1 * times(16) + 0.5 * g * share * times(16) ** 2 for g in GS]
    return [torch.stack((way * math.cos(0.5), 2 - way * math.sin(0.5)), dim=-1) for way in ways]


def swings() -> list[Tensor]:
    x = [0.1 * torch.cos(g**0.5 * times(80)) for g in GS]
    return [torch.stack((swing, -(1 - swing**2).sqrt()), dim=-1) for swing in x]


def powers() -> tuple[list[float], list[float]]:
    """Falls from rest whose way grows as t^(2 - p): 0 by the law, 1 at constant speed."""
    sizes = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    made = [torch.stack((0 * times(14), 2 - 3 * times(14) ** (2 - p)), dim=-1) for p in sizes]
    return sizes, on_path("galileo", made)


def trembling() -> tuple[list[float], list[float]]:
    sizes = [0.0, 0.01, 0.02, 0.04, 0.08]
    wave = torch.sin(1.7 * torch.arange(24).double())[:, None]
    return sizes, on_path("arc_residual", [bounce() + size * wave for size in sizes])


def gained(reward: str) -> Case:
    gains = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    return lambda: (gains, on_path(reward, [bounce(restitution=e, frames=34) for e in gains]))


def drawn(reward: str, reference: bool = False, **parameters) -> Case:
    """Drawn falls of every g, looked at by exact instruments."""

    def case() -> tuple[list[float], list[float]]:
        world = make_world(free_fall(batch=len(GS), frames=8, g_m_s2=torch.tensor(GS), start_m=(0.0, 4.0, 1.9)))
        true = make_world(free_fall(batch=len(GS), frames=8, start_m=(0.0, 4.0, 1.9))).video.frames_BTCHW
        observation = Observation(world.video, world.instruments(), grad=False)
        if reference:
            by_colour = Instruments(mask="appearance", flow=moved, depth=nearer)
            observation = Observation(world.video, by_colour, grad=False)
        columns = {"reference_BTCHW": true} if reference else {}
        return WRONG, load_reward(reward)(observation, **columns, **parameters).tolist()

    return case


def half(case: Case, places: range) -> Case:
    """Some of a case's sizes: a fall that is too fast errs more in flow than one that is too slow by as much."""

    def selection() -> tuple[list[float], list[float]]:
        sizes, scores = case()
        return [sizes[n] for n in places], [scores[n] for n in places]

    return selection


def moved(frames: Tensor, *, stride: int = 1) -> Tensor:
    """The flow of the drawn disc, px: the step of the red pixels' centroid, on them alone."""
    red = ((frames[:, :, 0] - 0.2) / (OBJECT[0] - 0.2)).clamp(0, 1)
    v, u = torch.arange(red.shape[2]) + 0.5, torch.arange(red.shape[3]) + 0.5
    area = red.sum((2, 3)).clamp(min=1e-3)
    centre = torch.stack(((red.sum(2) * u).sum(-1) / area, (red.sum(3) * v).sum(-1) / area), dim=-1)
    step = centre[:, stride:] - centre[:, :-stride]
    return step[:, :, None, None] * red[:, :-stride, ..., None]


def nearer(frames: Tensor, _: Camera | None = None) -> Depth:
    """The drawn disc at 4 m before a wall at 6 m."""
    red = ((frames[:, :, 0] - 0.2) / (OBJECT[0] - 0.2)).clamp(0, 1)
    return Depth(depth_BTHW=6 - 2 * red, metric=True)


def with_frames(reward: str, sizes: list[float], change: Callable[[Tensor, float], Tensor], **parameters) -> Case:
    """A true drawn fall whose later frames are changed by each size."""

    def case() -> tuple[list[float], list[float]]:
        world = make_world(free_fall(frames=8))
        true = world.video.frames_BTCHW
        made = [torch.cat((true[:, :1], change(true, size)[:, 1:]), 1) for size in sizes]
        observations = [
            Observation(world.video.with_frames(frames), world.instruments(), grad=False) for frames in made
        ]
        return sizes, [load_reward(reward)(observation, **parameters).item() for observation in observations]

    return case


def blurred(frames: Tensor, sigma_px: float) -> Tensor:
    if sigma_px == 0:
        return frames
    kernel = torch.exp(-torch.arange(-6, 7).to(frames).square() / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = F.pad(frames.flatten(0, 2)[:, None], (6,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel), kernel.transpose(2, 3))[:, 0].view_as(frames)


def faded(frames: Tensor, lost: float) -> Tensor:
    empty = make_world(free_fall(frames=8, start_m=(9.0, 4.0, 1.7))).video.frames_BTCHW
    return (1 - lost) * frames + lost * empty


def jumped(_: Tensor, metres: float) -> Tensor:
    centres = free_fall(frames=8)
    centres[:, 4:, 0] += metres
    return make_world(centres).video.frames_BTCHW


def drifted(frames: Tensor, size: float) -> Tensor:
    return (frames + torch.linspace(0, size, frames.shape[1]).view(1, -1, 1, 1, 1)).clamp(0, 1)


def shifted(frames: Tensor, px: float) -> Tensor:
    low = int(px)
    return (1 - px + low) * frames.roll(low, -1) + (px - low) * frames.roll(low + 1, -1)


def still() -> tuple[list[float], list[float]]:
    """Steady motion that covers less and less of a diameter."""
    missing, scores = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], []
    for share in missing:
        speed = (0.45 * (1 - share), 0.0, 0.0)
        world = make_world(free_fall(frames=9, g_m_s2=0.0, start_m=(0.0, 4.0, 1.0), velocity_m_s=speed))
        scores.append(load_reward("motion_gate")(Observation(world.video, world.instruments(), grad=False)).item())
    return missing, scores


def other_first_frame() -> tuple[list[float], list[float]]:
    sizes = [0.0, 0.01, 0.02, 0.05, 0.1]
    world = make_world(free_fall(frames=8))
    true = world.video.frames_BTCHW
    scores = []
    for size in sizes:
        observation = Observation(world.video.with_frames(true + size), world.instruments(), grad=False)
        scores.append(load_reward("first_frame")(observation, reference_BTCHW=true).item())
    return sizes, scores


def expanding() -> tuple[list[float], list[float]]:
    """A vortex with a growing share of expansion in its gradient."""
    sizes = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    scores = []
    for share in sizes:

        def flow(frames: Tensor, *, stride: int = 1, share: float = share) -> Tensor:
            batch, count, _, height, width = frames.shape
            v, u = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
            turn, grow = torch.stack((-v, u), dim=-1), torch.stack((u, v), dim=-1)
            both = 0.02 * ((1 - share) ** 0.5 * turn + share**0.5 * grow)
            return both.expand(batch, count - stride, -1, -1, -1).to(frames)

        scores.append(load_reward("divergence_free")(flowing(make_world(free_fall(frames=8)).video, flow)).item())
    return sizes, scores


def shaken() -> tuple[list[float], list[float]]:
    """A vortex seen by a camera that goes to and fro by a size, px."""
    sizes = [0.0, 0.2, 0.4, 0.7, 1.0]
    scores = []
    for size in sizes:

        def flow(frames: Tensor, *, stride: int = 1, size: float = size) -> Tensor:
            batch, count, _, height, width = frames.shape
            v, u = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
            sign = (1 - 2 * (torch.arange(count - stride) % 2))[:, None, None, None]
            shake = size * sign * torch.tensor([1.0, 0.0])
            return (0.02 * torch.stack((-v, u), dim=-1) + shake).expand(batch, -1, -1, -1, -1).to(frames)

        scores.append(load_reward("steadiness")(flowing(make_world(free_fall(frames=8)).video, flow)).item())
    return sizes, scores


def flowing(video, flow) -> Observation:
    return Observation(video, Instruments(mask="appearance", flow=flow), grad=False)


def mass_lost() -> tuple[list[float], list[float]]:
    """A cloud that drifts to the side, and loses a share of its density from frame to frame."""
    sizes = [0.0, 0.05, 0.1, 0.2, 0.4]
    video = make_world(free_fall(frames=8)).video
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    scores = []
    for lost in sizes:
        time = torch.arange(8)[:, None, None]
        cloud = torch.exp(-((u - 20 - time) ** 2 + (v - 32) ** 2) / (2 * 6**2)) * (1 - lost) ** time
        frames = cloud[None, :, None].expand(-1, -1, 3, -1, -1).clone()

        def flow(frames: Tensor, *, stride: int = 1) -> Tensor:
            batch, count, _, height, width = frames.shape
            return torch.tensor([1.0, 0.0]).expand(batch, count - stride, height, width, 2)

        observation = flowing(video.with_frames(frames), flow)
        scores.append(load_reward("pde_residual")(observation, equation="continuity").item())
    return sizes, scores


def pair(reward: str, sizes: list[float], name: str, **parameters) -> Case:
    return lambda: (sizes, [load_reward(reward)(look(collide(**{name: s})), **parameters).item() for s in sizes])


def resized() -> tuple[list[float], list[float]]:
    sizes, t = [0.0, 0.15, 0.3, 0.45, 0.6], torch.linspace(0, 1, 16)
    return sizes, [load_reward("rigidity")(disc(1 - size * t), tolerance=0.0).item() for size in sizes]


CASES: dict[str, tuple[str, Case]] = {
    "gravity": ("g from 2 to 16 m/s²", drawn("gravity")),
    "galileo": ("way from rest as t² to t", powers),
    "arc_residual": ("trembling, 0 to 8 cm", trembling),
    "energy_drift": ("g from 2 to 16 m/s²", lambda: (WRONG, on_path("energy_drift", falls()))),
    "energy_variance": ("g from 2 to 16 m/s²", lambda: (WRONG, on_path("energy_variance", falls()))),
    "energy_rise": ("speed gained at each bounce, 0 to 50 %", gained("energy_rise")),
    "restitution": ("speed gained at each bounce, 0 to 50 %", gained("restitution")),
    "projectile": ("g from 2 to 16 m/s²", lambda: (WRONG, on_path("projectile", falls(), g_m_s2=9.81))),
    "incline": ("g from 2 to 16 m/s²", lambda: (WRONG, on_path("incline", slides(), friction=0.2))),
    "pendulum": (
        "error of the period, g from 2 to 16 m/s²",
        lambda: ([abs((9.81 / g) ** 0.5 - 1) for g in GS], on_path("pendulum", swings(), "px", length_m=1.0)),
    ),
    "collision": ("coefficient from 1 to 2.2", pair("collision", [1.0, 1.3, 1.6, 1.9, 2.2], "e")),
    "momentum": (
        "speed given to one body, 0 to 2 px a frame",
        pair("momentum", [0.0, 0.5, 1.0, 1.5, 2.0], "gain", mass_ratio=(5 / 6) ** 3),
    ),
    "non_penetration": ("depth, 2.5 to 8.5 px", pair("non_penetration", [2.5, 4.0, 5.5, 7.0, 8.5], "deeper_px")),
    "rigidity": ("diameter lost, 0 to 60 %", resized),
    "divergence_free": ("share of expansion, 0 to 1", expanding),
    "pde_residual": ("mass lost a frame, 0 to 40 %", mass_lost),
    "motion_gate": ("way that is missing, 0 to 1", still),
    "observability_gate": (
        "opacity lost, 0 to 1",
        with_frames("observability_gate", [0.0, 0.25, 0.5, 0.75, 1.0], faded, enough=1.0),
    ),
    "own_colours": ("opacity lost, 0 to 1", with_frames("own_colours", [0.0, 0.25, 0.5, 0.75, 1.0], faded)),
    "continuity": ("jump to the side, 0 to 0.8 m", with_frames("continuity", [0.0, 0.5, 0.6, 0.8], jumped)),
    "first_frame": ("brightness, 0 to 0.1", other_first_frame),
    "sharpness": ("blur, 0 to 3 px", with_frames("sharpness", [0.0, 0.5, 1.0, 2.0, 3.0], blurred)),
    "saturation": (
        "exposure, 1 to 3",
        with_frames("saturation", [1.0, 1.4, 1.8, 2.4, 3.0], lambda frames, by: (by * frames).clamp(0, 1)),
    ),
    "background": ("drift of brightness, 0 to 0.3", with_frames("background", [0.0, 0.05, 0.1, 0.2, 0.3], drifted)),
    "registration": ("shift, 0 to 2 px", with_frames("registration", [0.0, 0.5, 1.0, 1.5, 2.0], shifted)),
    "steadiness": ("shake to and fro, 0 to 1 px", shaken),
    "flow_match": ("g from 9.81 to 2 m/s²", half(drawn("flow_match", reference=True), range(5))),
    "flow_match, too fast": ("g from 9.81 to 16 m/s²", half(drawn("flow_match", reference=True), range(4, 8))),
    "depth_match": ("g from 2 to 16 m/s²", drawn("depth_match", reference=True)),
    "segmentation_match": ("g from 2 to 16 m/s²", drawn("segmentation_match", reference=True)),
}
"""Every reward of the catalogue: the violation in words, and (sizes, scores)."""


def correlation(name: str) -> float:
    """Spearman's rank correlation of the reward with minus the size of the violation."""
    sizes, scores = CASES[name][1]()
    if any(math.isnan(score) for score in scores):
        return math.nan
    return spearman([-size for size in sizes], scores)


def table() -> str:
    """One row per reward, in Markdown."""
    rows = [f"| `{name}` | {words} | {correlation(name):.2f} |" for name, (words, _) in CASES.items()]
    return "\n".join(["| reward | violation | Spearman |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())

"""Ways to cheat a reward: a true clip made wrong without a network, to see that no reward gains by it.

Most attacks cut the object out by its mask, repair the background behind it, and put it back elsewhere, smaller,
fainter, later or not at all. The first frame, which a model is given, stays as it is unless time is
turned around.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.redteam.cut import Cut, recompose

LEVELS = ("weak", "middle", "strong")
"""Names of an attack's three strengths."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """A way to cheat.

    Args:
        make: cut clips, strength, generator -> frames_BTCHW.
        strengths: weak, middle, strong.
    """

    make: Callable[[Cut, float, torch.Generator], Tensor]
    strengths: tuple[float, float, float]


def apply(name: str, cut: Cut, level: int, generator: torch.Generator) -> Tensor:
    """The attacked clips, frames_BTCHW in [0, 1]; `level` 0, 1, 2 for weak, middle, strong.

    Raises:
        ValueError: no such attack.
    """
    if name not in ATTACKS:
        raise ValueError(f"unknown attack {name!r}: known: {', '.join(ATTACKS)}")
    attack = ATTACKS[name]
    made = attack.make(cut, attack.strengths[level], generator).clamp(0, 1)
    if name != "reverse_time":
        made = torch.cat((cut.frames_BTCHW[:, :1], made[:, 1:]), 1)
    return made


def adversarial_noise(
    frames_BTCHW: Tensor, reward: Callable[[Tensor], Tensor], *, bound: float = 8 / 255, steps: int = 8
) -> Tensor:
    """Frames that differ by at most `bound` a colour and raise `reward`: signed gradient ascent, the first frame kept.

    Args:
        reward: frames_BTCHW -> (B,), differentiable.

    Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, eq. 2.
    """
    noise = torch.zeros_like(frames_BTCHW)
    best, best_noise = reward(frames_BTCHW.detach().clone().requires_grad_()).detach(), noise
    for _ in range(steps):
        leaf = (frames_BTCHW + noise).clamp(0, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward(leaf).sum(), leaf)
        noise = (noise + 2.5 * bound / steps * gradient.sign()).clamp(-bound, bound)
        noise[:, 0] = 0
        now = reward((frames_BTCHW + noise).clamp(0, 1).detach().requires_grad_()).detach()
        better = now > best
        best = torch.where(better, now, best)
        best_noise = torch.where(better.view(-1, 1, 1, 1, 1), noise, best_noise)
    return (frames_BTCHW + best_noise).clamp(0, 1)


def _progress(cut: Cut) -> Tensor:
    """0 in the first frame, 1 in the last, (1, T)."""
    return torch.linspace(0, 1, cut.mask_BTHW.shape[1]).to(cut.frames_BTCHW)[None]


def _at_speed(cut: Cut, factor: float, _: torch.Generator) -> Tensor:
    """Time runs `factor` times as fast; past the end the last frame stays."""
    batch, last = cut.mask_BTHW.shape[0], cut.mask_BTHW.shape[1] - 1
    time = (torch.arange(last + 1) * factor).clamp(max=last)
    low, high, share = (
        time.floor().long(),
        time.ceil().long(),
        (time - time.floor()).to(cut.centroid_BT2)[None, :, None],
    )
    centre = cut.centroid_BT2[:, low] * (1 - share) + cut.centroid_BT2[:, high] * share
    return recompose(cut, source_BT=time.round().long().expand(batch, -1), centre_BT2=centre)


def _freeze(cut: Cut, start: float, generator: torch.Generator) -> Tensor:
    last = cut.mask_BTHW.shape[1] - 1
    kept = torch.arange(last + 1).clamp(max=round(start * last))
    return cut.frames_BTCHW[:, kept]


def _vanish(cut: Cut, start: float, _: torch.Generator) -> Tensor:
    return recompose(cut, opacity_BT=(_progress(cut) < start).to(cut.frames_BTCHW).expand(len(cut.mask_BTHW), -1))


def _fade(cut: Cut, lost: float, _: torch.Generator) -> Tensor:
    return recompose(cut, opacity_BT=(1 - lost * _progress(cut)).expand(len(cut.mask_BTHW), -1))


def _scaled(cut: Cut, end_u: float, end_v: float) -> Tensor:
    ends = cut.frames_BTCHW.new_tensor([end_u, end_v])
    scale = 1 + (ends - 1) * _progress(cut)[..., None]
    return recompose(cut, scale_BT2=scale.expand(len(cut.mask_BTHW), -1, -1))


def _placed(cut: Cut, centre_BT2: Tensor) -> Tensor:
    """The object at other places; frames in which it stays where it is stay as they are."""
    moved_BT = (centre_BT2 - cut.centroid_BT2).abs().amax(-1) > 1e-3
    return torch.where(moved_BT[:, :, None, None, None], recompose(cut, centre_BT2=centre_BT2), cut.frames_BTCHW)


def _teleport(cut: Cut, share: float, _: torch.Generator) -> Tensor:
    """Half-way, at once to the side, towards the wider half of the picture."""
    width = cut.mask_BTHW.shape[-1]
    side = torch.where(cut.centroid_BT2[:, :1, 0] < width / 2, 1.0, -1.0)
    later = (_progress(cut) > 0.25).to(cut.frames_BTCHW)
    centre = cut.centroid_BT2.clone()
    centre[..., 0] += side * share * width * later
    return _placed(cut, centre)


def _duplicate(cut: Cut, opacity: float, _: torch.Generator) -> Tensor:
    width = cut.mask_BTHW.shape[-1]
    side = torch.where(cut.centroid_BT2[:, :1, 0] < width / 2, 1.0, -1.0)
    centre = cut.centroid_BT2.clone()
    centre[..., 0] += side * 0.3 * width
    twin = torch.full_like(centre[..., 0], opacity)
    return recompose(cut, centre_BT2=centre, opacity_BT=twin, onto_BTCHW=cut.frames_BTCHW)


def _jitter(cut: Cut, share: float, generator: torch.Generator) -> Tensor:
    step = torch.randn(cut.centroid_BT2.shape, generator=generator).to(cut.centroid_BT2)
    return recompose(cut, centre_BT2=cut.centroid_BT2 + share * cut.mask_BTHW.shape[2] * step)


def _shifted(frames_BTCHW: Tensor, shift_BT2: Tensor) -> Tensor:
    """Whole pictures moved by (u, v) px, their borders repeated."""
    batch, frames, _, height, width = frames_BTCHW.shape
    theta = torch.eye(2, 3).to(frames_BTCHW).repeat(batch * frames, 1, 1)
    theta[:, :, 2] = -2 * shift_BT2.flatten(0, 1) / frames_BTCHW.new_tensor([width, height])
    grid = F.affine_grid(theta, [batch * frames, 3, height, width], align_corners=False)
    moved = F.grid_sample(frames_BTCHW.flatten(0, 1), grid, padding_mode="border", align_corners=False)
    return moved.unflatten(0, (batch, frames))


def _shake(cut: Cut, share: float, generator: torch.Generator) -> Tensor:
    step = torch.randn(cut.centroid_BT2.shape, generator=generator).to(cut.centroid_BT2)
    return _shifted(cut.frames_BTCHW, share * cut.mask_BTHW.shape[2] * step)


def _flicker(cut: Cut, share: float, generator: torch.Generator) -> Tensor:
    gain = 1 + share * torch.randn(cut.mask_BTHW.shape[:2], generator=generator).to(cut.frames_BTCHW)
    return cut.frames_BTCHW * gain[:, :, None, None, None]


def _drift(cut: Cut, share: float, _: torch.Generator) -> Tensor:
    """The background slides sideways and the object does not."""
    shift = torch.zeros_like(cut.centroid_BT2)
    shift[..., 0] = share * cut.mask_BTHW.shape[-1] * _progress(cut)
    return recompose(cut, onto_BTCHW=_shifted(cut.plate_BTCHW, shift))


def _edge(cut: Cut, share: float, _: torch.Generator) -> Tensor:
    """In the first third of the clip the object goes that share of the way sideways out of the picture."""
    width = cut.mask_BTHW.shape[-1]
    radius = (cut.mask_BTHW[:, :1].sum((2, 3)) / torch.pi).sqrt()
    left = cut.centroid_BT2[..., 0] < width / 2
    gone = torch.where(left, -1.5 * radius, width + 1.5 * radius)
    way = share * (3 * _progress(cut)).clamp(max=1)
    centre = cut.centroid_BT2.clone()
    centre[..., 0] += way * (gone - centre[..., 0])
    return _placed(cut, centre)


def _reverse(cut: Cut, share: float, _: torch.Generator) -> Tensor:
    """That share of the clip, from its beginning, backwards; the rest stands still at its end."""
    last = cut.mask_BTHW.shape[1] - 1
    order = (round(share * last) - torch.arange(last + 1)).clamp(min=0)
    return cut.frames_BTCHW[:, order]


def _rebound(cut: Cut, factor: float, _: torch.Generator) -> Tensor:
    """After its lowest point the object rises `factor` times as high."""
    v = cut.centroid_BT2[..., 1]
    low = v.argmax(1, keepdim=True)
    after = torch.arange(v.shape[1]) > low
    lowest = v.gather(1, low)
    centre = cut.centroid_BT2.clone()
    centre[..., 1] = torch.where(after, lowest + factor * (v - lowest), v)
    return _placed(cut, centre)


def _pump(cut: Cut, factor: float, _: torch.Generator) -> Tensor:
    """From its first impact the object rises with `factor` times the speed of the impact, at the same g.

    Both are read off a parabola through the last frames of the fall. Where nothing falls for five frames and rises
    again the clip stays as it is.
    """
    centre = cut.centroid_BT2.clone()
    for clip, v in enumerate(cut.centroid_BT2[..., 1]):
        rises = (v[1:] < v[:-1] - 0.25).nonzero()[:, 0]
        low = int(rises[0]) if len(rises) else 0
        if low < 5:
            continue
        # The lowest frame may lie on either side of the impact: half a frame before it is nobody's mistake.
        time = torch.arange(len(v)).to(v) - (low - 0.5)
        fall = slice(max(low - 7, 0), low)
        basis = torch.stack((torch.ones_like(time), time, time.square()), -1)
        floor, speed, curve = torch.linalg.lstsq(basis[fall], v[fall, None]).solution[:, 0]
        if speed <= 0:
            continue
        centre[clip, low:, 1] = (floor - factor * speed * time + curve * time.square())[low:].clamp(max=floor)
    return _placed(cut, centre)


def _blur(cut: Cut, share: float, _: torch.Generator) -> Tensor:
    sigma_px = share * cut.mask_BTHW.shape[2]
    reach = max(1, round(3 * sigma_px))
    kernel = torch.exp(-torch.arange(-reach, reach + 1).to(cut.frames_BTCHW).square() / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = F.pad(cut.frames_BTCHW.flatten(0, 2)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel), kernel.transpose(2, 3))[:, 0].view_as(cut.frames_BTCHW)


ATTACKS: dict[str, Attack] = {
    "freeze": Attack(make=_freeze, strengths=(0.3, 0.12, 0.0)),
    "slow_motion": Attack(make=_at_speed, strengths=(0.8, 0.6, 0.4)),
    "fast_motion": Attack(make=_at_speed, strengths=(1.25, 1.5, 2.0)),
    "vanish": Attack(make=_vanish, strengths=(0.4, 0.2, 0.02)),
    "fade": Attack(make=_fade, strengths=(0.5, 0.75, 1.0)),
    "melt": Attack(make=lambda cut, by, _: _scaled(cut, 1 + by, 1 / (1 + by)), strengths=(0.3, 0.6, 1.0)),
    "shrink": Attack(make=lambda cut, to, _: _scaled(cut, to, to), strengths=(0.8, 0.6, 0.35)),
    "grow": Attack(make=lambda cut, to, _: _scaled(cut, to, to), strengths=(1.25, 1.6, 2.0)),
    "teleport": Attack(make=_teleport, strengths=(0.1, 0.2, 0.35)),
    "duplicate": Attack(make=_duplicate, strengths=(0.4, 0.7, 1.0)),
    "jitter": Attack(make=_jitter, strengths=(0.01, 0.02, 0.04)),
    "camera_shake": Attack(make=_shake, strengths=(0.01, 0.02, 0.04)),
    "flicker": Attack(make=_flicker, strengths=(0.05, 0.1, 0.2)),
    "background_drift": Attack(make=_drift, strengths=(0.03, 0.06, 0.12)),
    "edge": Attack(make=_edge, strengths=(0.6, 0.85, 1.0)),
    "reverse_time": Attack(make=_reverse, strengths=(0.5, 0.75, 1.0)),
    "cut_bounce": Attack(make=_rebound, strengths=(0.6, 0.3, 0.0)),
    "pump_energy": Attack(make=_pump, strengths=(1.1, 1.25, 1.5)),
    "overexpose": Attack(make=lambda cut, gain, _: cut.frames_BTCHW * gain, strengths=(1.3, 1.7, 2.5)),
    "blur": Attack(make=_blur, strengths=(0.008, 0.016, 0.03)),
}
"""Every attack that needs no gradient; `adversarial_noise` is the other. Lengths are shares of the picture's height.
What each attack does to each reward is listed in `trainers.redteam.verdicts`."""

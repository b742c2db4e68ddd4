"""True collisions of random masses, coefficients and directions, followed with noise, score as exact ones do."""

import importlib
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from reward_physics.laws.collisions import Pair, contact_jump

CLIPS = 200


def true_collisions(frames: int, noise: float) -> tuple[Pair, Tensor, Tensor]:
    """Two discs with a coefficient of 0 to 1 that meet at a random time and slip as they like; positions err by `noise`
    of the smaller one's diameter. With the times of contact in frames, and m2 / m1."""
    draw = torch.Generator().manual_seed(frames)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*(shape or (CLIPS,)), generator=draw, dtype=torch.float64)

    ratio, coefficient = between(-1.1, 1.1).exp(), between(0, 1)
    radius_B2, at_B = between(4, 7, CLIPS, 2), between(6.5, frames - 7.5)
    angle, closing = between(0, 2 * math.pi), between(1, 4)
    normal = torch.stack((angle.cos(), angle.sin()), -1)
    across = torch.stack((-angle.sin(), angle.cos()), -1) * (between(-0.5, 0.5) * closing)[:, None]
    apart = across - closing[:, None] * normal
    share = torch.stack((-ratio / (1 + ratio), 1 / (1 + ratio)), dim=1)[..., None]
    before = between(-1, 1, CLIPS, 2)[:, None] + share * apart[:, None]
    after = before + share * ((1 + coefficient) * closing)[:, None, None] * normal[:, None]
    time = (torch.arange(frames).double() - at_B[:, None])[:, None, :, None]
    start = torch.stack((torch.zeros_like(normal), normal * radius_B2.sum(1, keepdim=True)), dim=1)[:, :, None]
    position = start + torch.where(time < 0, time * before[:, :, None], time * after[:, :, None])
    sd = noise * 2 * radius_B2.amin(1)
    position = position + sd[:, None, None, None] * torch.randn(position.shape, generator=draw, dtype=torch.float64)
    pair = Pair(
        time_BT=(torch.arange(frames).double() / 24).expand(CLIPS, -1),
        position_B2TD=position,
        weight_B2T=torch.ones(CLIPS, 2, frames),
        radius_B2=radius_B2,
        longest_B2=radius_B2,
        sigma_B=sd.clamp(min=0.1),
    )
    return pair, at_B, ratio


def scores(pair: Pair, name: str, monkeypatch, **parameters) -> Tensor:
    """What the reward says of the pair itself, without pictures."""
    module = importlib.import_module(f"rewards.bodies.{name}")
    known_B = torch.ones(len(pair.time_BT), dtype=torch.bool)
    monkeypatch.setattr(module, "pair_in_pixels", lambda observation: (pair, known_B))
    clips = SimpleNamespace(like_clips=lambda values_B: values_B.float(), batch_size=len(known_B))
    return getattr(module, name)(clips, **parameters)


@pytest.mark.parametrize("frames", [16, 24, 40])
def test_the_moment_is_that_of_the_largest_change_of_velocity(frames):
    pair, at_B, _ = true_collisions(frames, 0.03)
    jump = contact_jump(pair)
    assert jump.measured_B.all()
    assert ((jump.time_B * 24 - at_B).abs() <= 1).float().mean() > 0.9


@pytest.mark.parametrize("noise", [0.01, 0.03])
@pytest.mark.parametrize("frames", [16, 24, 40])
def test_nearly_all_are_measured_and_score_well(frames, noise, monkeypatch):
    pair, _, _ = true_collisions(frames, noise)
    for name in ("collision", "momentum"):
        score_B = scores(pair, name, monkeypatch)
        assert score_B.isnan().float().mean() < 0.05, name
        assert (score_B < -0.1).float().mean() < 0.05 and score_B[~score_B.isnan()].min() > -0.8, name


def test_known_masses_are_allowed_the_error_too(monkeypatch):
    pair, _, ratio = true_collisions(24, 0.03)
    alike = (ratio - 1).abs() < 0.1
    of_alike = Pair(**{name: value[alike] for name, value in vars(pair).items()})
    score_B = scores(of_alike, "momentum", monkeypatch, mass_ratio=1.0)
    assert len(score_B) >= 10 and score_B.nanmedian() > -0.05
    heavier_B = scores(of_alike, "momentum", monkeypatch, mass_ratio=4.0)
    assert heavier_B.nanmedian() < -0.3, "another mass is still found out"

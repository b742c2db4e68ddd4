"""One line through the distances of an arc, where there is little or nothing to fit."""

import pytest
import torch

from reward_physics.tracks.in_metres import fit_distance

TIME_BT = (torch.arange(8) / 16.0)[None]


@pytest.mark.parametrize("speed_sd_m_s", [0.0, 0.2])
@pytest.mark.parametrize("trusted", [0, 1, 2, 8])
@pytest.mark.parametrize("spread_m", [0.0, 0.1])
def test_few_frames_and_exact_ones_have_a_finite_line_and_gradient(speed_sd_m_s, trusted, spread_m):
    generator = torch.Generator().manual_seed(0)
    distance_BT = (4 + spread_m * torch.randn(1, 8, generator=generator)).requires_grad_()
    weight_BT = (torch.arange(8) < trusted).float()[None]
    line = fit_distance(distance_BT, TIME_BT, weight_BT, speed_sd_m_s=speed_sd_m_s, bias_sd=0.02)
    for value in (line.distance_B, line.slope_B, line.relative_sd_B, line.slope_sd_B):
        assert torch.isfinite(value).all()
    (gradient,) = torch.autograd.grad((line.distance_B + line.slope_B).sum(), distance_BT)
    assert torch.isfinite(gradient).all()
    if trusted:
        assert line.distance_B.item() == pytest.approx(4, abs=3 * spread_m + 1e-6)

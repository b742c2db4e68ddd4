"""An object that is known to start at rest: fewer frames say more, and nothing is claimed of those that do not."""

import torch

from reward_physics.laws.kinematics import fit_arc


def falls(clips: int, frames: int, noise_m: float, *, speed_m_s: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    time_BT = (torch.arange(frames, dtype=torch.float64) / 16).expand(clips, -1)
    height = 2 + speed_m_s * time_BT - 0.5 * 9.81 * time_BT**2
    position = torch.stack((0 * height, 0 * height, height), dim=-1)
    return time_BT, position + noise_m * torch.randn(position.shape, generator=generator, dtype=torch.float64)


def fitted(time_BT, position_BT3, at_rest):
    clips = len(time_BT)
    rest = None if at_rest is None else torch.full((clips,), at_rest)
    return fit_arc(
        time_BT=time_BT,
        position_BTD=position_BT3,
        weight_BT=torch.ones_like(time_BT),
        sigma_position_B=torch.full((clips,), 0.02),
        at_rest_B=rest,
    )


def test_rest_halves_the_spread_of_g_and_the_stated_error():
    time_BT, position = falls(400, 7, 0.02)
    free, rest = fitted(time_BT, position, None), fitted(time_BT, position, True)
    assert rest.g_m_s2_B.std() < 0.5 * free.g_m_s2_B.std()
    assert abs(rest.g_m_s2_B.mean() - 9.81) < 0.1
    low, high = rest.g_interval()
    assert 0.9 < ((low < 9.81) & (high > 9.81)).double().mean() <= 1.0


def test_a_clip_not_at_rest_is_fitted_as_before():
    time_BT, position = falls(4, 9, 0.01, speed_m_s=1.5)
    torch.testing.assert_close(fitted(time_BT, position, False).accel_B3, fitted(time_BT, position, None).accel_B3)

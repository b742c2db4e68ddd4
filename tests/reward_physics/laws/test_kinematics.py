"""The fit of constant acceleration, its error bar and its singular points."""

import pytest
import torch

from reward_physics.laws.kinematics import cramer_rao_g_m_s2, fit_arc


def parabola(batch: int = 1, frames: int = 9, fps: float = 16.0, accel=(0.3, 0.0, -9.81)):
    time = (torch.arange(frames, dtype=torch.float64) / fps).expand(batch, frames)
    start, speed = torch.tensor([0.1, 4.0, 1.5]).double(), torch.tensor([0.5, -0.2, 1.0]).double()
    position = start + speed * time[..., None] + 0.5 * torch.tensor(accel).double() * time[..., None].square()
    return time, position


def fit(time, position, sigma=0.01, **more):
    sigmas = torch.full_like(time[:, 0], sigma)
    more.setdefault("weight_BT", torch.ones_like(time))
    return fit_arc(time_BT=time, position_BTD=position, sigma_position_B=sigmas, **more)


def test_exact_parabola():
    time, position = parabola()
    result = fit(time, position)
    torch.testing.assert_close(result.accel_B3, torch.tensor([[0.3, 0.0, -9.81]]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.position_at(time), position, atol=1e-8, rtol=0)
    mid = 4 / 16.0
    assert result.mid_time_B.item() == pytest.approx(mid)
    assert result.velocity_B3[0, 2].item() == pytest.approx(1.0 - 9.81 * mid)


def test_displacements_alone_would_give_the_same_answer():
    time, position = parabola()
    for stride in (1, 2):
        moved = position[:, stride:] - position[:, :-stride]
        noisy = position + 10 * torch.randn(position.shape, generator=torch.Generator().manual_seed(0)).double()
        result = fit_arc(
            time_BT=time,
            position_BTD=noisy,
            weight_BT=torch.ones_like(time),
            sigma_position_B=torch.tensor([10.0]),
            displacement_BSD=moved,
            sigma_displacement_B=torch.tensor([1e-3]),
            stride=stride,
        )
        torch.testing.assert_close(result.accel_B3, torch.tensor([[0.3, 0.0, -9.81]]).double(), atol=0.02, rtol=0)


def test_frames_outside_the_arc_do_not_count():
    time, position = parabola(frames=12)
    position = position.clone()
    position[:, 9:] += 5
    weight = torch.ones_like(time)
    weight[:, 9:] = 0
    result = fit(time, position, weight_BT=weight)
    assert result.accel_B3[0, 2].item() == pytest.approx(-9.81, abs=1e-6)
    assert result.num_frames_B.item() == 9


def test_two_outliers_do_not_pull():
    time, position = parabola(frames=16)
    noise = 0.01 * torch.randn(position.shape, generator=torch.Generator().manual_seed(1)).double()
    noise[:, 5, 2] += 0.3
    noise[:, 11, 2] -= 0.3
    assert abs(fit(time, position + noise).accel_B3[0, 2].item() + 9.81) < 0.3


@pytest.mark.parametrize("frames", [6, 9, 16])
@pytest.mark.parametrize("assumed", [0.005, 0.01, 0.02])
def test_intervals_cover(frames, assumed):
    """95 % intervals of g cover 90 to 100 %, with the noise's size known only within a factor of two."""
    time, position = parabola(batch=2000, frames=frames)
    noise = 0.01 * torch.randn(position.shape, generator=torch.Generator().manual_seed(2)).double()
    noise[..., 1] = 0  # nothing is seen along the line of sight
    low, high = fit(time, position + noise, sigma=assumed).g_interval()
    covered = ((low <= 9.81) & (high >= 9.81)).double().mean()
    assert 0.90 <= covered <= 1.0
    if assumed == 0.01:
        bound = cramer_rao_g_m_s2(num_frames=frames, fps=16, noise_px=0.01, px_per_m=1)
        assert (high - low).median() < 2 * 2 * 1.96 * bound


def test_correlated_noise_still_covers():
    time, position = parabola(batch=2000, frames=12)
    white = 0.01 * torch.randn(position.shape, generator=torch.Generator().manual_seed(3)).double()
    noise = white.clone()
    for t in range(1, 12):
        noise[:, t] = 0.4 * noise[:, t - 1] + white[:, t]
    noise[..., 1] = 0
    low, high = fit(time, position + noise).g_interval()
    assert 0.88 <= ((low <= 9.81) & (high >= 9.81)).double().mean() <= 0.995


def test_scale_error_widens_along_the_acceleration_only():
    time, position = parabola()
    plain = fit(time, position)
    wide = plain.with_scale_error(torch.tensor([0.02]).double())
    assert wide.g_stderr_m_s2_B.item() == pytest.approx(
        (plain.g_stderr_m_s2_B.item() ** 2 + (0.02 * 9.81) ** 2) ** 0.5, rel=1e-6
    )
    assert wide.accel_cov_B33[0, 1, 1] == plain.accel_cov_B33[0, 1, 1]


def test_an_unknown_speed_along_the_line_of_sight_widens_along_the_velocity():
    """Positions times 1 + s tau have the acceleration a + 2 s v at mid time."""
    time, position = parabola()
    plain = fit(time, position)
    wide = plain.with_scale_error(torch.zeros(1), torch.tensor([0.05]))
    tau = (time - plain.mid_time_B[:, None])[..., None]
    moved = fit(time, position * (1 + 0.05 * tau)).accel_B3 - plain.accel_B3
    variance = wide.accel_cov_B33 - plain.accel_cov_B33
    torch.testing.assert_close(variance[0].diagonal().sqrt(), moved[0].abs(), atol=0.02, rtol=0.05)


def test_gradcheck():
    time, position = parabola(frames=6)
    position = position + 0.01 * torch.randn(position.shape, generator=torch.Generator().manual_seed(4)).double()
    moved = (position[:, 1:] - position[:, :-1]).detach().requires_grad_()
    position.requires_grad_()

    def accel(p, d):
        # Enough prior dwarfs the residuals, so that the (detached) robust weights stay one.
        return fit_arc(
            time_BT=time,
            position_BTD=p,
            weight_BT=torch.ones_like(time),
            sigma_position_B=torch.tensor([10.0]),
            displacement_BSD=d,
            sigma_displacement_B=torch.tensor([20.0]),
        ).accel_B3

    assert torch.autograd.gradcheck(accel, (position, moved), eps=1e-4, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_too_few_frames_are_refused_with_zeros_and_no_gradient(frames):
    time, position = parabola(frames=frames)
    position.requires_grad_()
    result = fit(time, position)
    assert result.reasons == [f"too few frames in free flight: {frames}, needs 5"]
    assert not result.measurable_B.any() and (result.accel_B3 == 0).all()
    (gradient,) = torch.autograd.grad(result.accel_B3.sum(), position)
    assert (gradient == 0).all()
    low, high = result.g_interval()
    assert low.isnan().all() and high.isnan().all()


def test_nan_positions_outside_the_arc_do_not_poison():
    time, position = parabola(frames=12)
    position = position.clone()
    position[:, 10:] = float("nan")
    position.requires_grad_()
    weight = torch.ones_like(time)
    weight[:, 10:] = 0
    result = fit(time, position, weight_BT=weight)
    (gradient,) = torch.autograd.grad(result.accel_B3.sum(), position)
    assert torch.isfinite(gradient).all() and result.g_m_s2_B.item() == pytest.approx(9.81)


def test_cramer_rao_bound_of_the_literature():
    """16 samples at 16 fps with 1 cm of noise: 0.07 m/s^2."""
    assert cramer_rao_g_m_s2(num_frames=16, fps=16, noise_px=0.22, px_per_m=22) == pytest.approx(0.07, abs=0.005)
    assert cramer_rao_g_m_s2(num_frames=3, fps=16, noise_px=0.1, px_per_m=22) == float("inf")


def test_min_frames_must_leave_a_residual():
    time, position = parabola()
    with pytest.raises(ValueError, match="at least 4"):
        fit(time, position, min_frames=3)

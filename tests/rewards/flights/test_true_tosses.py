"""True tosses, thrown by a hand or falling freely, are no fault: whatever the noise of the track is."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from reward_physics.laws.flights import Trajectory, find_flights
from rewards.flights.arc_residual import arc_residual
from rewards.flights.galileo import galileo
from rewards.flights.restitution import restitution

CLIPS, HEIGHT_PX, RADIUS_PX = 60, 48.0, 4.0


def tosses(frames: int, fps: float, *, noise_px: float, floor_px: float, held: bool) -> SimpleNamespace:
    """Observations of tosses of random heights, a hand holding them first where `held`; the instruments expect
    `floor_px` of noise, and the track has `noise_px`."""
    draw = torch.Generator().manual_seed(frames)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(CLIPS, 1, generator=draw, dtype=torch.float64)

    time = (torch.arange(frames) / fps).double().expand(CLIPS, -1)
    span = frames / fps
    release = between(0.0, 0.5) * span * held
    apex = release + (span - release) * between(0.0, 0.7)
    pull = 2 * between(0.3, 0.9) * HEIGHT_PX / torch.maximum(apex - release, span - apex).square()
    flown = time.clamp(min=0).maximum(release)
    position = torch.stack(
        (between(-0.7, 0.7) * HEIGHT_PX * (flown - release) / span, -pull / 2 * (flown - apex) ** 2), -1
    )
    position = position + noise_px * torch.randn(position.shape, generator=draw, dtype=torch.float64)
    path = Trajectory(
        time_BT=time,
        position_BTD=position,
        weight_BT=torch.ones(CLIPS, frames),
        sigma_B=torch.full((CLIPS,), floor_px, dtype=torch.float64),
        radius_B=torch.full((CLIPS,), RADIUS_PX, dtype=torch.float64),
        unit="px",
    )
    return SimpleNamespace(flights=find_flights(path), like_clips=lambda values_B: values_B.float())


@pytest.mark.parametrize(("noise_px", "floor_px"), [(0.0, 0.35), (0.35, 0.35), (1.0, 0.35), (1.0, 0.1)])
@pytest.mark.parametrize(("frames", "fps"), [(17, 16), (33, 16), (81, 30)])
@pytest.mark.parametrize("held", [False, True])
def test_a_toss_is_a_parabola_and_no_bounce(frames, fps, noise_px, floor_px, held):
    seen = tosses(frames, fps, noise_px=noise_px, floor_px=floor_px, held=held)
    residual = arc_residual(seen)
    assert residual.isnan().sum() <= 2 and residual.nanmedian() > -0.004
    assert residual[~residual.isnan()].min() > -0.1, "twenty times it stays above the price of hiding"
    assert restitution(seen).isnan().sum() >= CLIPS - 1, "nothing has bounced"


def test_what_a_hand_throws_up_is_not_released_from_rest():
    seen = tosses(33, 16, noise_px=0.35, floor_px=0.35, held=True)
    said = galileo(seen)
    assert said[~said.isnan()].min() > -0.2

import math

import pytest
import torch
import torch.nn.functional as F

from reward_physics.figures.image_quality import background_psnr_db, colour_shift, sharpness_ratio

USED = torch.ones(4, dtype=torch.bool)


def moving_square(step: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """A red square that moves down a grey wall, and its masks."""
    frames, masks = torch.full((4, 3, 32, 32), 0.5), torch.zeros(4, 32, 32)
    for t in range(4):
        masks[t, 4 + step * t : 10 + step * t, 10:16] = 1
        frames[t] = torch.where(masks[t] > 0, torch.tensor([0.9, 0.1, 0.1])[:, None, None], frames[t])
    return frames, masks


def test_a_moving_object_alone_costs_nothing():
    frames, masks = moving_square()
    assert background_psnr_db(frames, masks) == 60.0
    assert sharpness_ratio(frames, masks, USED) == pytest.approx(1.0, abs=1e-5)
    assert colour_shift(frames, masks, USED) == pytest.approx(0.0, abs=1e-6)


def test_background_drift_by_hand():
    frames, masks = moving_square()
    frames[1:] += 0.1 * (masks[1:] == 0)[:, None]
    assert background_psnr_db(frames, masks) == pytest.approx(20.0, abs=1e-4)


def test_blur_lowers_sharpness():
    frames, masks = moving_square()
    frames[1:] = F.avg_pool2d(frames[1:], 5, stride=1, padding=2, count_include_pad=False)
    assert sharpness_ratio(frames, masks, USED) < 0.75


def test_fading_shows_as_colour_shift():
    frames, masks = moving_square()
    frames[3] = torch.where(masks[3] > 0, 0.5, frames[3])
    # one frame of four moves by (0.4, 0.4, 0.4)
    assert colour_shift(frames, masks, USED) == pytest.approx(0.1, abs=1e-6)


def test_without_object_there_is_no_figure():
    frames, masks = moving_square()
    assert math.isnan(sharpness_ratio(frames, torch.zeros_like(masks), USED))
    assert math.isnan(colour_shift(frames, torch.zeros_like(masks), USED))
    assert math.isnan(background_psnr_db(frames, torch.ones_like(masks)))

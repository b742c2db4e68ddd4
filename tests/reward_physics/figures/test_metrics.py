import math

import pytest
import torch

from reward_physics.figures import metrics

NAN = math.nan


def square(top: int, left: int, side: int, size: int = 32) -> torch.Tensor:
    mask = torch.zeros(size, size)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_relative_g_error_by_hand():
    error = metrics.relative_g_error(torch.tensor([9.81, 4.905, 19.62, NAN]))
    torch.testing.assert_close(error, torch.tensor([0.0, 0.5, 1.0, NAN]), equal_nan=True)


def test_median_of_an_even_count_lies_between():
    assert metrics.nan_median(torch.tensor([1.0, NAN, 4.0])) == 2.5
    assert math.isnan(metrics.nan_median(torch.tensor([NAN])))


def test_instruments_that_agree_differ_by_nothing():
    reading = metrics.instrument_disagreement(torch.tensor([5.0, 6.0, 1.0, NAN]), torch.tensor([5.0, 5.0, 0.0, 1.0]))
    torch.testing.assert_close(reading, torch.tensor([0.0, 0.2, NAN, NAN]), equal_nan=True)


def test_trajectory_l2_is_a_distance():
    true = torch.zeros(1, 4, 2)
    measured = true.clone()
    measured[..., 1] = 3.0  # three pixels too high in every frame
    assert metrics.trajectory_l2(measured, true, missing=10.0).item() == 3.0


def test_vanishing_costs():
    true = torch.zeros(2, 4, 2)
    measured = true.clone()
    measured[0, 2:] = NAN
    measured[1] = NAN
    torch.testing.assert_close(metrics.trajectory_l2(measured, true, missing=10.0), torch.tensor([5.0, 10.0]))


def test_trajectories_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shape"):
        metrics.trajectory_l2(torch.zeros(1, 4, 2), torch.zeros(1, 5, 2), missing=1.0)


def test_iou_by_hand():
    assert metrics.mask_iou(square(0, 0, 4), square(0, 2, 4)).item() == pytest.approx(8 / 24)
    assert metrics.mask_iou(square(0, 0, 4), torch.zeros(32, 32)).item() == 0.0
    assert metrics.mask_iou(torch.zeros(32, 32), torch.zeros(32, 32)).item() == 1.0


def test_centroid_lies_at_pixel_centres():
    assert metrics.mask_centroid(square(3, 10, 1)).tolist() == [10.5, 3.5]
    assert torch.isnan(metrics.mask_centroid(torch.zeros(8, 8))).all()


def test_a_shift_moves_the_centroid_by_as_much():
    moved = metrics.shift_mask(square(10, 10, 6), torch.tensor([3.25, -1.5]))
    torch.testing.assert_close(metrics.mask_centroid(moved), torch.tensor([16.25, 11.5]))


@pytest.mark.parametrize("offset", [1, 7, 14])
def test_aligned_iou_does_not_see_motion(offset):
    assert metrics.aligned_iou(square(4 + offset, 9, 6), square(4, 9, 6)).item() == 1.0


def test_aligned_iou_sees_shape():
    assert metrics.aligned_iou(square(20, 9, 4), square(4, 9, 6)).item() == pytest.approx(16 / 36)
    assert metrics.aligned_iou(torch.zeros(32, 32), square(4, 9, 6)).item() == 0.0


def test_area_ratio_by_hand():
    masks = torch.stack([square(0, 0, 3), torch.zeros(32, 32), square(0, 0, 3)])
    true = torch.stack([square(9, 9, 6), square(9, 9, 6), torch.zeros(32, 32)])
    torch.testing.assert_close(metrics.area_ratio(masks, true), torch.tensor([0.25, 0.0, NAN]), equal_nan=True)


def test_chamfer_by_hand():
    assert metrics.chamfer_px(square(0, 0, 1), square(3, 4, 1)) == 5.0
    assert metrics.chamfer_px(square(0, 0, 5), square(0, 0, 5)) == 0.0
    assert metrics.chamfer_px(torch.zeros(30, 40), square(0, 0, 2, size=40)[:30]) == 50.0
    assert metrics.chamfer_px(torch.zeros(8, 8), square(0, 0, 2, size=8), missing_px=3.0) == 3.0

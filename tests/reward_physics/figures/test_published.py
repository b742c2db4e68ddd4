"""The published definitions give hand-computed values, and the corrected ones differ where they should."""

import math

import pytest
import torch

from reward_physics.figures import metrics
from reward_physics.figures.published import published_chamfer, published_iou, published_l2

SIDE = 32


def square(top: int, left: int = 4, side: int = 4) -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[top : top + side, left : left + side] = 1
    return mask


EMPTY = torch.zeros(SIDE, SIDE)
TRUE = torch.stack([square(0), square(8), square(16)])


def test_a_vertical_error_reads_half_and_is_divided_by_the_diagonal():
    """Two pixels too low in every frame: (2 + 0) / 2 = 1 px per axis, over 32 sqrt(2)."""
    low = torch.stack([square(2), square(10), square(18)])
    assert published_l2(low, TRUE) == pytest.approx(1 / (32 * math.sqrt(2)))
    centroids = [metrics.mask_centroid(mask)[None] for mask in (low, TRUE)]
    assert metrics.trajectory_l2(*centroids, missing=99.0).item() == pytest.approx(2.0)


@pytest.mark.parametrize(("height_px", "width_px"), [(24, 40), (40, 24)])
def test_lengths_of_an_oblong_picture_are_divided_by_its_height(height_px, width_px):
    """A square of 4 x 4 that is 2 px too low and 1 px too far right: L2 (2 + 1) / 2 px, over H sqrt(2)."""
    true, low = torch.zeros(2, 1, height_px, width_px)
    true[:, 8:12, 4:8] = 1
    low[:, 10:14, 5:9] = 1
    assert published_l2(low, true) == pytest.approx(1.5 / (height_px * math.sqrt(2)))
    # 6 pixels of 16 are common. The others, by rows of the overhang: 1, 1, then (1, 1, 1, root 2), (2, 2, 2, root 5).
    mean = (2 + 3 + math.sqrt(2) + 6 + math.sqrt(5)) / 16
    assert published_chamfer(low, true) == pytest.approx(2 * mean / (height_px * math.sqrt(2)))
    assert published_iou(low[:, None], true[:, None]) == pytest.approx(6 / 26)


def test_chamfer_is_the_sum_of_both_ways():
    """Squares of 4 x 4 two rows apart: half lie in the other, the rest 1 and 2 away: 0.75 each way."""
    low = torch.stack([square(2), square(10), square(18)])
    assert published_chamfer(low, TRUE) == pytest.approx(2 * 0.75 / (32 * math.sqrt(2)))
    assert metrics.chamfer_px(low[0], TRUE[0]) == pytest.approx(0.75)


def test_vanishing_is_free_in_the_published_figures_and_pays_in_the_corrected_ones():
    vanished = torch.stack([square(0), EMPTY, EMPTY])
    assert published_l2(vanished, TRUE) == 0.0
    assert published_chamfer(vanished, TRUE) == 0.0
    centroids = [metrics.mask_centroid(mask)[None] for mask in (vanished, TRUE)]
    assert metrics.trajectory_l2(*centroids, missing=45.0).item() == pytest.approx(30.0)
    assert metrics.chamfer_px(vanished[1], TRUE[1]) == pytest.approx(32 * math.sqrt(2))
    assert published_iou(vanished[:, None], TRUE[:, None]) == pytest.approx(1 / 3)
    gone = torch.stack([EMPTY] * 3)
    assert math.isnan(published_l2(gone, TRUE))
    assert math.isnan(published_chamfer(gone, TRUE))


def test_iou_by_hand():
    """Two of four rows in common: 8 / 24; both empty counts as 1."""
    low = torch.stack([square(2), square(8), EMPTY])
    true = torch.stack([square(0), square(8), EMPTY])
    assert published_iou(low[:, None], true[:, None]) == pytest.approx((8 / 24 + 1 + 1) / 3)


def test_pooled_iou_hides_a_small_object_that_is_lost():
    large, small = square(0, 0, 16), square(20, 20, 2)
    true = torch.stack([large, small])[None]
    lost = torch.stack([large, EMPTY])[None]
    assert published_iou(lost, true) == pytest.approx(256 / 260)
    each = metrics.mask_iou(lost, true)
    assert each.mean().item() == pytest.approx(0.5)

"""Pixel centres, discs, centroids and moments: the closed forms of simple shapes, and slopes where a shape is empty."""

import math

import pytest
import torch

from reward_physics import grid

F64 = torch.float64


def box(height: int, width: int, top: int, left: int, rows: int, columns: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=F64)
    mask[top : top + rows, left : left + columns] = 1
    return mask


def test_the_first_pixel_has_its_centre_at_a_half():
    uv = grid.pixel_centres(torch.zeros(2, 3))
    assert uv.shape == (2, 3, 2)
    assert uv[0, 0].tolist() == [0.5, 0.5] and uv[1, 2].tolist() == [2.5, 1.5]


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_a_box_has_its_closed_form_moments(leading):
    mask = box(12, 16, 2, 3, 4, 6).expand(*leading, 12, 16)
    assert grid.centroid(mask).shape == (*leading, 2)
    assert torch.allclose(grid.centroid(mask), torch.tensor([6.0, 4.0], dtype=F64))
    expected = torch.diag(torch.tensor([(36 - 1) / 12, (16 - 1) / 12], dtype=F64))
    assert torch.allclose(grid.second_moments(mask), expected)
    long, short = grid.principal_variances(grid.second_moments(mask))
    assert long.shape == leading and torch.allclose(long, expected[0, 0]) and torch.allclose(short, expected[1, 1])


def test_an_empty_mask_has_finite_moments_and_slopes():
    mask = torch.zeros(1, 5, 5, dtype=F64, requires_grad=True)
    (grid.centroid(mask).sum() + grid.second_moments(mask).sum()).backward()
    assert torch.isfinite(mask.grad).all()
    place, area = grid.mean_place(mask.detach(), torch.tensor([[7.0, 8.0]], dtype=F64))
    assert place.tolist() == [[7.0, 8.0]] and area.item() == 0


def test_an_ellipse_has_its_area_place_and_axes():
    uv = grid.pixel_centres(torch.zeros(60, 80, dtype=F64))
    centre, half = torch.tensor([[40.3, 28.9]], dtype=F64), torch.tensor([[12.0, 7.0]], dtype=F64)
    mask = grid.ellipse(centre, half, uv)
    assert mask.sum().item() == pytest.approx(math.pi * 12 * 7, rel=0.01)
    assert (grid.centroid(mask) - centre).norm() < 0.03
    long, short = grid.principal_variances(grid.second_moments(mask))
    assert 2 * long.sqrt().item() == pytest.approx(12, rel=0.02)
    assert 2 * short.sqrt().item() == pytest.approx(7, rel=0.02)


def test_an_ellipse_moves_its_centroid_with_its_centre_and_has_slopes_in_a_pixel_of_its_own():
    uv = grid.pixel_centres(torch.zeros(20, 20, dtype=F64))
    centre = torch.tensor([[9.5, 10.5]], dtype=F64, requires_grad=True)
    half = torch.tensor([[4.0, 4.0]], dtype=F64, requires_grad=True)
    by_centre, by_half = torch.autograd.grad(grid.centroid(grid.ellipse(centre, half, uv))[0, 0], (centre, half))
    # A pixel's share of the edge is a straight line for a pixel's width: locally the slope strays from 1.
    assert by_centre[0, 0].item() == pytest.approx(1, abs=0.4) and by_centre[0, 1].abs() < 1e-6
    assert torch.isfinite(by_half).all()

"""Procedural image pairs: their flow is exact, their occlusion is, and a seed decides them."""

import pytest
import torch
import torch.nn.functional as F

from data.warps import WarpRanges, draw_warps


@pytest.fixture(scope="module")
def warps():
    return draw_warps(6, torch.Generator().manual_seed(3), WarpRanges(size_px=64, radius_px=(5.0, 20.0)))


def looked_up(images_BCHW, flow_BHW2):
    """The second images at x + flow(x)."""
    size = images_BCHW.shape[-1]
    axis = torch.arange(size) + 0.5
    x = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    return F.grid_sample(images_BCHW, (x + flow_BHW2) / size * 2 - 1, align_corners=False)


def inner(warps):
    """Visible pixels whose target is a pixel from the edge, where a bilinear lookup needs no pixel outside."""
    size = warps.visible_BHW.shape[-1]
    axis = torch.arange(size) + 0.5
    target = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1) + warps.flow_BHW2
    return (warps.visible_BHW == 1) & ((target > 1) & (target < size - 1)).all(dim=-1)


def test_following_the_flow_finds_the_same_colour(warps):
    gap = (looked_up(warps.second_BCHW, warps.flow_BHW2) - warps.first_BCHW).abs().amax(dim=1)
    gap = gap[inner(warps)]
    assert gap.median() < 1e-5
    assert (gap > 0.02).float().mean() < 0.2  # what is left lies on the soft edges of shapes


def test_a_wrong_flow_does_not(warps):
    gap = (looked_up(warps.second_BCHW, warps.flow_BHW2 + 1.0) - warps.first_BCHW).abs().amax(dim=1)
    assert (gap[inner(warps)] > 0.02).float().mean() > 0.5


def test_hidden_pixels_do_not_find_their_colour(warps):
    gap = (looked_up(warps.second_BCHW, warps.flow_BHW2) - warps.first_BCHW).abs().amax(dim=1)
    hidden = warps.visible_BHW == 0
    assert 0.01 < hidden.float().mean() < 0.4
    assert gap[hidden].mean() > 5 * gap[inner(warps)].mean()


def test_colours_are_in_range_and_things_move(warps):
    for images in (warps.first_BCHW, warps.second_BCHW):
        assert images.min() >= 0
        assert images.max() <= 1
    assert warps.flow_BHW2.norm(dim=-1).amax() > 3
    assert (warps.first_BCHW - warps.second_BCHW).abs().mean() > 0.01


def test_the_seed_decides():
    ranges = WarpRanges(size_px=32)
    first, again, other = (draw_warps(1, torch.Generator().manual_seed(seed), ranges) for seed in (1, 1, 2))
    assert torch.equal(first.first_BCHW, again.first_BCHW)
    assert torch.equal(first.flow_BHW2, again.flow_BHW2)
    assert not torch.equal(first.first_BCHW, other.first_BCHW)


@pytest.mark.parametrize(
    ("values", "said"),
    [({"size_px": 8}, "size_px"), ({"objects": 0}, "objects"), ({"radius_px": (4.0, 2.0)}, "radius")],
)
def test_bad_ranges_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        WarpRanges(**values)

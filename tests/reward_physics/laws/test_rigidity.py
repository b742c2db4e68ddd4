"""Area and shape of a mask, by hand and at their singular points."""

import math

import pytest
import torch

from reward_physics.laws.rigidity import measure_rigidity


def disc(radius: float, centre=(20.0, 16.0), size=(32, 40), squash: float = 1.0) -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(size[0]).double() + 0.5, torch.arange(size[1]).double() + 0.5, indexing="ij")
    away = (((u - centre[0]) * squash) ** 2 + ((v - centre[1]) / squash) ** 2).sqrt()
    return (radius + 0.5 - away).clamp(0, 1)


def measured(masks, area=None, centre=(20.0, 16.0), **more):
    mask = torch.stack(masks)[None]
    centroid = torch.tensor(centre).double().expand(1, len(masks), 2)
    usual = masks[0].sum()[None] if area is None else torch.tensor([area])
    return measure_rigidity(mask, centroid, usual, **more)


def test_sizes_by_hand():
    found = measured([disc(6), disc(6), disc(6 * 2**0.5), disc(6), disc(6)])
    assert found.size_BT[0, :2].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert found.size_BT[0, 2].item() == pytest.approx(1 / 3, abs=0.01)
    assert found.shape_BT.abs().max() < 0.01


def test_a_stretched_disc_has_its_known_invariant():
    squash = 1.4
    found = measured([disc(6), disc(6), disc(6), disc(6, squash=squash)])
    ratio = 0.5 * (squash**2 + squash**-2)
    assert found.shape_BT[0, 3].item() == pytest.approx((ratio - 1) / (ratio + 1), abs=0.01)
    assert abs(found.size_BT[0, 3].item()) < 0.02


def test_a_stretch_is_that_of_the_ellipse():
    squash, wide = 1.4, disc(6, squash=1 / 1.4)
    found = measured([disc(6), disc(6), disc(6, squash=squash), wide, torch.zeros(32, 40).double()])
    axes = (squash**2 - squash**-2) / (squash**2 + squash**-2)
    assert found.stretch_BT[0, :4].tolist() == pytest.approx([0, 0, axes, axes], abs=0.02)
    assert found.stretch_BT[0, 4] == 0, "what is not seen is not stretched"
    turned = measured([wide, disc(6, squash=squash)])
    assert turned.stretch_BT[0, 1].item() == pytest.approx(2 * axes, abs=0.03), "against the first frame"


def test_distance_explains_a_smaller_picture():
    masks = [disc(6), disc(5), disc(4)]
    distance = torch.tensor([[1.0, 6 / 5, 6 / 4]]).double()
    assert measured(masks).size_BT[0, 2] < -0.3
    assert measured(masks, distance_BT=distance).size_BT.abs().max() < 0.02


def test_frames_at_the_border_do_not_count():
    found = measured([disc(6, centre=(2.0, 16.0))] * 3, area=113.0, centre=(2.0, 16.0))
    assert not found.inside_BT.any() and (found.size_BT == 0).all() and found.travel_B == 0


def test_an_empty_mask_is_minus_one_and_has_a_finite_gradient():
    empty = torch.zeros(32, 40).double().requires_grad_()
    found = measured([disc(6), empty])
    assert found.size_BT[0, 1].item() == -1
    (gradient,) = torch.autograd.grad(found.size_BT.sum() + found.shape_BT.sum() + found.stretch_BT.sum(), empty)
    assert torch.isfinite(gradient).all() and (gradient > 0).any()
    nothing = measured([torch.zeros(32, 40).double()] * 2, area=1.0)
    assert math.isfinite(nothing.size_BT.sum()) and math.isfinite(nothing.shape_BT.sum())


def test_gradcheck():
    mask = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    centre = torch.full((1, 4, 2), 3.0).double()

    def sizes(m):
        return measure_rigidity(m, centre, torch.tensor([5.0]).double()).size_BT

    def against_the_first(m):
        # The usual shape, a detached median, is one of the fixed frames'.
        found = measure_rigidity(torch.cat((fixed, m), dim=1), centres, torch.tensor([5.0]).double())
        return found.shape_BT[:, -1], found.stretch_BT[:, -1]

    assert torch.autograd.gradcheck(sizes, (mask,))
    fixed = torch.stack([disc(r, centre=(3.0, 3.0), size=(6, 6)) for r in (1.2, 1.3, 1.3, 1.4)])[None]
    centres = torch.full((1, 5, 2), 3.0).double()
    single = (0.9 * disc(1.3, centre=(3.2, 2.9), size=(6, 6)) + 0.05)[None, None].requires_grad_()
    assert measure_rigidity(fixed, centre, torch.tensor([5.0]).double()).inside_BT.all()
    assert torch.autograd.gradcheck(against_the_first, (single,))

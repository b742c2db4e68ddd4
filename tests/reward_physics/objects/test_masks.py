"""Masks by colour, by flow and by a network's logits."""

import torch
from discs import free_fall, make_world

from reward_physics.objects import masks


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return (torch.minimum(a, b).sum() / torch.maximum(a, b).sum()).item()


def test_appearance_finds_the_disc_with_the_shares_of_its_edge():
    world = make_world(free_fall(batch=2, frames=9))
    found = masks.by_appearance(world.video.frames_BTCHW, world.video.first_mask_BHW)
    assert overlap(found.double(), world.masks_BTHW) > 0.9


def test_appearance_of_an_object_that_never_leaves():
    world = make_world(free_fall(frames=9, g_m_s2=0.3))
    found = masks.by_appearance(world.video.frames_BTCHW, world.video.first_mask_BHW)
    assert overlap(found.double(), world.masks_BTHW) > 0.8


def test_a_shadow_is_not_the_object():
    world = make_world(free_fall(frames=9))
    frames = world.video.frames_BTCHW.clone()
    shadow = torch.zeros(9, 1, 64, 64)
    for t in range(9):
        shadow[t, :, 52:58, 24 + t : 40 + t] = 1
    frames = frames * (1 - 0.5 * shadow[None])
    found = masks.by_appearance(frames, world.video.first_mask_BHW)
    away = world.masks_BTHW == 0
    assert (found[away].double() > 0.3).double().mean() < 0.002
    assert overlap(found.double(), world.masks_BTHW) > 0.85


def test_appearance_is_differentiable_and_finite_everywhere():
    world = make_world(free_fall(frames=6))
    for frames in (world.video.frames_BTCHW.clone(), torch.zeros(1, 6, 3, 64, 64), torch.full((1, 6, 3, 64, 64), 0.5)):
        frames = frames.requires_grad_()
        for first in (world.video.first_mask_BHW, torch.zeros(1, 64, 64), torch.ones(1, 64, 64)):
            found = masks.by_appearance(frames, first)
            assert found.min() >= 0 and found.max() <= 1
            (gradient,) = torch.autograd.grad(found.sum(), frames)
            assert torch.isfinite(gradient).all()


def test_propagated_mask_follows_the_flow():
    world = make_world(free_fall(frames=8))
    truth, _ = world.camera.project(world.centres_BT3)
    moved = (truth[:, 1:] - truth[:, :-1])[:, :, None, None].expand(1, 7, 64, 64, 2)
    found = masks.propagated(world.masks_BTHW[:, 0], moved)
    assert overlap(found, world.masks_BTHW) > 0.85


def test_segmenter_is_a_sigmoid_and_erosion_eats_one_pixel():
    assert masks.segmenter(torch.zeros(1, 1, 2, 2)).tolist() == [[[[0.5, 0.5], [0.5, 0.5]]]]
    square = torch.zeros(1, 1, 7, 7)
    square[..., 1:6, 1:6] = 1
    assert masks.eroded(square).sum() == 9
    assert masks.eroded(torch.ones(1, 1, 4, 4)).sum() == 4

"""Rewards on two drawn discs and on the embedded world's own collisions."""

import dataclasses
from functools import partial

import pytest
import torch
from pairs import collide, disc, look
from paths import spearman

from data.rows import LIGHT_COLUMNS, collate, load_split, to_video
from reward_physics.observation import Instruments, Observation
from rewards.bodies.collision import collision
from rewards.bodies.momentum import momentum
from rewards.bodies.non_penetration import non_penetration
from rewards.bodies.rigidity import rigidity

PAIR = [collision, momentum, non_penetration]


def test_a_true_collision_scores_nearly_zero():
    for e in (0.2, 0.6, 1.0):
        observation = look(collide(e=e))
        assert momentum(observation, mass_ratio=(5 / 6) ** 3).item() > -0.1
        assert momentum(observation).item() > -0.02
        assert collision(observation).item() > -0.02
        assert non_penetration(observation).item() == 0


def test_each_ranks_its_violation():
    gains = [0.0, 0.5, 1.0, 1.5, 2.0]
    scores = [momentum(look(collide(gain=g)), mass_ratio=(5 / 6) ** 3).item() for g in gains]
    assert spearman([-g for g in gains], scores) >= 0.9
    depths = [2.5, 4.0, 5.5, 7.0, 8.5]
    scores = [non_penetration(look(collide(deeper_px=d))).item() for d in depths]
    assert spearman([-d for d in depths], scores) >= 0.9 and scores[-1] < -0.2
    bounces = [1.0, 1.3, 1.6, 1.9, 2.2]
    scores = [collision(look(collide(e=e))).item() for e in bounces]
    assert spearman([-e for e in bounces], scores) >= 0.9
    assert collision(look(collide(apart_px=12))).item() < -0.1


def test_a_change_of_velocity_below_its_noise_points_nowhere():
    heavy = collide(gain=-1.2, e=0.1)  # what it is hit by changes its speed by 0.2 px a frame
    assert momentum(look(heavy, noise_px=0.05)).item() > -0.05
    assert momentum(look(heavy, noise_px=0.4)).isnan().all()
    assert momentum(look(heavy, noise_px=0.4), mass_ratio=(5 / 6) ** 3).item() < -0.2, "a known ratio asks for no angle"


@pytest.mark.parametrize("reward", PAIR)
def test_frozen_single_and_unmarked_clips_are_not_measured(reward):
    video = collide()
    still = video.with_frames(video.frames_BTCHW[:, :1].expand(-1, 18, -1, -1, -1))
    single = dataclasses.replace(
        video, object_masks_BNHW=video.object_masks_BNHW * torch.tensor([1.0, 0]).view(1, 2, 1, 1)
    )
    unmarked = dataclasses.replace(video, object_masks_BNHW=None)
    for case in (still, single, unmarked):
        assert reward(look(case)).isnan().all()


@pytest.mark.parametrize("reward", [collision, non_penetration, partial(momentum, mass_ratio=(5 / 6) ** 3)])
def test_gradients_reach_the_pixels_and_are_finite(reward):
    video = collide(gain=1.0, deeper_px=6, e=1.5)
    frames = video.frames_BTCHW.clone().requires_grad_()
    observation = Observation(video.with_frames(frames), Instruments(mask="appearance"), grad=True)
    (gradient,) = torch.autograd.grad(reward(observation).sum(), frames)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_masks_of_objects_go_with_their_clips():
    video = collide()
    assert video[[0]].object_masks_BNHW.shape == (1, 2, 32, 72)
    assert video.to("cpu").object_masks_BNHW is not None
    assert video.with_frames(video.frames_BTCHW[:, :5]).object_masks_BNHW is video.object_masks_BNHW
    with pytest.raises(ValueError, match=r"object masks must have shape \(1, N, 32, 72\), got \(1, 32, 72\)"):
        dataclasses.replace(video, object_masks_BNHW=video.object_masks_BNHW[:, 0])


@pytest.mark.slow
def test_shipped_collisions_are_true():
    rows = load_split("train", columns=LIGHT_COLUMNS)
    some = [n for n, kind in enumerate(rows["kind"]) if kind == "collide"][:8]
    batch = collate([rows[n] for n in some])
    observation = look(to_video(batch), noise_px=0.35)
    touched = torch.tensor([len(times) > 0 for times in batch["impact_times_s"]])
    found = momentum(observation)
    assert (~found.isnan() & ~touched).sum() == 0 and (~found.isnan()).sum() >= 3
    assert found.nanmedian() > -0.01 and non_penetration(observation).nanmedian() == 0
    assert collision(observation).nanmedian() > -0.01
    pixels = [batch["poses_BTN7"][:, :, n, :3] for n in (0, 1)]
    for n, track in enumerate(observation.object_tracks):
        uv, _ = to_video(batch).camera.project(pixels[n])
        assert (uv - track.centroid_BT2).norm(dim=-1).median() < 0.6


def test_rigidity_ranks_melting_growing_smearing_and_knows_a_rigid_disc():
    t = torch.linspace(0, 1, 16)
    assert rigidity(disc(torch.ones(16))).item() > -1e-4
    assert rigidity(disc(torch.ones(16), moves=False)).isnan().all()
    sizes = [0.0, 0.15, 0.3, 0.45, 0.6]
    for sign in (-1, 1 / 3):
        scores = [rigidity(disc(1 + sign * s * t), tolerance=0.0).item() for s in sizes]
        assert spearman([-s for s in sizes], scores) >= 0.9
    scores = [rigidity(disc(torch.ones(16), stretch_T=1 / (1 + s * t))).item() for s in sizes]
    assert scores[-1] < scores[0] - 0.001
    melting = disc(torch.ones(16), stretch_T=1 / (1 + 0.6 * t))
    assert rigidity(melting).item() < rigidity(melting, stretch=2.0).item() - 0.01, "a small stretch is seen"
    gone = rigidity(disc(torch.where(t < 0.5, 1.0, 1e-3)))
    assert gone.item() < -0.3


def test_rigidity_is_finite_where_the_object_has_vanished():
    world = disc(torch.where(torch.linspace(0, 1, 16) < 0.5, 1.0, -1.0))
    frames = world.video.frames_BTCHW.clone().requires_grad_()
    observation = Observation(world.video.with_frames(frames), world.instruments, grad=True)
    (gradient,) = torch.autograd.grad(rigidity(observation).nansum(), frames)
    assert torch.isfinite(gradient).all()


def test_one_disc_of_the_measuring_world_is_rigid():
    from discs import free_fall, make_world

    world = make_world(free_fall(frames=9))
    assert rigidity(Observation(world.video, world.instruments(), grad=False)).item() > -0.01

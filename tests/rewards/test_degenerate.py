"""Every shipped recipe on clips that say nothing: a number for each, and a gradient without NaN."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.estimators.depth import Depth
from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from rewards.recipe.load import known_rewards, load_reward
from rewards.recipe.recipe import load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs" / "recipes").glob("*.yaml"))
SIDE, DISTANCE_M = 64, 4.0


def scene(frames: int) -> tuple[Video, dict[str, torch.Tensor]]:
    """A true fall of a red disc, and the same picture without it, as data of clips."""
    world = make_world(free_fall(frames=frames))
    return world.video, {"fall": world.video.frames_BTCHW[0], "mask": world.masks_BTHW[0]}


def degenerate(frames: int) -> dict[str, torch.Tensor]:
    """Clips (T, 3, H, W) by name."""
    _, parts = scene(frames)
    fall = parts["fall"]
    wall = fall[:1, :, :1].expand_as(fall)  # its columns are of one colour each, and the object is not in the first row
    first = torch.arange(frames).view(-1, 1, 1, 1) == 0
    noise = torch.rand(fall.shape, generator=torch.Generator().manual_seed(0))
    return {
        "absent": wall,
        "in the first frame alone": torch.where(first, fall, wall),
        "in the last frame alone": torch.where(first.flip(0), fall, wall),
        "in two frames": torch.where(first | first.roll(1, 0), fall, wall),
        "still": fall[:1].expand_as(fall),
        "one colour": torch.full_like(fall, 0.5),
        "black": torch.zeros_like(fall),
        "white": torch.ones_like(fall),
        "noise": noise.to(fall),
        "saturated": (fall > 0.5).to(fall),
        "true": fall,
        "its colour everywhere": fall.new_tensor([0.9, 0.15, 0.1]).view(3, 1, 1).expand_as(fall),
    }


def data(frames: int, clips: int, *, marked: bool) -> tuple[Video, dict[str, torch.Tensor]]:
    """What the data says of each clip, without its frames: marked, or with marks that are empty."""
    video, parts = scene(frames)
    first = (parts["mask"][0] > 0.5).float()
    beside = first.roll(12, 1)
    masks_NHW = torch.stack((first, beside)) * float(marked)
    video = Video(
        frames_BTCHW=video.frames_BTCHW.expand(clips, -1, -1, -1, -1),
        fps_B=video.fps_B.expand(clips),
        camera=None if video.camera is None else video.camera[[0] * clips],
        first_mask_BHW=(first * float(marked)).expand(clips, -1, -1),
        object_masks_BNHW=masks_NHW.expand(clips, -1, -1, -1),
        object_depth_m_B=torch.full((clips,), DISTANCE_M),
    )
    return video, {"reference_BTCHW": video.frames_BTCHW}


QUICK = {"gravity", "judge", "gravity_guarded", "momentum"}
CASES = [
    pytest.param(path, frames, marked, marks=[] if path.stem in QUICK and frames == 5 else [pytest.mark.slow])
    for path in RECIPES
    for frames, marked in ((5, True), (9, True), (9, False), (2, True))
]


@pytest.mark.parametrize(("path", "frames", "marked"), CASES, ids=lambda case: getattr(case, "stem", str(case)))
def test_every_clip_has_a_finite_gradient(path, frames, marked):
    recipe, clips = load_recipe(path), degenerate(frames)
    video, columns = data(frames, len(clips), marked=marked)
    if path.stem == "real_clips":
        video = dataclasses.replace(video, px_per_m_B=torch.full((len(clips),), 20.0))
    pixels = torch.stack(list(clips.values())).clone().requires_grad_()
    if path.stem == "pde_residual" and frames < 3:
        with pytest.raises(ValueError, match="needs at least 3 frames"):
            recipe.score(video.with_frames(pixels), columns, grad=True)
        return
    result = recipe.score(video.with_frames(pixels), columns, grad=True)
    assert torch.isfinite(result.total_B).all()
    if not result.total_B.requires_grad:
        assert not result.measurable_B.any() and recipe.config.visibility_weight == 0
        return
    (gradient,) = torch.autograd.grad(result.total_B.sum(), pixels)
    bad = [name for name, part in zip(clips, gradient, strict=True) if not torch.isfinite(part).all()]
    assert not bad, bad


def test_an_object_that_no_frame_shows_is_pulled_back_into_sight(root):
    """Its colour has faded to a hundredth: the gradient makes more of it be seen."""
    recipe = load_recipe(root / "configs" / "recipes" / "gravity.yaml")
    _, parts = scene(9)
    wall = degenerate(9)["absent"]
    video, columns = data(9, 1, marked=True)
    faint = (wall + 0.01 * (parts["fall"] - wall))[None].clone().requires_grad_()
    result = recipe.score(video.with_frames(faint), columns, grad=True)
    assert not result.measurable_B.any()
    (gradient,) = torch.autograd.grad(result.total_B.sum(), faint)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    nearer = faint.detach() + 0.02 * gradient / gradient.abs().max()
    assert recipe.score(video.with_frames(nearer), columns).total_B > result.total_B


VARIANTS = {
    "gravity": [{}, {"delta": 0.1}],
    "arc_residual": [{}, {"first_only": True}],
    "energy_drift": [{}, {"g_m_s2": None}],
    "energy_variance": [{}, {"g_m_s2": None}],
    "energy_rise": [{}, {"spin_share": 1.0}],
    "restitution": [{}, {"coefficient": 0.5}],
    "projectile": [{}, {"g_m_s2": 9.81}],
    "incline": [{}, {"friction": 0.2, "angle_deg": 30.0}],
    "pendulum": [{}, {"length_m": 1.0}],
    "momentum": [{}, {"mass_ratio": 2.0}],
    "pde_residual": [{"equation": equation} for equation in ("advection", "continuity", "inertia")],
    **{f"{of}_match": [{}, {"published": True}] for of in ("flow", "depth", "segmentation")},
}
"""Parameters by reward; what is not listed has the defaults."""


def flat(frames_BTCHW, camera=None):
    """A depth that the colours bend, so that the gradient has a way."""
    depth_BTHW = DISTANCE_M + 0.1 * frames_BTCHW.mean(2)
    return Depth(depth_BTHW=depth_BTHW, metric=True, mask_logits_BTHW=20 * (frames_BTCHW[:, :, 0] - 0.7))


def brightness_flow(frames_BTCHW, *, stride=1):
    """A flow that the colours make: none between equal frames."""
    change = frames_BTCHW[:, stride:] - frames_BTCHW[:, :-stride]
    return torch.stack((change[:, :, 0], change[:, :, 2]), dim=-1)


SETUPS = {
    "pixels": {"mask": "appearance"},
    "known distance": {"mask": "appearance", "known_distance": True},
    "steady depth": {"mask": "appearance", "depth": flat, "line_of_sight_speed_m_s": 0.0},
    "floor": {"mask": "segmenter", "depth": flat, "line_of_sight_speed_m_s": 0.0, "floor_height_m": 0.0},
    "moving depth": {"mask": "segmenter", "depth": flat, "depth_gradient": True},
    "first frame": {"mask": "segmenter", "depth": flat, "first_frame_distance": True},
    "carried": {"mask": "propagated", "depth": flat},
    "size": {"mask": "appearance"},
    "scale": {"mask": "motion"},
}


LONG = [
    pytest.param(
        setup, frames, at_rest, marks=[] if frames == 9 and not at_rest and setup != "scale" else [pytest.mark.slow]
    )
    for setup in SETUPS
    for frames, at_rest in ((9, False), (9, True), (2, False))
]


@pytest.mark.parametrize(("setup", "frames", "at_rest"), LONG)
def test_every_reward_alone_has_a_finite_gradient(setup, frames, at_rest):
    """Also where the recipe would price the clip: the graph behind a NaN must not hold one."""
    clips = degenerate(frames)
    video, columns = data(frames, len(clips), marked=True)
    given = {"size": {"object_diameter_m_B": 0.4}, "scale": {"px_per_m_B": 20.0}}.get(setup, {})
    given = {name: torch.full((len(clips),), value) for name, value in given.items()}
    rest_B = torch.ones(len(clips), dtype=torch.bool) if at_rest else None
    video = dataclasses.replace(video, at_rest_B=rest_B, **given)
    pixels = torch.stack(list(clips.values())).clone().requires_grad_()
    observation = Observation(video.with_frames(pixels), Instruments(flow=brightness_flow, **SETUPS[setup]), grad=True)
    wrong = []
    for name, parameters in [(n, p) for n in known_rewards() if n != "http" for p in VARIANTS.get(n, [{}])]:
        reward = partial(load_reward(name), observation, **parameters)
        try:
            score_B = reward(**columns) if "match" in name or name == "first_frame" else reward()
        except ValueError as error:
            if any(why in str(error) for why in ("refused", "there is no depth", "at least 3 frames")):
                continue
            raise
        assert not score_B.isinf().any(), name
        if not score_B.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(score_B.nansum(), pixels, retain_graph=True)
        wrong += [(name, parameters, c) for c, g in zip(clips, gradient, strict=True) if not g.isfinite().all()]
    assert not wrong, wrong

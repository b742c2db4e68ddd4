"""Every reward of the catalogue has a recipe that names it, and its docstring says what it must."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.observation import Instruments, Observation
from rewards.recipe.__main__ import main
from rewards.recipe.explain import _stand_ins
from rewards.recipe.load import known_rewards, load_reward
from rewards.recipe.recipe import Recipe, read_recipe

CATALOGUE = [name for name in known_rewards() if name != "http"]
NEVER_NAN = ("first_frame", "observability_gate", "own_colours", "saturation", "segmentation_match")
RECIPES = sorted((Path(__file__).resolve().parents[2] / "configs" / "recipes").glob("*.yaml"))


def test_every_reward_is_in_a_recipe_that_ships_with_parameters_that_it_takes():
    named = set()
    for path in RECIPES:
        config = read_recipe(path)
        for term in (*config.rewards, *config.gates, *config.held_out):
            assert set(term.parameters) <= set(inspect.signature(load_reward(term.name)).parameters)
            named.add(term.name)
    assert named == set(CATALOGUE)
    assert {"flow_match", "depth_match", "segmentation_match"} == {
        term.name for path in RECIPES for term in read_recipe(path).held_out if term.parameters == {"published": True}
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_explains_itself_and_can_be_trained_on(path, capsys):
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr().out
    config = read_recipe(path)
    assert all(term.label or term.name in said for term in (*config.rewards, *config.gates))
    Recipe(config, _stand_ins(config), base=path.parent).check_differentiable()
    assert path.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n# ")


@pytest.mark.parametrize("name", CATALOGUE)
def test_its_docstring_says_range_and_what_is_nan(name):
    text = inspect.getdoc(load_reward(name)) or ""
    assert "Returns:" in text and "(B,)" in text
    assert name in NEVER_NAN or "NaN where" in text.replace("NaN without", "NaN where")


def swirl(frames, *, stride=1):
    """A flow that turns about the middle, px a frame, and grows with the mean colour, so that it has a gradient."""
    batch, count, _, height, width = frames.shape
    v, u = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    turn = torch.stack((-v, u), dim=-1).to(frames) * 0.02
    return turn.expand(batch, count - stride, -1, -1, -1) * frames.mean()


def still(frames, *, stride=1):
    return torch.zeros(frames.shape[0], frames.shape[1] - stride, *frames.shape[-2:], 2)


def observe(flow, *, grad=False, frames_fixed=False):
    video = make_world(free_fall(frames=8)).video
    frames = video.frames_BTCHW
    if frames_fixed:
        frames = frames[:, :1].expand_as(frames)
    frames = frames.clone().requires_grad_(grad)
    return Observation(video.with_frames(frames), Instruments(mask="appearance", flow=flow), grad=grad), frames


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("divergence_free", {}), *(("pde_residual", {"equation": e}) for e in ("advection", "continuity", "inertia"))],
)
def test_rewards_on_the_flow(name, parameters):
    reward = load_reward(name)
    moving, frames = observe(swirl, grad=True)
    score = reward(moving, **parameters)
    assert -2 <= score.item() <= 0 and score.dtype == frames.dtype
    (gradient,) = torch.autograd.grad(score.sum(), frames)
    assert torch.isfinite(gradient).all()
    frozen, _ = observe(still, frames_fixed=True)
    assert reward(frozen, **parameters).isnan().all()
    without, _ = observe(None)
    with pytest.raises(ValueError, match="needs optical flow"):
        reward(without, **parameters)


def test_a_vortex_has_no_divergence_and_an_unknown_law_is_refused():
    moving, _ = observe(swirl)
    assert load_reward("divergence_free")(moving).item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="equation must be one of"):
        load_reward("pde_residual")(moving, equation="heat")


def test_the_drawn_fall_is_best_and_its_gradient_makes_a_slow_one_better():
    fall = make_world(free_fall(frames=9))
    slow = make_world(free_fall(frames=9, g_m_s2=4.0))
    for name in ("energy_drift", "energy_variance", "projectile", "arc_residual"):
        reward, settings = load_reward(name), {"g_m_s2": 9.81} if name == "projectile" else {}
        assert reward(Observation(fall.video, fall.instruments(), grad=False), **settings).item() > -0.02
    frames = slow.video.frames_BTCHW.clone().requires_grad_()
    reward = load_reward("energy_drift")
    score = reward(Observation(slow.video.with_frames(frames), slow.instruments(), grad=True))
    assert score.item() == pytest.approx(-(1 - 4 / 9.81), abs=0.03)
    (gradient,) = torch.autograd.grad(score.sum(), frames)
    moved = frames.detach() + 0.05 * gradient / gradient.abs().max()
    assert reward(Observation(slow.video.with_frames(moved), slow.instruments(), grad=False)) > score


def test_without_a_camera_the_path_is_in_pixels_and_with_one_gravity_points_down():
    world = make_world(free_fall(frames=9, start_m=(0.2, 3.0, 1.5)), pitch_deg=10.0)
    only_pixels = Instruments(mask="appearance")
    tilted = Observation(world.video, only_pixels, grad=False)
    assert tilted.trajectory.unit == "distance"
    accel = tilted.flights.accel_BKD[0, tilted.flights.flight_BK[0]][0]
    # 9.81 m/s^2 at three metres, straight down.
    assert accel.tolist() == pytest.approx([0, 0, -9.81 / 3.0], abs=0.06)
    blind = Observation(dataclasses.replace(world.video, camera=None), only_pixels, grad=False)
    assert blind.trajectory.unit == "px" and blind.flights.flies_B.all()

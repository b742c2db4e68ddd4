"""The simulator's laws: bodies fall at g, geometry agrees with the poses, and scenes are a function of their seed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from data.drops.ranges import SPLIT_SEEDS, SPLITS
from data.drops.scenes import Scene, draw_scene
from data.drops.simulation import camera_matrices, geometry, render, simulate


def drop(**changes) -> Scene:
    """The first scene of the training split in which something is dropped, with changes."""
    scenes = (draw_scene(seed, SPLITS["train"]) for seed in range(100))
    return replace(next(scene for scene in scenes if scene.kind == "drop"), **changes)


def free_fall_frames(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    motion = simulate(scene)
    times = np.arange(scene.frames) / scene.fps
    first = min(motion.impact_times_s[0], default=math.inf)
    return times[times < first], motion.poses_TN7[times < first, 0, :3]


@pytest.mark.parametrize("g_m_s2", [1.62, 3.71, 9.81])
def test_a_dropped_body_falls_at_g(g_m_s2):
    times, positions = free_fall_frames(drop(g_m_s2=g_m_s2))
    assert len(times) >= 6
    np.testing.assert_allclose(-2 * np.polyfit(times, positions[:, 2], 2)[0], g_m_s2, rtol=2e-3)
    np.testing.assert_allclose(positions[:, :2], positions[:1, :2].repeat(len(times), 0), atol=1e-9)


def test_the_first_impact_is_when_galileo_says():
    scene = drop(g_m_s2=9.81)
    expected = math.sqrt(2 * scene.release_height_m / 9.81)
    assert simulate(scene).impact_times_s[0][0] == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize("restitution", [0.5, 0.65, 0.8])
def test_a_sphere_bounces_to_e_squared_of_its_height(restitution):
    body = replace(drop().bodies[0], shape="sphere", size_m=0.2, position_m=(0.0, 0.0, 1.2))
    scene = drop(bodies=(body,), restitution=restitution, g_m_s2=9.81, fps=120.0, frames=200)
    motion = simulate(scene)
    times = np.arange(scene.frames) / scene.fps
    first, second = motion.impact_times_s[0][:2]
    top = motion.poses_TN7[(times > first) & (times < second), 0, 2].max() - 0.2
    assert math.sqrt(top / 1.0) == pytest.approx(restitution, abs=0.06)


def test_depth_of_a_sphere_is_its_centre_less_its_radius():
    body = replace(drop().bodies[0], shape="sphere", size_m=0.25, position_m=(0.0, 0.0, 1.05))
    scene = drop(bodies=(body,), pitch_deg=20.0, height_px=65, width_px=65)
    shapes = geometry(scene, simulate(scene))
    assert shapes.mask_THW[0, 32, 32] == 1
    assert shapes.depth_THW[0, 32, 32] == pytest.approx(scene.distance_m - 0.25, abs=1e-3)


def test_flow_moves_the_centroid_of_the_mask():
    body = replace(drop().bodies[0], shape="sphere", size_m=0.25)
    scene = drop(bodies=(body,), height_px=256, width_px=256)
    shapes = geometry(scene, simulate(scene))
    rows, columns = np.nonzero(shapes.mask_THW[3] == 1)
    next_rows, next_columns = np.nonzero(shapes.mask_THW[4] == 1)
    moved = shapes.flow_SHW2[3][rows, columns].mean(0)
    np.testing.assert_allclose(
        moved, [np.mean(next_columns) - columns.mean(), next_rows.mean() - rows.mean()], atol=0.3
    )
    assert (shapes.flow_SHW2[3][shapes.mask_THW[3] == 0] == 0).all()


def test_the_mask_lies_where_the_camera_projects_the_body():
    scene = drop()
    motion = simulate(scene)
    intrinsics, pose = camera_matrices(scene)
    centre = pose[:3, :3].T @ (motion.poses_TN7[5, 0, :3] - pose[:3, 3])
    pixel = intrinsics @ centre / centre[2]
    rows, columns = np.nonzero(geometry(scene, motion).mask_THW[5] == 1)
    np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], pixel[:2], atol=0.5)


def test_scenes_are_a_function_of_seed_and_survive_json():
    scene = draw_scene(7, SPLITS["heldout"])
    assert scene == draw_scene(7, SPLITS["heldout"])
    assert scene != draw_scene(8, SPLITS["heldout"])
    assert Scene.from_json(scene.to_json()) == scene
    assert scene.with_gravity(3.0).g_m_s2 == 3.0


def test_held_out_ranges_are_disjoint_from_training():
    train, heldout = SPLITS["train"], SPLITS["heldout"]
    assert not set(train.shapes) & set(heldout.shapes)
    for name in ("height_m", "hue", "distance_m"):
        low, high = getattr(train, name)
        other_low, other_high = getattr(heldout, name)
        assert other_low >= high or other_high <= low, name
    assert len(set(SPLIT_SEEDS.values())) == len(SPLITS)


def test_base_falls_are_mostly_too_slow():
    values = [draw_scene(seed, SPLITS["train"]).g_m_s2 for seed in range(400)]
    assert 2.0 <= np.quantile(values, 0.05) < np.median(values) < 5.0
    assert 9.0 < max(values) <= 14.0


def test_the_caption_tells_size_and_camera_but_not_g():
    scene = drop()
    assert f"{2 * scene.bodies[0].size_m:.2f} m" in scene.caption
    assert f"camera at {scene.distance_m:.1f} m" in scene.caption
    assert scene.caption == scene.with_gravity(1.0).caption


@pytest.mark.render
def test_rendered_pixels_show_the_body_where_the_mask_is():
    scene = drop()
    motion = simulate(scene)
    frames, shapes = render(scene, motion), geometry(scene, motion)
    assert frames.shape == (17, 64, 64, 3)
    changed = np.abs(frames[4].astype(int) - frames[-1].astype(int)).sum(-1) > 60
    inside = shapes.mask_THW[4] == 1
    assert changed[inside].mean() > 0.8

import math

import numpy as np
import pytest
from PIL import Image

from reward_physics.drawing import charts

TIMES_S = np.arange(9) / 16


def ink(path) -> float:
    """How much of a picture is not white."""
    return float((np.asarray(Image.open(path).convert("L")) < 250).mean())


def test_falls_and_readings_are_drawn_with_unmeasurable_clips(tmp_path):
    drops = [0.5 * g * TIMES_S**2 for g in (3.0, 9.0)]
    fall = charts.Fall(label="base", times_s=[TIMES_S] * 2, drops_m=drops, g_m_s2=[3.0, math.nan])
    nothing = charts.Fall(label="none", times_s=[], drops_m=[], g_m_s2=[math.nan])
    assert ink(charts.trajectories(tmp_path / "falls.png", [fall, nothing])) > 0.02
    arms = [
        charts.Readings(label="base", g_m_s2={"reward": [3.0, 4.0, math.nan], "judge": [math.nan] * 3}),
        charts.Readings(label="after", g_m_s2={"reward": [9.0, 10.0], "judge": [9.5, 10.5]}),
    ]
    assert ink(charts.g_by_arm(tmp_path / "arms.png", arms)) > 0.02


def test_curves_take_several_panels_and_lines(tmp_path):
    panels = {"reward": {"gravity": ([0, 1, 2], [-1.0, math.nan, -0.2])}, "g": {"a": ([0, 1], [3, 4]), "b": ([0], [1])}}
    assert ink(charts.curves(tmp_path / "curves.png", panels, smooth=3, references={"g": 9.81})) > 0.02


def test_running_mean_shortens_at_the_ends_and_leaves_out_nan():
    smooth = charts.running_mean(np.array([0.0, 3.0, 6.0, np.nan]), 3)
    assert smooth.tolist() == [1.5, 3.0, 4.5, 6.0]


def test_arms_keep_their_colours():
    colours = charts.arm_colours(["truth", "base", "autoencoder", "after"])
    assert colours["truth"] == charts.TRUTH
    assert (colours["base"], colours["after"]) == charts.PALETTE[:2]


def test_a_failed_drawing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        charts.curves(tmp_path / "a.nonsense", {"reward": {"x": ([0], [1])}})
    assert list(tmp_path.iterdir()) == []

"""The check of the instruments against the simulator's truth."""

import json

import pytest
import torch

from trainers.check_gravity import CheckConfig, agreement, check, relative_bound, summarise


def clip(g, read, low=0.0, high=100.0, **other):
    return {"g_m_s2": g, "a": {"g_m_s2": read, "low": low, "high": high}, **other}


def test_figures_of_a_recipe():
    nan = float("nan")
    clips = [clip(10.0, 11.0, 9.0, 12.0), clip(10.0, 9.5, 9.4, 9.6), clip(5.0, 5.1, 4.0, 6.0), clip(5.0, nan, nan, nan)]
    figures = summarise(clips, "a")
    assert figures["measurable"] == 0.75
    assert figures["median_error"] == pytest.approx(0.05, abs=1e-6)
    assert figures["bias"] == pytest.approx(0.02, abs=1e-6)
    assert figures["coverage"] == pytest.approx(2 / 3)
    assert summarise(clips[3:], "a") == {"measurable": 0.0}


def test_agreement_leaves_out_what_one_could_not_measure():
    clips = [clip(10.0, 10.0, b={"g_m_s2": 9.0}), clip(10.0, float("nan"), b={"g_m_s2": 3.0})]
    assert agreement(clips, "a", "b")["median_difference"] == pytest.approx(0.1, abs=1e-6)
    assert agreement(clips[1:], "a", "b") == {}


def test_bound_of_a_scene():
    batch = {
        "frames_BTCHW": torch.zeros(3, 17, 3, 4, 4),
        "kind": ["drop", "slide", "drop"],
        "fps_B": torch.full((3,), 16.0),
        "g_m_s2_B": torch.full((3,), 9.81),
        "impact_times_s": [[0.51], [], [0.1]],
    }
    bounds = relative_bound(batch, torch.full((3,), 1 / 22), 0.1)
    # Nine frames, 0.1 px and 22 px/m: MEASURING's budget of 0.9 % median is 0.6745 standard errors.
    assert bounds[0].item() == pytest.approx(0.0135, abs=0.0003)
    assert bounds[1:].isinf().all()


def test_the_judge_without_networks_reads_shipped_clips(root, tmp_path):
    recipe = root / "configs" / "recipes" / "judge_scene.yaml"
    result = check(CheckConfig(recipe=[str(recipe)], split="validation", scenes=16, batch_size=8, bound=0.03))
    figures = result["figures"]["judge_scene"]
    assert result["counted"] >= 8
    assert figures["measurable"] == 1.0 and figures["median_error"] < 0.05 and figures["coverage"] > 0.7
    json.dumps(result)


def test_no_clip_that_counts(root):
    recipe = root / "configs" / "recipes" / "judge_scene.yaml"
    with pytest.raises(ValueError, match="raise bound"):
        check(CheckConfig(recipe=[str(recipe)], split="validation", scenes=2, bound=1e-9))

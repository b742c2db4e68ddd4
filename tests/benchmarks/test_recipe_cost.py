"""Six rewards in one recipe run the estimators once."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "recipe_cost.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("recipe_cost", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_estimator_is_asked_once_for_six_rewards(script, tmp_path):
    from data.rows import LIGHT_COLUMNS, collate, load_split, reward_columns, to_video

    recipe = script.recipe_of(script.SIX, tmp_path)
    batch = collate([load_split("validation", columns=LIGHT_COLUMNS)[0]])
    video, columns = to_video(batch), reward_columns(batch)
    recipe.score(video, columns)  # the reference clip is measured here, and kept
    calls = []
    for name in ("flow", "depth"):
        getattr(recipe.instruments, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    assert set(recipe.score(video, columns).terms) == set(script.SIX)
    assert sorted(calls) == ["depth", "flow"]


@pytest.mark.slow
def test_six_rewards_cost_at_most_a_fifth_more_than_the_dearest(script):
    assert script.cost(clips=2, repeats=5, grad=False)["ratio"] <= 1.2

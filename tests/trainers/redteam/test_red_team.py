"""The red team's command, its arithmetic, its staged scenes, and the verdicts that are expected."""

import dataclasses
import json
import math

import pytest
import torch

from rewards.recipe.file import read_recipe
from rewards.recipe.load import known_rewards
from trainers.redteam.attacks import ATTACKS
from trainers.redteam.bench import NOT_TRAINED_ON, RedTeamConfig, load_recipes
from trainers.redteam.noise import render_noise
from trainers.redteam.records import gathered, noise, red_team
from trainers.redteam.scenes import STAGED, true_clips
from trainers.redteam.table import Pair, cell, pairs_of, render, wilson
from trainers.redteam.verdicts import INVARIANT, LOSE, SCENES, names_of, recipe_verdict, scenes, verdict


def test_every_reward_has_a_verdict_on_every_attack_and_a_reason():
    assert set(LOSE) == set(known_rewards()) - {"http"}
    for reward in LOSE:
        assert set(LOSE[reward]) | set(INVARIANT.get(reward, {})) <= set(ATTACKS), "an attack of that name"
        assert not set(LOSE[reward]) & set(INVARIANT.get(reward, {}))
        for attack in ATTACKS:
            said, because = verdict(reward, attack)
            assert said in ("lose", "not gain", "invariant") and because
    assert set(SCENES) <= set(LOSE)
    with pytest.raises(ValueError, match="no verdict on hover"):
        verdict("hover", "freeze")


def test_a_recipe_loses_where_one_of_its_rewards_or_gates_does():
    assert recipe_verdict(["galileo"], "slow_motion") == "invariant"
    assert recipe_verdict(["galileo", "motion_gate"], "slow_motion") == "not gain"
    assert recipe_verdict(["galileo", "gravity"], "slow_motion") == "lose"
    assert scenes(["galileo", "gravity"]) == ("drop", "bounce") and scenes(["incline"]) == ("slope",)
    assert scenes(["collision", "galileo"]) == ()


def test_every_shipped_recipe_must_lose_to_what_stops_or_hides_the_object(root):
    for path in sorted((root / "configs" / "recipes").glob("*.yaml")):
        config = read_recipe(path)
        names = [one.name for one in (*config.rewards, *config.gates)]
        if path.stem in NOT_TRAINED_ON:
            continue
        lost = [name for name in ATTACKS if recipe_verdict(names, name) == "lose"]
        assert {"freeze", "vanish"} <= set(lost) and ("edge" in lost) and scenes(names), path.stem
        if config.gates:
            assert {"fade", "shrink", "grow", "duplicate"} <= set(lost), path.stem


@pytest.mark.parametrize("kind", STAGED)
def test_staged_scenes_are_measured_as_true(kind, root, monkeypatch):
    monkeypatch.chdir(root)
    (clip,) = true_clips("validation", None, {kind: 1})
    name = {"pendulum": "pendulum", "slope": "incline", "swirl": "divergence_free"}[kind]
    recipe = load_recipes([f"configs/recipes/{name}.yaml"])[name]
    if kind == "swirl":
        assert (clip.video.frames_BTCHW[:, 1:] - clip.video.frames_BTCHW[:, :-1]).abs().max() > 0.05
        return
    result = recipe.score(clip.video)
    assert result.terms[name].item() > -0.01, result.reasons


def test_the_command_ranks_and_resumes(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    recipes = load_recipes(["configs/recipes/rigidity.yaml", "configs/recipes/galileo.yaml"])
    settings = {"scenes": 1, "attack": ["vanish", "blur"], "output_dir": str(tmp_path), "through_autoencoder": False}
    config = RedTeamConfig(**settings)
    records = red_team(config, recipes)
    assert [record["recipe"] for record in records].count("rigidity") == 3, "a drop, a bounce and a throw"
    assert len(records[0]["visibility"]) == len(records[0]["changed"]) == 1 + 2 * 3
    stored = (tmp_path / "measured.jsonl").read_text()
    (tmp_path / "measured.jsonl").write_text(stored[: len(stored) - 30])
    again = red_team(config, recipes)
    assert [{**one, "variants": None} for one in again] == [{**one, "variants": None} for one in records]
    pairs = [pair for pair in pairs_of(records, recipes) if pair.recipe == "rigidity" and pair.strength == "strong"]
    assert all(pair.right and pair.gain < -0.1 for pair in pairs if pair.attack == "vanish")
    text = render(again, recipes)
    assert "## rigidity" in text and "| vanish | must lose | " in text
    assert "apart:\n\n| recipe | true clips | round trips |" in text and "| rigidity | 12/12 = 100.0% | none |" in text
    with pytest.raises(ValueError, match="choose another output_dir"):
        red_team(RedTeamConfig(**settings | {"split": "train"}), recipes)
    with pytest.raises(ValueError, match="unknown attack freez: did you mean freeze"):
        red_team(RedTeamConfig(attack=["freez"], output_dir=str(tmp_path)), recipes)


def test_noise_resumes_and_is_measured_anew_for_other_steps(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    recipes = load_recipes(["configs/recipes/gravity_positions.yaml", "configs/recipes/galileo.yaml"])
    asked = []

    def attacked(clip, recipe, judge, config):
        asked.append(clip.name)
        return [{"bound": 8, "gain": 0.1, "mended": 0.4, "judge_gain": 0.0, "judge_mended": 0.5}]

    monkeypatch.setattr("trainers.redteam.noise.attacked", attacked)
    some = {"scenes": 1, "output_dir": str(tmp_path), "noise_clips": 1}
    first = noise(RedTeamConfig(**some), recipes)
    assert [record["recipe"] for record in first] == ["gravity_positions"], "galileo cannot tell a slow fall"
    assert (
        noise(RedTeamConfig(**some | {"noise_clips": 2}), recipes)[:1] == first and len(set(asked)) == len(asked) == 2
    )
    assert len(noise(RedTeamConfig(**some | {"noise_steps": 3}), recipes)) == 1 and len(asked) == 3


def test_totals_from_what_was_written_are_those_of_the_recipe(root, monkeypatch):
    monkeypatch.chdir(root)
    recipe = load_recipes(["configs/recipes/rigidity.yaml"])["rigidity"]
    clips = list(true_clips("validation", None, {"drop": 2}))
    video = clips[0].video
    frames = torch.cat([video.frames_BTCHW, video.frames_BTCHW[:, :1].expand_as(video.frames_BTCHW)])
    result = recipe.score(dataclasses.replace(video[[0, 0]], frames_BTCHW=frames))
    total_B, measurable_B = recipe.total(result.terms, result.observation.visibility_B)
    torch.testing.assert_close(total_B, result.total_B)
    assert measurable_B.tolist() == result.measurable_B.tolist() and total_B[1] < total_B[0]
    assert names_of(recipe)[:2] == ["rigidity", "motion_gate"]


def test_the_parts_of_a_folder_make_one_table(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    recipes = load_recipes(["configs/recipes/gravity_positions.yaml"])

    def record(clip, attacked, print_="now"):
        values = {"gravity": [-0.1, -0.1, attacked, -0.9]}
        values |= {f"gates/{name}": [1.0] * 4 for name in ("observability_gate", "registration")}
        keys = [["true", ""], *(["freeze", level] for level in ("weak", "middle", "strong"))]
        some = {"recipe": "gravity_positions", "clip": clip, "through": False, "print": print_, "variants": keys}
        return some | {"values": values, "visibility": [1.0] * 4, "changed": [False, True, True, True]}

    parts = {"a": [record("one", -0.9), record("two", -0.05)], "b": [record("one", -0.9), record("three", -0.9, "old")]}
    for name, records in parts.items():
        (tmp_path / name).mkdir()
        lines = [json.dumps(one) for one in records]
        (tmp_path / name / "measured.jsonl").write_text("\n".join([*lines, lines[0][:20]]))
    found = gathered(tmp_path, {"gravity_positions": "now"})
    assert [one["clip"] for one in found] == ["one", "two"], "each once, and none of a recipe that has changed"
    text = render(found, recipes)
    assert "| gravity_positions | 2 of 2 | 3/4 = 75.0% |" in text
    assert "Ranked wrongly: freeze (middle) of two.\n" in text


def pair(clip, gain, measurable=True):
    known = {"recipe": "r", "attack": "freeze", "strength": "weak", "through": False, "measurable": measurable}
    return Pair(clip=clip, true=0.0, attacked=gain, **known)


def test_shares_and_gains():
    assert wilson(99, 100) == pytest.approx((0.9455, 0.9982), abs=1e-3)
    assert math.isnan(wilson(0, 0)[0]) and math.isnan(cell([]).gain)
    made = [pair(clip, gain) for clip, gain in (("a", 0.1), ("a", 0.3), ("b", -0.2), ("c", -0.3))]
    found = cell([*made, pair("d", 9.0, measurable=False)])
    assert (found.right, found.count) == (2, 4) and found.gain == pytest.approx(-0.025)
    parts = [0.45 / 4, -0.175 / 4, -0.275 / 4]
    assert found.gain_se == pytest.approx((1.5 * sum(part**2 for part in parts)) ** 0.5)
    assert math.isnan(cell(made[:2]).gain_se), "one scene"
    records = [
        {"recipe": "r", "clip": f"c{n}", "bound": 8, "gain": 0.1, "mended": 0.4, "judge_gain": 0.0, "judge_mended": 0.5}
        for n in range(2)
    ]
    assert "| r | 8/255 | 2 | +0.100 | 25% | +0.000 | 0% |" in render_noise(json.loads(json.dumps(records)))


@pytest.mark.slow
def test_a_guarded_recipe_loses_to_what_hides_or_stops_the_object(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    names = ["freeze", "vanish", "shrink", "teleport", "duplicate", "edge", "overexpose"]
    recipes = load_recipes(["configs/recipes/gravity_guarded.yaml"])
    config = RedTeamConfig(
        scenes=1, of_kind=["drop=2"], attack=names, output_dir=str(tmp_path), through_autoencoder=False
    )
    pairs = [pair for pair in pairs_of(red_team(config, recipes), recipes) if pair.strength == "strong"]
    for name in names:
        found = cell(pair for pair in pairs if pair.attack == name)
        assert found.count >= 3 and found.right == found.count and found.gain < 0, name


def test_the_commands_explain_themselves_and_name_what_is_missing(tmp_path, monkeypatch):
    from trainers import redteam_table
    from trainers.drops_bench import __main__ as drops_bench
    from trainers.monitor import __main__ as monitor
    from trainers.redteam import __main__ as redteam

    for name, module in {"redteam": redteam, "drops_bench": drops_bench, "monitor": monitor}.items():
        assert f"python -m trainers.{name}" in (module.__doc__ or "")
    assert "python -m trainers.redteam_table" in (redteam_table.__doc__ or "")
    monkeypatch.setattr("sys.argv", ["redteam_table", str(tmp_path)])
    with pytest.raises(ValueError, match=r"holds no measured\.jsonl"):
        redteam_table.main()

"""Recipes: what they accept, and one line with the place of every mistake."""

import json

import pytest
import torch
from discs import free_fall, make_world

from rewards.recipe.__main__ import main
from rewards.recipe.config import SCHEMA, recipe_schema
from rewards.recipe.load import known_rewards
from rewards.recipe.recipe import Recipe, RecipeConfig, load_recipe, read_recipe

PIXELS = "instruments: {flow: null, depth: null, mask: appearance}\n"


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["gravity", "gravity_positions", "judge", "judge_scene"])
def test_shipped_recipes_are_valid(root, name):
    config = read_recipe(root / "configs" / "recipes" / f"{name}.yaml")
    assert [reward.name for reward in config.rewards] == ["gravity"]
    assert config.rewards[0].parameters == {"g_m_s2": 9.81}


def test_the_judge_shares_no_instrument_with_the_reward(root):
    reward, judge = (read_recipe(root / "configs" / "recipes" / f"{n}.yaml").instruments for n in ("gravity", "judge"))
    assert reward.depth != judge.depth and reward.mask != judge.mask and judge.flow != reward.flow


def test_defaults(tmp_path):
    config = read_recipe(write(tmp_path, "rewards: [{name: gravity}]"))
    assert config.unmeasurable == "worst" and config.rewards[0].weight == 1.0
    assert config.instruments.flow_updates == 6 and config.held_out == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rewards: [{name: gravity, wieght: 1}]", "line 1: unknown key rewards.0.wieght: did you mean weight?"),
        ("rewards:\n- name: gravity\n  weight: abc", "line 3: rewards.0.weight: .*valid number"),
        ("rewards: [{name: gravity}]\ninstrument: {}", "line 2: unknown key instrument: did you mean instruments?"),
        ("instruments: {mask: segmentr}\nrewards: [{name: gravity}]", "line 1: .*did you mean segmenter?"),
        ("instruments:\n  flow_updates: 0\nrewards: [{name: gravity}]", "line 2: instruments.flow_updates"),
        ("instruments: {}", "rewards: Field required"),
        ("rewards: []", "at least 1 item"),
        ("a: 1\na: 2", "line 2: found duplicate key"),
        ("rewards: [{name: gravity}]\nunmeasurable: best", "line 2: unmeasurable: must be `worst` or a finite number"),
        ("rewards: [{name: gravity}]\nunmeasurable: .nan", "line 2: unmeasurable: must be"),
        ("rewards: [{name: gravity, weight: .inf}]", "line 1: rewards.0.weight"),
        ("rewards: [", "line 1|line 2"),
        ("- 3", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("rewards: [{name: gravity}]\naggregation: som", "line 2: aggregation: .*did you mean sum?"),
        ("gates: [{name: a, weight: 1}]\nrewards: [{name: gravity}]", "line 1: unknown key gates.0.weight"),
        ("rewards: [{name: a, scale: 0}]", "line 1: rewards.0.scale: .*greater than 0"),
        ("rewards: [{name: a, label: 'x y'}]", "line 1: rewards.0.label: .*pattern"),
        ("rewards: [{name: a, weight: -1}]\naggregation: product", "aggregation product needs weights > 0"),
        (f"rewards: [{{name: gravity}}]\nunmeasurable: {10**400}", "line 2: unmeasurable"),
        (f"rewards: [{{name: gravity, weight: {10**400}}}]", "line 1: rewards.0.weight"),
        ("x: !!python/object:os.system a", "line 1: could not determine a constructor"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value) and "recipe.yaml" in str(caught.value)


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(ValueError, match="no such recipe"):
        read_recipe(tmp_path / "none.yaml")
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.yaml"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("{name: gravty}", "did you mean gravity?"),
        ("{name: gravity, parameters: {g_ms2: 9.81}}", "no parameter g_ms2: did you mean g_m_s2?"),
    ],
)
def test_what_a_recipe_names_is_checked_when_it_is_loaded(tmp_path, reward, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(tmp_path, f"{PIXELS}rewards: [{reward}]"))


def test_a_reward_of_ones_own_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def bright(observation, *, gain=1.0):\n"
        "    return gain * observation.video.frames_BTCHW.mean((1, 2, 3, 4))\n"
        "def coarse(observation):\n"
        "    return bright(observation).detach().round()\n"
        "coarse.differentiable = False\n"
    )
    text = (
        f"{PIXELS}rewards:\n"
        "  - {name: 'mine.py:bright', weight: 2.0, parameters: {gain: 3.0}}\n"
        "  - {name: 'mine.py:bright'}\n"
        "held_out: [{name: 'mine.py:coarse'}]\n"
    )
    recipe = load_recipe(write(tmp_path, text), for_gradient=True)
    video = make_world(free_fall(frames=6)).video
    result = recipe.score(video)
    assert set(result.terms) == {"bright", "bright_2", "held_out/coarse"}
    assert result.total_B.item() == pytest.approx(7 * video.frames_BTCHW.mean().item(), rel=1e-5)
    leaf = video.frames_BTCHW.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(recipe.score(video.with_frames(leaf), grad=True).total_B.sum(), leaf)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 7 / gradient.numel()))
    trained = load_recipe(write(tmp_path, f"{PIXELS}rewards: [{{name: 'mine.py:coarse'}}]"))
    assert trained.score(video).measurable_B.all()
    with pytest.raises(ValueError, match="not differentiable"):
        load_recipe(write(tmp_path, f"{PIXELS}rewards: [{{name: 'mine.py:coarse'}}]"), for_gradient=True)


def test_gravity_needs_metres_and_says_so(tmp_path):
    recipe = load_recipe(write(tmp_path, f"{PIXELS}rewards: [{{name: gravity}}]"))
    with pytest.raises(ValueError, match=r"reward gravity failed: .*refused: there is no depth estimator"):
        recipe.score(make_world(free_fall(frames=6)).video)


def test_gravity_by_the_whole_chain():
    config = RecipeConfig.model_validate({"rewards": [{"name": "gravity"}]})
    world = make_world(free_fall(batch=2, frames=9, g_m_s2=torch.tensor([9.81, 4.905])))
    recipe = Recipe(config, world.instruments(flow=True))
    leaf = world.video.frames_BTCHW.clone().requires_grad_()
    result = recipe.score(world.video.with_frames(leaf), grad=True)
    torch.testing.assert_close(result.total_B.detach(), torch.tensor([0.0, -0.25]), atol=0.01, rtol=0)
    (gradient,) = torch.autograd.grad(result.total_B.sum(), leaf)
    assert torch.isfinite(gradient).all() and gradient[1].abs().sum() > 0


def test_aliases_that_stand_for_gigabytes_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ValueError, match=r"rewards.0: .*valid dictionary") as caught:
        read_recipe(write(tmp_path, "\n".join([*lines, "rewards: *a11"])))
    assert len(str(caught.value)) < 500
    inside = ["rewards:", "- name: gravity", "  parameters:", *(f"    {line}" for line in lines)]
    for last, message in [
        ("held_out: 3", "line 16: held_out"),
        ("unmeasurable: *a11", "line 16: unmeasurable: must be"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            read_recipe(write(tmp_path, "\n".join([*inside, last])))
        assert len(str(caught.value)) < 500


def test_gates_labels_and_scales_reach_the_judge(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def bright(observation, *, gain=1.0):\n    return gain * observation.video.frames_BTCHW.mean((1, 2, 3, 4))\n"
    )
    text = (
        f"{PIXELS}rewards: [{{name: 'mine.py:bright', label: light, scale: 0.5}}]\n"
        "gates: [{name: 'mine.py:bright', parameters: {gain: 0.5}}]\nunmeasurable: -1\n"
    )
    result = load_recipe(write(tmp_path, text), for_gradient=True).score(make_world(free_fall(frames=6)).video)
    bright = result.terms["light"]
    torch.testing.assert_close(result.terms["gates/bright"], 0.5 * bright)
    torch.testing.assert_close(result.total_B, -1 + 0.5 * bright * (2 * bright + 1))


def test_dataclass_parameters_are_checked_when_the_recipe_is_loaded(tmp_path):
    for parameters, message in [
        ("{}", "reward http needs the parameter url"),
        ("{url: 'ftp://host/x'}", "url must be an http"),
        ("{url: 'http://host', timeout: 1}", "no parameter timeout: did you mean timeout_s?"),
        ("{url: 'http://host', retries: many}", "retries must be a number"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_recipe(write(tmp_path, f"{PIXELS}rewards: [{{name: http, parameters: {parameters}}}]"))
    text = f"{PIXELS}rewards: [{{name: http, parameters: {{url: 'http://host'}}}}]"
    with pytest.raises(ValueError, match="reward http says that it is not differentiable"):
        load_recipe(write(tmp_path, text), for_gradient=True)


def without_examples(schema):
    return {
        key: without_examples(value) if isinstance(value, dict) else value
        for key, value in schema.items()
        if key != "examples"
    }


def test_the_committed_schema_is_current(root):
    committed = json.loads(SCHEMA.read_text())
    assert without_examples(committed) == without_examples(recipe_schema()), (
        "write it again: python -m rewards.recipe schema > configs/recipes/recipe.schema.json"
    )
    assert set(committed["$defs"]["RewardConfig"]["properties"]["name"]["examples"]) <= set(known_rewards())
    assert SCHEMA.parent == root / "configs" / "recipes"
    for path in SCHEMA.parent.glob("*.yaml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=recipe.schema.json\n"), path.name


def test_check_says_what_a_recipe_does(root, capsys, tmp_path):
    assert main(["check", str(root / "configs" / "recipes" / "gravity_positions.yaml")]) == 0
    said = capsys.readouterr().out
    for words in (
        "depth: embedded",
        "flow: none",
        "gravity, weight 1",
        "Minus the squared relative error of the acceleration",
        "g_m_s2 = 9.81",
        "needs: metres: a camera and metric depth, depth, the object's mask",
        "each gate multiplies",
        "worth -2, less up to 0.1",
    ):
        assert words in said
    assert main(["check", str(root / "configs" / "recipes" / "judge_scene.yaml")]) == 0
    assert "as much as the worst of its batch" in capsys.readouterr().out
    assert main(["check", str(write(tmp_path, "rewards: [{name: gravty}]"))]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 0 and main(["chekc"]) == 2
    capsys.readouterr()
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "reward-physics recipe"


@pytest.mark.parametrize(
    ("instruments", "says", "needs"),
    [
        ("{flow: null, depth: embedded, mask: segmenter}", "mask: segmenter, from the depth network", "no"),
        (
            "{flow: embedded, depth: null, mask: propagated}",
            "propagated, the first frame's, carried by the flow",
            "yes",
        ),
        ("{flow: null, depth: null, mask: appearance}", "mask: appearance, by the colours of the first frame", "yes"),
        ("{flow: null, depth: null, mask: motion}", "mask: motion, by what moves against the background", "no"),
    ],
)
def test_a_recipe_says_how_its_finder_finds_and_what_it_needs(tmp_path, instruments, says, needs):
    from rewards.recipe.explain import explain

    path = tmp_path / "recipe.yaml"
    path.write_text(f"instruments: {instruments}\nrewards: [{{name: gravity}}]\n")
    words = explain(path)
    assert says in words
    assert f"needs the object's mask in the first frame: {needs}\n" in words


def test_paths_of_weights_are_looked_for_beside_the_recipe(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for kind in ("flow", "depth"):
        (tmp_path / f"my{kind}").symlink_to(root / "data" / "drops" / "estimators" / kind)
    path = write(tmp_path, "instruments: {flow: myflow, depth: ./mydepth}\nrewards: [{name: gravity}]")
    instruments = load_recipe(path).instruments
    assert instruments.flow is not None and instruments.depth is not None
    assert main(["check", str(path)]) == 0


@pytest.mark.parametrize("kind", ["flow", "depth"])
def test_weights_that_are_nowhere_are_refused_with_every_place(kind, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    weights = {"flow": "null", "depth": "null"} | {kind: "./mine"}
    path = write(
        tmp_path, "instruments: {{flow: {flow}, depth: {depth}}}\nrewards: [{{name: gravity}}]".format(**weights)
    )
    with pytest.raises(ValueError, match=f"{kind}: unknown estimator './mine'") as caught:
        load_recipe(path)
    for folder in (tmp_path, tmp_path / "elsewhere"):
        assert f"{folder}/mine" in str(caught.value)
    assert main(["check", str(path)]) == 2, "the check needs no network to see it"
    assert "looked for" in capsys.readouterr().err

"""Fuzzed recipes: each has a meaning, or is refused in one line; nothing runs and nothing else is read."""

import contextlib
import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema
from ruamel.yaml import YAML

from rewards.recipe.config import recipe_schema
from rewards.recipe.load import known_rewards
from rewards.recipe.recipe import Recipe, read_recipe

LEAVES = [
    None, True, False, 0, 1, -1, 10**400, 1e308, float("nan"), float("inf"), "", "gravity", "gravty", "worst", "sum",
    "product", "segmenter", "os:system", "subprocess:Popen", "../../secret.py:run", "/etc/passwd.py:x", "secret.py:run",
    "torch:load", "embedded", "known", "é\n\0", "http", [], {}, {"args": "touch ran"}, {"url": "http://127.0.0.1:1"},
    [[]], {"name": "gravity"}, {"name": "motion_gate", "parameters": {"closed": 0.5}}, "x" * 5000,
]  # fmt: skip
KEYS = ["instruments", "rewards", "gates", "held_out", "aggregation", "unmeasurable", "visibility_weight", "name",
        "weight", "scale", "label", "parameters", "flow", "depth", "mask", "flow_updates", "zzz", 3, None]  # fmt: skip
BROKEN = [
    "rewards: [",
    "&a [*a]",
    "? [1, 2]\n: 3",
    "!!python/name:os.system x",
    "2020-99-99: 1",
    "a: *b",
    "\t",
    "%YAML 9",
]
GOOD = {"rewards": [{"name": "gravity", "weight": 1.0}], "gates": [{"name": "motion_gate"}], "unmeasurable": -2}


def document(draw: random.Random) -> str:
    """A good recipe with some values changed, a random tree of known keys, or broken text."""
    kind = draw.random()
    if kind < 0.1:
        return draw.choice(BROKEN) + draw.choice(["", "\n" + json.dumps(GOOD)])
    if kind < 0.4:
        return json.dumps(tree(draw, 3))
    made = json.loads(json.dumps(GOOD))
    for _ in range(draw.randint(0, 2)):
        place = draw.choice([made, made, made["rewards"][0], made["gates"][0]])
        place[str(draw.choice(KEYS))] = draw.choice(LEAVES)
        if not (isinstance(made.get("rewards"), list) and isinstance(made.get("gates"), list)):
            break
        if not made["rewards"] or not made["gates"] or not isinstance(made["rewards"][0], dict):
            break
    text = json.dumps(made, ensure_ascii=draw.random() < 0.5)
    return text if draw.random() < 0.9 else text[: draw.randrange(len(text))]


def tree(draw: random.Random, depth: int):
    if depth == 0 or draw.random() < 0.2:
        return draw.choice(LEAVES)
    if draw.random() < 0.3:
        return [tree(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    return {str(draw.choice(KEYS)): tree(draw, depth - 1) for _ in range(draw.randint(0, 4))}


@contextlib.contextmanager
def nothing_runs(folder: Path):
    """Fails where, inside the block, the secret file is read or run, or a process or a connection is opened."""
    (folder / "recipes").mkdir()
    (folder / "secret.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\ndef run(observation): pass\n")
    opened: list[str] = []
    watching = [True]

    def watch(event, arguments):
        if watching[0] and event == "open" and isinstance(arguments[0], str) and "secret" in arguments[0]:
            opened.append(arguments[0])
        if watching[0] and event in ("subprocess.Popen", "os.system", "socket.connect"):
            opened.append(event)

    sys.addaudithook(watch)
    yield folder / "recipes" / "recipe.yaml"
    watching[0] = False
    assert opened == [] and not (folder / "ran").exists()


def accepted(path: Path) -> bool:
    """Whether the recipe has a meaning; a refusal must be one line."""
    from rewards.recipe.explain import _stand_ins

    try:
        config = read_recipe(path)
        Recipe(config, _stand_ins(config), base=path.parent)
    except ValueError as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 1500, said
        return False
    return True


def fuzz(count: int, folder: Path) -> tuple[int, int]:
    """Numbers of accepted and of refused recipes, of mutated and broken ones."""
    with nothing_runs(folder) as path:
        good = 0
        for seed in range(count):
            path.write_text(document(random.Random(seed)), encoding="utf-8")
            good += accepted(path)
    return good, count - good


def test_a_hundred_fuzzed_recipes(tmp_path):
    good, refused = fuzz(100, tmp_path)
    assert good > 3 and refused > 30


@pytest.mark.slow
def test_two_thousand_fuzzed_recipes(tmp_path):
    good, refused = fuzz(2000, tmp_path)
    assert good > 60 and refused > 600


def by_the_schema():
    """Recipes that the JSON Schema allows, whose names are half of the time those of rewards that ship."""
    schema = plain(recipe_schema())
    for name in ("RewardConfig", "GateConfig"):
        properties = schema["$defs"][name]["properties"]
        properties["name"] = {"anyOf": [{"enum": [*known_rewards(), "secret.py:run"]}, properties["name"]]}
        properties["parameters"] = {"enum": [{}, {}, {"g_m_s2": 9.81}, {"tolerance": -1}, {"": None}, {"url": ["x"]}]}
    return from_schema(schema)


def plain(schema):
    """Without what only people read: each key costs the generator time."""
    if isinstance(schema, list):
        return [plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    words = ("title", "description", "default", "examples")
    return {key: plain(one) for key, one in schema.items() if not (key in words and not isinstance(one, dict))}


def fuzz_by_the_schema(count: int, folder: Path, draw: int = 0) -> int:
    """The number of accepted recipes of that draw."""
    good = []

    @seed(draw)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(recipe=by_the_schema(), indent=st.sampled_from([None, 2]))
    def each(recipe, indent):
        path.write_text(json.dumps(recipe, indent=indent), encoding="utf-8")
        good.append(accepted(path))

    with nothing_runs(folder) as path:
        each()
    assert len(good) >= count
    return sum(good)


def test_recipes_drawn_from_the_schema(tmp_path):
    assert fuzz_by_the_schema(60, tmp_path) > 0


@pytest.mark.slow
@pytest.mark.parametrize("draw", [1, 2])
def test_two_thousand_recipes_drawn_from_the_schema(draw, tmp_path):
    assert fuzz_by_the_schema(1000, tmp_path, draw) > 10


def test_what_the_schema_names_is_what_the_reader_takes(tmp_path):
    path = tmp_path / "recipe.yaml"
    YAML().dump(GOOD, path)
    assert set(read_recipe(path).model_dump()) == set(recipe_schema()["properties"])

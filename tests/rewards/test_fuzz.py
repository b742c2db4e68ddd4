"""Fuzzed recipes: each has a meaning, or is refused in one line; nothing runs and nothing else is read."""

import json
import random
import sys

import pytest
from ruamel.yaml import YAML

from rewards.recipe import Recipe, read_recipe
from rewards.recipe_config import recipe_schema

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


def fuzz(count: int, tmp_path) -> tuple[int, int]:
    """Numbers of accepted and of refused recipes."""
    from rewards.explain import _stand_ins

    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "secret.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(observation): pass\n")
    opened: list[str] = []
    watching = [True]

    def watch(event, arguments):
        if watching[0] and event == "open" and isinstance(arguments[0], str) and "secret" in arguments[0]:
            opened.append(arguments[0])
        if watching[0] and event in ("subprocess.Popen", "os.system", "socket.connect"):
            opened.append(event)

    sys.addaudithook(watch)
    path, accepted, refused = folder / "recipe.yaml", 0, 0
    for seed in range(count):
        path.write_text(document(random.Random(seed)), encoding="utf-8")
        try:
            config = read_recipe(path)
            Recipe(config, _stand_ins(config), base=folder)
            accepted += 1
        except ValueError as error:
            said = str(error)
            assert said and "\n" not in said and len(said) < 1500, (seed, said)
            refused += 1
    watching[0] = False
    assert opened == [] and not (tmp_path / "ran").exists()
    return accepted, refused


def test_a_hundred_fuzzed_recipes(tmp_path):
    accepted, refused = fuzz(100, tmp_path)
    assert accepted > 3 and refused > 30


@pytest.mark.slow
def test_two_thousand_fuzzed_recipes(tmp_path):
    accepted, refused = fuzz(2000, tmp_path)
    assert accepted > 60 and refused > 600


def test_what_the_schema_names_is_what_the_reader_takes(tmp_path):
    path = tmp_path / "recipe.yaml"
    YAML().dump(GOOD, path)
    assert set(read_recipe(path).model_dump()) == set(recipe_schema()["properties"])

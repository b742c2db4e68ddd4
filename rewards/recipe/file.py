"""A recipe's file: YAML read safely, and one line with the place of every mistake."""

from __future__ import annotations

import difflib
import re
import reprlib
from pathlib import Path
from typing import Any

import pydantic
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from rewards.recipe.config import GateConfig, InstrumentsConfig, RecipeConfig, RewardConfig

_LARGEST_FILE = 1 << 20
_LISTS = {"rewards": RewardConfig, "held_out": RewardConfig, "gates": GateConfig}


def read_recipe(path: str | Path) -> RecipeConfig:
    """Read and validate a recipe without loading anything it names. Raises ValueError with the line of the mistake."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such recipe: name a YAML file such as configs/recipes/gravity.yaml")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path}: a recipe is at most 1 MB")
    try:
        text = path.read_text(encoding="utf-8")
        node = _yaml().compose(text)
        data = _yaml().load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f" line {mark.line + 1}:"
        problem = " ".join((error.problem or error.context or "cannot be read").split("\n")[0].split())
        raise ValueError(f"{path}:{line} {problem}") from error
    # The reader meets odd documents (a key that is a list, a date that is none) with whatever Python raises.
    except (YAMLError, ValueError, RecursionError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a recipe is a mapping with `rewards:`, got {type(data).__name__}")
    try:
        return RecipeConfig.model_validate(data)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: {_explain(error, node)}") from error


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _explain(error: pydantic.ValidationError, node: Any) -> str:
    """The first mistake in one line: line number, key, what is wrong, and the nearest name for an unknown key."""
    first = error.errors()[0]
    # Pydantic names the members of a union in the place: they are no keys of the file.
    union = re.compile(r"literal|constrained|float|\[key\]")
    place = tuple(part for part in first["loc"] if not (isinstance(part, str) and union.match(part)))
    line = _line_of(node, place)
    where = ".".join(_short(part) for part in place) or "recipe"
    if first["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"line {line}: unknown key {where}: {hint}"
    mistake = " ".join(first["msg"].removeprefix("Value error, ").split())
    got = "" if first["type"] in ("missing", "value_error") else f", got {_repr(first['input'])}"
    near = []
    if first["type"] == "literal_error":
        choices = re.findall(r"'(\w+)'", first.get("ctx", {}).get("expected", ""))
        near = difflib.get_close_matches(str(first["input"])[:60], choices, n=1)
    return f"line {line}: {where}: {mistake}{got}" + (f": did you mean {near[0]}?" if near else "")


def _short(part: Any) -> str:
    return " ".join(str(part).split())[:60]


def _repr(value: Any) -> str:
    """A few characters of it: aliases can make a small file stand for gigabytes."""
    return " ".join(reprlib.repr(value).split())[:60]


def _keys_at(place: tuple[Any, ...]) -> list[str]:
    if place[:1] == ("instruments",):
        return list(InstrumentsConfig.model_fields)
    if place and place[0] in _LISTS:
        return list(_LISTS[place[0]].model_fields)
    return list(RecipeConfig.model_fields)


def _line_of(node: Any, place: tuple[Any, ...]) -> int:
    """Line (from 1) of the deepest node on the way to `place` that the file has."""
    line = node.start_mark.line
    for part in place:
        if isinstance(node, MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1

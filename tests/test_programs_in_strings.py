"""Programs that stand in a test as text import what there is: linters and type checkers do not read them."""

import ast
import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reward_physics", "rewards", "trainers", "data", "tests")


def programs(source: str) -> Iterator[ast.Module]:
    """The strings of a file that read as Python and import something of this project."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                program = ast.parse(textwrap.dedent(node.value))
            except SyntaxError:
                continue
            yield program


def missing(program: ast.Module) -> list[str]:
    """What a program imports of this project that is not there."""
    wrong = []
    for node in ast.walk(program):
        if isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if ours(alias.name) and not there(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module and ours(node.module):
            wrong += [f"{node.module}.{alias.name}" for alias in node.names if not there(node.module, alias.name)]
    return wrong


def ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def there(module: str, name: str | None = None) -> bool:
    try:
        found = importlib.import_module(module)
        return name is None or hasattr(found, name) or bool(importlib.import_module(f"{module}.{name}"))
    except ImportError:
        return False


def test_what_is_missing_is_found() -> None:
    lines = "from trainers import oro, gone", "import trainers.nothing", "import torch"
    (found,) = programs(repr("\n".join(lines)))
    assert missing(found) == ["trainers.gone", "trainers.nothing"]


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_programs_in_strings_import_what_there_is(folder: str) -> None:
    own = Path(__file__)
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != own
        for program in programs(path.read_text())
        for name in missing(program)
    ]
    assert not wrong, "; ".join(wrong)

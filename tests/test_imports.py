"""The direction of imports: reward_physics <- rewards <- trainers, reward_physics <- data <- trainers."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reward_physics", "rewards", "trainers", "data")
MAY_IMPORT = {
    "reward_physics": {"reward_physics"},
    "rewards": {"reward_physics", "rewards"},
    "data": {"reward_physics", "data"},
    "trainers": set(PACKAGES),
}
LEARNING = {"accelerate", "deepspeed", "diffusers", "peft", "trl"}
MUST_NOT_KNOW = {
    "reward_physics": LEARNING | {"datasets", "ruamel", "yaml"},
    "rewards": LEARNING,
    "data": LEARNING,
    "trainers": set(),
}
HEAVY = ("accelerate", "datasets", "diffusers", "matplotlib", "mujoco", "peft", "transformers", "trl")


def imported_modules(source: str, package: str) -> set[str]:
    """Dotted names of what a module imports, also inside functions; `package` is the one the module lies in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names.update(alias.name for alias in node.names)
            case ast.ImportFrom(level=0, module=str(module)):
                names.add(module)
            case ast.ImportFrom(level=level, module=module):
                above = package.split(".")[: len(package.split(".")) - level + 1]
                names.add(".".join([*above, *([module] if module else [])]))
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                names.add(module)
    return names


def sources(package: str) -> Iterator[tuple[Path, set[str]]]:
    """Each Python file of a package, relative to the root, with the top-level names it imports."""
    for path in sorted((ROOT / package).rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).parent.parts)
        yield path.relative_to(ROOT), {name.split(".")[0] for name in imported_modules(path.read_text(), dotted)}


def test_every_form_of_import_is_seen() -> None:
    source = """
import a.b, c as d
from e.f import g
from . import h
from ..i import j
def later():
    import k
    importlib.import_module("l.m")
"""
    assert imported_modules(source, "p.q") == {"a.b", "c", "e.f", "p.q", "p.i", "k", "l.m"}


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_point_one_way(package: str) -> None:
    wrong = [
        f"{path} imports {name}"
        for path, names in sources(package)
        for name in sorted(names & set(PACKAGES) - MAY_IMPORT[package])
    ]
    assert not wrong, f"{package} may import only {sorted(MAY_IMPORT[package])}: " + "; ".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_know_only_libraries_of_their_layer(package: str) -> None:
    wrong = [
        f"{path} imports {name}" for path, names in sources(package) for name in sorted(names & MUST_NOT_KNOW[package])
    ]
    assert not wrong, "; ".join(wrong)


def test_every_library_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [line for extra, lines in project["optional-dependencies"].items() if extra != "dev" for line in lines]
    declared = {
        re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")  # pyright: ignore[reportOptionalSubscript]
        for line in [*project["dependencies"], *optional]
    }
    sold_by = importlib.metadata.packages_distributions()
    wrong = [
        f"{path} imports {name}"
        for package in PACKAGES
        for path, names in sources(package)
        for name in sorted(names - sys.stdlib_module_names - set(PACKAGES))
        if not {seller.lower().replace("_", "-") for seller in sold_by.get(name, [name])} & declared
    ]
    assert not wrong, "add to the dependencies in pyproject.toml: " + "; ".join(wrong)


def test_no_file_in_trainers_hides_another_module() -> None:
    """`python trainers/oro.py` puts `trainers/` first on `sys.path`, where each file hides a module of its name."""
    installed = {
        name
        for name, sellers in importlib.metadata.packages_distributions().items()
        if set(sellers) != {"reward-physics"}
    }
    names = {path.stem for path in (ROOT / "trainers").iterdir() if path.suffix in ("", ".py")} - {"__init__"}
    hidden = names & ((set(sys.stdlib_module_names) | installed | set(PACKAGES)) - {"__pycache__"})
    assert not hidden, f"rename in trainers/: {sorted(hidden)} would hide the module of that name"


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_is_light(package: str) -> None:
    program = f"import sys, {package}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "", f"`import {package}` loads {loaded.stdout.strip()}"

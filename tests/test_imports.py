"""The direction of imports: between the packages, between their rooms, and never in a circle.

reward_physics <- rewards <- trainers; reward_physics <- data <- trainers. A room is a folder of a package, or a file
that stands at its top.
"""

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
BASE = {"camera", "grid", "figures", "beside"}
SEEN = BASE | {"laws", "objects", "estimators", "video"}
BELOW_RUN = {"settings", "models", "learning", "clips", "memory_plan"}
LOOP = BELOW_RUN | {"run", "rounds"}
ALGORITHMS = {"oro", "rwr", "psft"}
COMMAND = BELOW_RUN | {"run"}
ROOMS: dict[str, dict[str, set[str]]] = {
    "reward_physics": {
        "grid": set(),
        "once": set(),
        "beside": set(),
        "camera": {"grid"},
        "figures": {"grid"},
        "video": {"camera", "grid"},
        "latents": {"once", "video"},
        "laws": BASE,
        "objects": BASE,
        "estimators": BASE,
        "tracks": SEEN,
        "observation": SEEN | {"tracks", "once"},
        "files": {"camera", "video"},
        "drawing": {"files", "figures"},
    },
    "rewards": {
        "recipe": set(),
        "flights": set(),
        "bodies": set(),
        "fields": set(),
        "matches": set(),
        "gates": {"bodies", "matches"},
        "servers": {"recipe"},
        "score": {"recipe"},
    },
    "trainers": {
        "settings": set(),
        "models": {"settings"},
        "learning": {"settings", "models"},
        "clips": {"settings", "models", "learning"},
        "memory_plan": {"settings", "models", "learning"},
        "run": BELOW_RUN,
        "rounds": BELOW_RUN | {"run"},
        "oro": LOOP,
        "rwr": LOOP,
        "psft": LOOP,
        "monitor": COMMAND,
        "evaluation": {"settings", "models", "learning", "clips"},
        "redteam": {"settings", "models", "learning", "clips"},
        "redteam_table": {"settings", "redteam"},
        "pisa_evaluation": COMMAND | {"evaluation"},
        "drops_bench": COMMAND | {"evaluation", "redteam"},
        "demo": COMMAND | ALGORITHMS | {"evaluation"},
        "pretrain": {"settings", "models", "learning", "clips"},
        **dict.fromkeys(("sample", "score_clips", "merge", "commitment", "check_gravity"), COMMAND),
    },
    "data": {
        "arrays": set(),
        "together": set(),
        "split": {"arrays", "together"},
        "rates": set(),
        "rows": {"split"},
        "captions": set(),
        "sources": {"rows", "split", "captions", "rates"},
        "worlds": {"rows", "split"},
        "drops": {"rows", "worlds"},
        "published": set(),
        "warps": set(),
        "write": {"rows", "split", "worlds"},
    },
}
"""What each room may import of its own package; of others, whatever their direction allows. A module `__main__` stands
above all rooms: nothing imports it, and it may import what it commands."""
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


def modules() -> dict[str, Path]:
    """Every module of the four packages by its dotted name; a package has the name of its folder."""
    paths = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in sorted(paths)}


def module_imports() -> dict[str, set[str]]:
    """The modules that each module imports, also for types and inside functions."""
    known, edges = modules(), {}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        source, names = path.read_text(), set(imported_modules(path.read_text(), package))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        edges[name] = {target for target in names if target in known and target != name}
    return edges


def room_of(module: str) -> str:
    """The room that a module stands in; the package's own `__init__` is none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_point_one_way(package: str) -> None:
    wrong = [
        f"{module} imports {target}"
        for module, targets in module_imports().items()
        for target in sorted(targets)
        if module.startswith(f"{package}.") and not may_import(module, target)
    ]
    assert not wrong, "against the table ROOMS: " + "; ".join(wrong)


def may_import(module: str, target: str) -> bool:
    """Whether the table allows an import, as far as both stand in one package."""
    package, *_ = module.split(".")
    if target.endswith(".__main__"):
        return False
    if target.split(".")[0] != package or module.endswith(".__main__"):
        return True
    return room_of(target) in {"", room_of(module)} | ROOMS[package][room_of(module)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_is_in_the_table(package: str) -> None:
    found = {room_of(module) for module in modules() if module.split(".")[0] == package} - {""}
    assert found == set(ROOMS[package]), "name each room in ROOMS, and none that is gone"


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, by Kosaraju's two passes."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(start: str, following: dict[str, set[str]], out: list[str]) -> None:
        stack = [(start, iter(sorted(following[start])))]
        seen.add(start)
        while stack:
            module, targets = stack[-1]
            target = next((each for each in targets if each not in seen), None)
            if target is None:
                out.append(module)
                stack.pop()
            else:
                seen.add(target)
                stack.append((target, iter(sorted(following[target]))))

    for module in sorted(edges):
        if module not in seen:
            visit(module, edges, order)
    back: dict[str, set[str]] = {module: set() for module in edges}
    for module, targets in edges.items():
        for target in targets:
            back[target].add(module)
    seen.clear()
    groups = []
    for module in reversed(order):
        if module not in seen:
            group: list[str] = []
            visit(module, back, group)
            if len(group) > 1:
                groups.append(set(group))
    return groups


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}
    assert circles(edges) == [{"a", "b", "c"}]


def test_no_imports_in_a_circle() -> None:
    """An Observation hands parts of its work to the files of its own room, which need its type; nothing else may."""
    groups = [
        group
        for group in circles(module_imports())
        if not all(module.startswith("reward_physics.observation") for module in group)
    ]
    assert not groups, f"import each other: {groups}"


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

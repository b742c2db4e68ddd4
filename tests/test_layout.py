"""The size of rooms, files and functions: what a reader can hold in mind. Exceptions stand here with reasons."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reward_physics", "rewards", "trainers", "data")
FILES_PER_FOLDER, LINES_PER_FILE, LINES_PER_FUNCTION = 18, 300, 45
TABLE = "one call whose arguments are the sizes of a tiny model"
SIGNATURE = "its signature alone has 15 lines: one keyword per setting"
LONGER_FUNCTIONS: dict[str, str] = {
    "reward_physics/laws/kinematics.py:fit_arc": SIGNATURE,
    "trainers/learning/decode.py:score_latents": SIGNATURE,
    "trainers/models/tiny/cogvideox.py:tiny_cogvideox": TABLE,
    "trainers/models/tiny/hunyuan.py:tiny_hunyuan": TABLE,
    "trainers/models/tiny/wan.py:tiny_wan": TABLE,
}


def sources(package: str) -> list[Path]:
    """The Python files of a package, relative to the root."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_is_too_wide(package: str) -> None:
    counts: dict[Path, int] = {}
    for path in sources(package):
        counts[path.parent] = counts.get(path.parent, 0) + 1
    wide = [f"{folder} has {count}" for folder, count in counts.items() if count > FILES_PER_FOLDER]
    assert not wide, f"at most {FILES_PER_FOLDER} Python files per folder: " + "; ".join(wide)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_too_long(package: str) -> None:
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in sources(package)}
    long = [f"{path} has {count}" for path, count in lengths.items() if count > LINES_PER_FILE]
    assert not long, f"at most {LINES_PER_FILE} lines per file: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_too_long(package: str) -> None:
    """The lines of a function are those of its signature and body; its docstring is not counted."""
    long = []
    for path in sources(package):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name, count = f"{path}:{node.name}", lines_of(node)
                if count > LINES_PER_FUNCTION and name not in LONGER_FUNCTIONS:
                    long.append(f"{name} has {count}")
    assert not long, f"at most {LINES_PER_FUNCTION} lines per function: " + "; ".join(long)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    count = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        count -= (first.end_lineno or first.lineno) - first.lineno + 1
    return count

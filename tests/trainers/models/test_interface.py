"""What is asked of a video model outside its families is what `VideoModel` declares."""

import ast
from pathlib import Path

import pytest

from trainers.models import VideoModel
from trainers.models.stock import StockModel

TRAINERS = Path(__file__).resolve().parents[3] / "trainers"
DECLARED = {name for name in (*VideoModel.__annotations__, *vars(VideoModel)) if not name.startswith("_")}
GIVERS = {"VideoModel", "load_video_model"}


def is_model(node: ast.expr, names: set[str]) -> bool:
    """Whether an expression is a name that holds a video model, or the `model` of something."""
    return (isinstance(node, ast.Name) and node.id in names) or (
        isinstance(node, ast.Attribute) and node.attr == "model"
    )


def names_of_models(tree: ast.AST) -> set[str]:
    """The names that a file annotates as a video model, or gives one that was loaded."""
    names = {"model"}
    for node in ast.walk(tree):
        annotation = getattr(node, "annotation", None)
        if annotation is not None and "VideoModel" in ast.unparse(annotation):
            names.add(node.arg if isinstance(node, ast.arg) else ast.unparse(node.target).rpartition(".")[2])
        called = node.value if isinstance(node, ast.Assign) else None
        if isinstance(called, ast.Call) and ast.unparse(called.func) in ("load_video_model", "load_model"):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def asked(source: str) -> set[str]:
    """The attributes that a file reads of video models; of none where it imports neither them nor their loading."""
    tree = ast.parse(source)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    if not imported & GIVERS:
        return set()
    names = names_of_models(tree)
    reads = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in reads if is_model(node.value, names)}


def files() -> list[Path]:
    return [path for path in sorted(TRAINERS.rglob("*.py")) if TRAINERS / "models" not in path.parents]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(TRAINERS).as_posix())
def test_nothing_is_asked_of_a_model_that_it_does_not_declare(path):
    assert asked(path.read_text()) <= DECLARED


def test_an_undeclared_attribute_is_seen():
    source = """
from trainers.models import VideoModel, load_video_model
def f(run, adapter: VideoModel):
    loaded = load_video_model("x")
    return adapter._anchor, run.model.hidden, loaded.secret, run.other.thing, adapter.vae
"""
    assert asked(source) - DECLARED == {"_anchor", "hidden", "secret"}
    assert asked(source.replace("VideoModel", "Other").replace("load_video_model", "load")) == set()


def test_the_stock_adapters_have_all_that_is_declared():
    """The rest is each family's own."""
    class_level = {name for name in DECLARED if hasattr(StockModel, name)}
    set_by_init = {"pipeline", "vae", "transformer", "denoiser"}
    families_own = {"encode_clip", "initial_latents", "schedule", "free_mask", "decode"}
    assert class_level | set_by_init | families_own == DECLARED


def test_no_parameter_of_a_trainer_is_a_model_of_any_type():
    wrong = [
        f"{path.relative_to(TRAINERS)}:{node.lineno}"
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.arg) and node.arg == "model" and node.annotation is not None
        if ast.unparse(node.annotation) in ("Any", "object")
    ]
    assert not wrong

"""Three spellings of a reward's name."""

import pytest

from rewards.flights.gravity import gravity
from rewards.recipe.load import known_rewards, load_reward


def test_short_name_and_module():
    assert "gravity" in known_rewards() and "recipe" not in known_rewards()
    assert load_reward("gravity") is gravity
    assert load_reward("rewards.flights.gravity:gravity") is gravity
    assert load_reward("rewards.gravity:gravity") is gravity, "a recipe written before the rewards had rooms"


def test_a_file_beside_the_recipe(tmp_path):
    (tmp_path / "mine.py").write_text("import dataclasses\ndef hover(observation):\n    return 1\nconstant = 3\n")
    found = load_reward("mine.py:hover", base=tmp_path)
    assert found(None) == 1
    assert load_reward("mine.py:hover", base=tmp_path) is found
    assert load_reward(f"{tmp_path}/mine.py:hover") is found


def test_a_file_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text("def hover(observation):\n    return 2\n")
    monkeypatch.chdir(tmp_path)
    assert load_reward("here.py:hover", base=tmp_path / "elsewhere")(None) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gravty", "unknown reward 'gravty': did you mean gravity?"),
        ("zzz", "known: .*gravity"),
        ("rewards.gravity:gravty", "has no gravty: did you mean gravity?"),
        ("no.such.module:x", "cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:x", "no such file"),
        (":x", "must be `file.py:function`"),
        ("gravity:", "must be `file.py:function`"),
        ("", "unknown reward ''"),
    ],
)
def test_mistakes(spec, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_reward(spec, base=tmp_path)


def test_files_that_cannot_be_run(tmp_path):
    for text, message in [("def (", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("raise SystemExit", "SystemExit")]:
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_reward("bad.py:x", base=tmp_path)
    (tmp_path / "bad.py").write_text("x = 3")
    with pytest.raises(ValueError, match="must be callable, got int"):
        load_reward("bad.py:x", base=tmp_path)


def outside(tmp_path):
    """A recipe's folder, and a reward file in another."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text("def hover(observation):\n    return 1\n")
    return tmp_path / "recipes", tmp_path / "other"


def test_a_recipe_names_files_of_its_own_folder_only(tmp_path, monkeypatch):
    base, other = outside(tmp_path)
    (base / "link.py").symlink_to(other / "mine.py")
    for spec in ("../other/mine.py:hover", f"{other}/mine.py:hover", "link.py:hover"):
        with pytest.raises(ValueError, match=r"lies outside the recipe's folder .* REWARD_PHYSICS_PATH"):
            load_reward(spec, base=base)
    monkeypatch.setenv("REWARD_PHYSICS_PATH", str(other))
    for spec in ("../other/mine.py:hover", f"{other}/mine.py:hover", "link.py:hover", "mine.py:hover"):
        assert load_reward(spec, base=base)(None) == 1


def test_nothing_of_a_refused_file_runs(tmp_path):
    base, other = outside(tmp_path)
    (other / "mine.py").write_text("raise RuntimeError('ran')")
    with pytest.raises(ValueError, match="lies outside"):
        load_reward("../other/mine.py:hover", base=base)


@pytest.mark.parametrize("spec", ["os:system", "subprocess:Popen", "builtins:exec", "shutil:rmtree", "os.path:exists"])
def test_pythons_own_modules_hold_no_rewards(spec):
    with pytest.raises(ValueError, match="belongs to Python itself"):
        load_reward(spec)


@pytest.mark.parametrize("spec", ["torch:load", "numpy:load", "torch.utils.cpp_extension:load"])
def test_a_function_of_something_else_is_no_reward(spec):
    with pytest.raises(ValueError, match="first parameter is called `observation`"):
        load_reward(spec)


def test_a_class_is_a_dataclass(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "class Plain:\n    def __init__(self, x): raise RuntimeError('ran')\n"
        "    def __call__(self, observation): pass\n"
        "@dataclasses.dataclass(frozen=True)\nclass Good:\n    x: float = 1.0\n"
        "    def __call__(self, observation): return self.x\n"
        "@dataclasses.dataclass(frozen=True)\nclass Other:\n    x: float = 1.0\n"
        "    def __call__(self, clip): return self.x\n"
    )
    assert load_reward("mine.py:Good", base=tmp_path)(2.0)(None) == 2.0
    with pytest.raises(ValueError, match="make it a frozen dataclass"):
        load_reward("mine.py:Plain", base=tmp_path)
    with pytest.raises(ValueError, match="first parameter is called `observation`"):
        load_reward("mine.py:Other", base=tmp_path)


def test_short_names_are_the_modules_that_define_their_own_name():
    known = known_rewards()
    assert {"gravity", "http"} <= set(known)
    assert not {"combine", "load", "adapters", "recipe_file", "explain"} & set(known)

"""Three spellings of a reward's name."""

import pytest

from rewards.gravity import gravity
from rewards.load import known_rewards, load_reward


def test_short_name_and_module():
    assert "gravity" in known_rewards() and "recipe" not in known_rewards()
    assert load_reward("gravity") is gravity
    assert load_reward("rewards.gravity:gravity") is gravity


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

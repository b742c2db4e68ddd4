"""Paths that stand in a file."""

from pathlib import Path

from reward_physics.beside import found, looked_for, places


def test_beside_the_file_goes_before_the_working_directory(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    assert found("weights", there) is None
    assert str(there / "weights") in looked_for("weights", there) and str(here / "weights") in looked_for(
        "weights", there
    )
    (here / "weights").touch()
    assert found("weights", there) == Path("weights") and found("weights", None) == Path("weights")
    (there / "weights").touch()
    assert found("weights", there) == there / "weights"


def test_an_absolute_path_lies_in_one_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places(tmp_path / "a", tmp_path / "b") == [tmp_path / "a"]
    assert places("~/a", tmp_path / "b") == [tmp_path / "a"]

"""The toy world that both processes train on."""

import runpy

import pytest
from launches import ROOT, alone, experiment

from trainers.models.tiny.ltx import tiny_ltx


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder of the splits, of the pipeline `model`, and of a LoRA whose both factors have a gradient."""
    folder = tmp_path_factory.mktemp("ranks")
    write_split = runpy.run_path(str(ROOT / "tests" / "trainers" / "conftest.py"))["write_split"]
    write_split(folder / "clips", "train", count=8)
    write_split(folder / "clips", "validation", count=3, seed=1)
    tiny_ltx(folder / "model")
    alone(folder, [experiment(folder, "lora", "psft", max_steps=1)])
    return folder

"""Clips at a frame rate that was asked for, and shards that were not."""

import dataclasses

import numpy as np
import pytest

from data.rows import load_split
from data.worlds import world_of
from data.write import main, write_shard


def test_a_scene_at_another_rate_is_the_same_scene():
    own, fast = (world_of("drops").draw("train", 3, frames=9, side_px=32, **more) for more in ({}, {"fps": 24.0}))
    assert (own.fps, fast.fps) == (16.0, 24.0)
    assert dataclasses.replace(fast, fps=16.0) == own


def test_shards_of_another_size_or_rate_are_not_taken_for_those_asked_for(tmp_path):
    (tmp_path / "train").mkdir()
    clip = {"id": "a", "split": "train", "seed": 0, "caption": "x", "fps": 16.0, "tempo": 3.0}
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    write_shard([clip | {"frames": frames}], tmp_path / "train" / "clips-0000000.parquet")
    assert load_split("train", tmp_path)[0]["tempo"] == 3.0, "a further column is kept"
    asked = ["--split", "train", "--clips", "1", "--workers", "1", "--output_dir", str(tmp_path), "--side_px", "32"]
    main([*asked, "--frames", "9"])
    for more in (["--frames", "17"], ["--frames", "9", "--fps", "24"]):
        with pytest.raises(SystemExit, match=r"holds clips of 9 x 32 x 32 at 16 fps, which were not asked for"):
            main([*asked, *more])


def test_a_world_of_one_rate_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--world", "lamp_world:Lamps", "--split", "lamps", "--clips", "1", "--fps", "24"])
    assert "draws scenes at its own rate alone: leave --fps out" in capsys.readouterr().err

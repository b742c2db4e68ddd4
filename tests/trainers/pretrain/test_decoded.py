"""Clips through an autoencoder keep their truth, and a command that was stopped goes on."""

import shutil

import numpy as np
import torch

from data.rows import collate, load_split
from trainers.models import load_video_model, round_trip
from trainers.pretrain.decoded import main as decode


def test_decoded_clips_are_the_round_trip_of_the_rendered_and_keep_their_truth(toy_world, tmp_path):
    shutil.copytree(toy_world / "clips" / "train", tmp_path / "train")
    command = [
        "--data",
        str(tmp_path / "train"),
        "--scenes",
        "3",
        "--model_name_or_path",
        str(toy_world / "model"),
        "--num_threads",
        "1",
    ]
    decode(command)
    rendered, decoded = load_split("train", tmp_path), load_split("train_decoded", tmp_path)
    assert len(decoded) == 3
    batch, after = (collate([table[i] for i in range(3)]) for table in (rendered, decoded))
    expected = round_trip(
        load_video_model(toy_world / "model"), batch["frames_BTCHW"], batch["caption"], batch["fps_B"]
    )
    assert (expected - batch["frames_BTCHW"]).abs().mean() > 0.05
    torch.testing.assert_close(after["frames_BTCHW"], expected, atol=0.5 / 255 + 1e-6, rtol=0)
    for name in ("depth_BTHW", "mask_BTHW", "flow_BSHW2", "poses_BTN7"):
        assert torch.equal(after[name], batch[name])
    assert after["impact_times_s"] == batch["impact_times_s"]

    file = next((tmp_path / "train_decoded").glob("*.parquet"))
    written = file.stat().st_mtime_ns
    decode(command)
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(load_split("train_decoded", tmp_path)[0]["frames"], decoded[0]["frames"])

"""Shipped clips: their types, their agreement with the simulator, and errors that say what to do."""

import numpy as np
import pytest
import torch

from data.drops.scenes import Scene
from data.drops.simulation import geometry, simulate
from data.rows import collate, features, load_split, to_video
from data.write import main as write
from data.write import write_shard


@pytest.fixture(scope="module")
def validation():
    return load_split("validation")


def test_a_batch_has_the_stated_shapes_and_ranges(validation):
    batch = collate([validation[i] for i in range(3)])
    video = to_video(batch)
    assert video.frames_BTCHW.shape == (3, 17, 3, 64, 64)
    assert 0 <= float(video.frames_BTCHW.min()) < float(video.frames_BTCHW.max()) <= 1
    assert batch["flow_BSHW2"].shape == (3, 16, 64, 64, 2)
    assert video.fps_B.tolist() == [16.0] * 3
    assert video.first_mask_BHW is not None
    assert (video.first_mask_BHW.sum((1, 2)) > 20).all()


def test_a_row_is_what_its_scene_simulates(validation):
    row = validation[5]
    scene = Scene.from_json(str(row["scene"]))
    motion = simulate(scene)
    shapes = geometry(scene, motion)
    np.testing.assert_allclose(row["poses"][:, 0], motion.poses_TN7[:, 0], atol=1e-4)
    assert (row["mask"] == shapes.mask_THW).mean() > 0.9999
    np.testing.assert_allclose(row["depth_m"], shapes.depth_THW, atol=1e-3)


def test_held_out_has_enough_scenes_at_rest_and_none_from_training():
    columns = ["shape", "at_rest", "height_m", "g_m_s2", "id"]
    heldout = load_split("heldout", columns=columns)
    assert sum(heldout["at_rest"]) >= 64
    assert not set(heldout["shape"]) & {"sphere", "box", "cylinder"}
    dropped = [height for height in heldout["height_m"] if height > 0]
    assert min(dropped) >= 1.4


def test_a_missing_split_names_the_folder_and_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"split 'nowhere'.*found none.*python -m data.write"):
        load_split("nowhere", tmp_path)


def test_splits_joined_by_plus_are_one_table():
    names = load_split("tall+practice", columns=["id"])["id"]
    apart = [load_split(split, columns=["id"])["id"] for split in ("tall", "practice")]
    assert list(names) == [*apart[0], *apart[1]]
    assert (len(apart[0]), len(apart[1])) == (400, 1200)
    with pytest.raises(ValueError, match=r"split .nowhere.: expected Parquet files in .*nowhere, found none"):
        load_split("tall+nowhere")


def test_a_corrupt_file_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "clips.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"clips\.parquet: expected a Parquet file"):
        load_split("train", tmp_path)


def test_columns_are_typed():
    columns = features(17, 64, 64)
    assert columns["frames"].dtype == "uint8"
    assert columns["frames"].shape == (17, 64, 64, 3)


@pytest.mark.render
def test_writing_resumes_with_the_shards_that_are_missing(tmp_path):
    arguments = ["--split", "varied", "--output_dir", str(tmp_path), "--workers", "1", "--shard_size", "1"]
    write([*arguments, "--clips", "1"])
    first = next((tmp_path / "varied").glob("*.parquet"))
    before = first.stat().st_mtime_ns
    write([*arguments, "--clips", "2"])
    files = sorted((tmp_path / "varied").glob("*"))
    assert [file.name for file in files] == ["clips-0000000.parquet", "clips-0000001.parquet"]
    assert first.stat().st_mtime_ns == before
    rows = load_split("varied", tmp_path)
    assert len(set(rows["id"])) == 2
    assert torch.isfinite(collate([rows[0], rows[1]])["frames_BTCHW"]).all()


def test_a_light_shard_lacks_depth_and_flow_alone_and_gives_the_same_video(validation, tmp_path):
    rows = [row | {"impact_times_s": list(row["impact_times_s"])} for row in (validation[i] for i in range(2))]
    for name, light in (("whole", False), ("light", True)):
        (tmp_path / name).mkdir()
        write_shard(rows, tmp_path / name / "clips.parquet", light=light)
    whole, light = load_split("whole", tmp_path), load_split("light", tmp_path)
    assert set(whole.column_names) - set(light.column_names) == {"depth_m", "flow_px"}
    batch = collate([light[i] for i in range(2)])
    assert torch.equal(to_video(batch).frames_BTCHW, to_video(collate(rows)).frames_BTCHW)
    assert not {"depth_BTHW", "flow_BSHW2"} & set(batch)

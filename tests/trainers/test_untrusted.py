"""What others wrote cannot run code, leave its folder or fill the memory: checkpoints, LoRAs, clips, data sets."""

import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data.published import video_folder
from reward_physics.files import readers
from reward_physics.files.io import write_video
from trainers import oro
from trainers.clips.folder import ClipFolder, Sample, read_clip, read_samples
from trainers.learning.batches import Scenes
from trainers.models.ltx import LTXModel
from trainers.run.checkpoint import MANIFEST, STATE, checkpoints


class Bomb:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


@pytest.fixture
def saved(toy_config, brightness):
    """A checkpoint's folder, and the config that goes on from it."""
    config = toy_config(max_steps=1)
    oro.train(config, recipe=brightness())
    return checkpoints(config.output_dir)[-1], toy_config(max_steps=2, resume_from_checkpoint="auto")


def forge(checkpoint, change):
    """Alter the manifest as whoever writes the files could."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    change(manifest)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def refuses(message, config, recipe):
    with pytest.raises(ValueError, match=message) as caught:
        oro.train(config, recipe=recipe)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_carries_code_does_not_run_it(saved, brightness, tmp_path):
    checkpoint, config = saved
    torch.save({"weights": Bomb(tmp_path / "ran")}, checkpoint / STATE)
    digest = hashlib.sha256((checkpoint / STATE).read_bytes()).hexdigest()
    forge(checkpoint, lambda manifest: manifest["sha256"].update({STATE: digest}))
    refuses(f"{STATE} holds more than tensors and plain values", config, brightness())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("sha256"), "is not trusted: its checkpoint.json lacks sha256"),
        (lambda manifest: manifest["sha256"].clear(), f"{STATE} is not what was written"),
        (lambda manifest: manifest["sha256"].pop("rng_0.pt"), "rng_0.pt is a link or not in its checkpoint.json"),
        (lambda manifest: manifest["sha256"].update({"../../x": "0"}), "../../x is not what was written"),
    ],
)
def test_a_checkpoint_without_a_hash_of_every_file_is_refused(saved, brightness, change, message):
    checkpoint, config = saved
    forge(checkpoint, change)
    refuses(message, config, brightness())


def test_a_file_that_was_added_or_is_a_link_is_refused(saved, brightness, tmp_path):
    checkpoint, config = saved
    (checkpoint / "deepspeed").mkdir()
    (checkpoint / "deepspeed" / "mp_rank_00_model_states.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refuses("deepspeed/mp_rank_00_model_states.pt is a link or not in its", config, brightness())
    (checkpoint / "deepspeed" / "mp_rank_00_model_states.pt").unlink()
    (checkpoint / "deepspeed").rmdir()
    (tmp_path / "elsewhere").write_bytes((checkpoint / STATE).read_bytes())
    (checkpoint / STATE).unlink()
    (checkpoint / STATE).symlink_to(tmp_path / "elsewhere")
    refuses(f"{STATE} is a link or not in its", config, brightness())
    assert not (tmp_path / "ran").exists()


def test_a_lora_that_is_a_pickle_does_not_run(toy_world, tmp_path):
    for name, body in (("lora.bin", Bomb(tmp_path / "ran")), ("lora.safetensors", Bomb(tmp_path / "ran"))):
        torch.save(body, tmp_path / name)
        with pytest.raises(ValueError, match="does not fit this model or cannot be read"):
            LTXModel.load(toy_world / "model").load_lora(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def folder(tmp_path):
    """A folder with one clip, `ball`."""
    made = ClipFolder(tmp_path / "clips_of_others", {})
    made.write(Sample(name="ball", prompt="a ball", seed=0, fps=8.0), torch.rand(3, 3, 16, 16))
    return made.folder


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b"])
def test_a_clip_s_name_is_no_path(folder, name):
    line = json.loads((folder / "samples.jsonl").read_text()) | {"name": name}
    (folder / "samples.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="a name must be no path"):
        read_samples(folder)


def npz(path, body):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", body)


def header(shape, dtype="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def pickled(path):
    stream = io.BytesIO()
    np.save(stream, np.array([Bomb(path)], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), "cannot read the clip .*ball.npz"),
        (lambda path: path.write_bytes(b""), "cannot read the clip .*ball.npz"),
        (lambda path: npz(path, header((100_000, 4096, 4096, 3))), "5033 GB of frames are more than 4"),
        (lambda path: npz(path, header((2, 4, 4, 3)) + bytes(7)), "cannot read the clip .*ball.npz"),
        (lambda path: npz(path, header((2, 4, 4))), r"T x H x W x 3 of uint8, got \(2, 4, 4\)"),
        (lambda path: npz(path, pickled(path.with_name("ran"))), "T x H x W x 3 of uint8, got .* of object"),
    ],
    ids=["cut short", "empty", "a bomb", "fewer pixels than it says", "another shape", "code"],
)
def test_a_clip_that_is_corrupt_or_a_bomb_is_named(folder, damage, message):
    path = folder / "clips" / "ball.npz"
    damage(path)
    with pytest.raises(ValueError, match=message):
        read_clip(folder, "ball")
    assert not path.with_name("ran").exists()


def test_a_clip_that_is_a_link_out_of_its_folder_is_refused(folder, tmp_path):
    path = folder / "clips" / "ball.npz"
    path.rename(tmp_path / "private.npz")
    path.symlink_to(tmp_path / "private.npz")
    with pytest.raises(ValueError, match="a link that leads out of its folder"):
        read_clip(folder, "ball")


def test_a_data_set_that_is_corrupt_or_no_data_set_is_named(toy_config, toy_world, tmp_path):
    good = next((toy_world / "clips" / "train").glob("*.parquet")).read_bytes()
    (tmp_path / "set" / "train").mkdir(parents=True)
    file = tmp_path / "set" / "train" / "part-0.parquet"
    for body in (good[: len(good) // 2], b"PAR1" + good[1000:], pickle.dumps(Bomb(tmp_path / "ran"))):
        file.write_bytes(body)
        with pytest.raises(ValueError, match=r"part-0\.parquet: expected a Parquet file of clips, could not read it"):
            Scenes(toy_config(dataset=str(tmp_path / "set")), "train")
    file.unlink()
    file.symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="expected a Parquet file of clips"):
        Scenes(toy_config(dataset=str(tmp_path / "set")), "train")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("split", ["../secret", "/etc", "train/..", ".."])
def test_a_split_is_no_path(toy_config, split):
    with pytest.raises(ValueError, match="must be the name of a folder in dataset and no path"):
        Scenes(toy_config(), split)


def test_a_video_s_header_is_read_before_its_frames(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("decoded")

    write_video(tmp_path / "wide.mp4", torch.zeros(2, 3, 16, 8192), fps=8.0, min_side_px=0)
    write_video(tmp_path / "small.mp4", torch.zeros(9, 3, 32, 32), fps=8.0, min_side_px=0)
    monkeypatch.setattr(readers, "_frames_of", never)
    (tmp_path / "small.mp4").rename(tmp_path / "small.kept")
    with pytest.raises(ValueError, match=r"wide.mp4: 8192 x 16 px is larger than 4096 px a side"):
        list(video_folder.read_folder(tmp_path))
    (tmp_path / "wide.mp4").unlink()
    (tmp_path / "small.kept").rename(tmp_path / "small.mp4")
    monkeypatch.setattr(readers, "LARGEST_CLIP_BYTES", 9 * 32 * 32 * 3 - 1)
    with pytest.raises(ValueError, match=r"small.mp4: 9 frames of 32 x 32 px are more than"):
        list(video_folder.read_folder(tmp_path))


def test_a_link_in_a_video_folder_stays_in_it(tmp_path):
    (tmp_path / "folder").mkdir()
    write_video(tmp_path / "private.mp4", torch.zeros(3, 3, 32, 32), fps=8.0)
    (tmp_path / "folder" / "ball.mp4").symlink_to(tmp_path / "private.mp4")
    with pytest.raises(ValueError, match=r"ball\.mp4 is a link that leads out of its folder"):
        list(video_folder.read_folder(Path(tmp_path / "folder")))

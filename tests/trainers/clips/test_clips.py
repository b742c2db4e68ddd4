import json

import pytest
import torch

from trainers.clips.folder import ClipFolder, Sample, fingerprint, read_clip, read_samples

SETTINGS = {"model": "m", "num_inference_steps": 8}


def sample(name: str = "a", seed: int = 1) -> Sample:
    return Sample(name=name, prompt="a ball", seed=seed, fps=16.0, scene="heldout-1")


def frames() -> torch.Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_pixels_come_back_to_half_a_level(tmp_path):
    folder = ClipFolder(tmp_path / "x", SETTINGS)
    folder.write(sample(), frames())
    torch.testing.assert_close(folder.read("a"), frames(), atol=0.5 / 255 + 1e-6, rtol=0)
    assert (tmp_path / "x" / "clips" / "a.mp4").stat().st_size > 0


def test_a_folder_goes_on_with_the_same_settings(tmp_path):
    ClipFolder(tmp_path / "x", SETTINGS).write(sample(), frames())
    assert ClipFolder(tmp_path / "x", SETTINGS).samples == {"a": sample()}


def test_other_settings_are_refused_or_overwritten(tmp_path):
    ClipFolder(tmp_path / "x", SETTINGS).write(sample(), frames())
    with pytest.raises(ValueError, match="another num_inference_steps"):
        ClipFolder(tmp_path / "x", SETTINGS | {"num_inference_steps": 4})
    assert ClipFolder(tmp_path / "x", SETTINGS | {"num_inference_steps": 4}, overwrite=True).samples == {}


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="something other"):
        ClipFolder(tmp_path, SETTINGS, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_half_written_line_or_a_missing_clip_does_not_count(tmp_path):
    folder = ClipFolder(tmp_path / "x", SETTINGS)
    folder.write(sample("a"), frames())
    folder.write(sample("b"), frames())
    (tmp_path / "x" / "clips" / "b.npz").unlink()
    with (tmp_path / "x" / "samples.jsonl").open("a") as lines:
        lines.write(json.dumps({"name": "c"})[:7])
    assert list(read_samples(tmp_path / "x")) == ["a"]


def test_a_broken_clip_names_itself(tmp_path):
    folder = ClipFolder(tmp_path / "x", SETTINGS)
    folder.write(sample(), frames())
    (tmp_path / "x" / "clips" / "a.npz").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_clip(tmp_path / "x", "a")


def test_fingerprints_see_other_weights(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"one")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "w.safetensors").write_bytes(b"two")
    assert fingerprint(tmp_path) != before
    assert fingerprint(tmp_path / "w.safetensors") != before

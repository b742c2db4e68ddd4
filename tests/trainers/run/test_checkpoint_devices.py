"""A checkpoint that another device wrote resumes here, exactly."""

import zipfile

import pytest
import torch
from safetensors.torch import load_file

from trainers.oro import train
from trainers.run import checkpoint as ckpt
from trainers.run.checkpoint import STATE, load_plain, set_rng

SETTINGS = {"max_steps": 4, "save_steps": 2, "ema_decay": 0.9, "denoising_weight": 0.5, "learning_rate": 1e-2}


def of_device(monkeypatch, device):
    """Tensors are saved from now on as those of that device are."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: device)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:7", "mps", "xpu:0"])
def test_a_run_goes_on_exactly_from_a_checkpoint_of_another_device(
    toy_config, brightness, tmp_path, monkeypatch, device
):
    whole = toy_config(output_dir=str(tmp_path / "whole"), **SETTINGS)
    train(whole, recipe=brightness())
    with monkeypatch.context() as patched:
        of_device(patched, device)
        train(toy_config(output_dir=str(tmp_path / "run"), **SETTINGS | {"max_steps": 2}), recipe=brightness())
    with zipfile.ZipFile(tmp_path / "run" / "checkpoint-2" / STATE) as file:
        (pickled,) = (name for name in file.namelist() if name.endswith("data.pkl"))
        assert device.encode() in file.read(pickled)
    resumed = toy_config(output_dir=str(tmp_path / "run"), resume_from_checkpoint="auto", **SETTINGS)
    train(resumed, recipe=brightness())
    expected, found = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("whole", "run"))
    assert all((found[name] == weight).all() for name, weight in expected.items())


def test_all_that_is_read_lies_on_the_cpu(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        of_device(patched, "cuda:3")
        torch.save({"exp_avg": torch.ones(3), "step": torch.tensor(2.0)}, tmp_path / "state.pt")
    state = load_plain(tmp_path / "state.pt")
    assert {value.device.type for value in state.values()} == {"cpu"} and state["exp_avg"].tolist() == [1, 1, 1]


def test_generators_of_more_gpus_than_there_are_set_those_there_are(monkeypatch):
    """And a CPU's checkpoint, which has none, sets none."""
    given = []
    state = ckpt.get_rng() | {"cuda": [torch.full((16,), i, dtype=torch.uint8) for i in range(8)]}
    set_rng(state)  # on a machine without
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.extend)
    set_rng(state)
    assert [one[0].item() for one in given] == [0, 1]
    set_rng(state | {"cuda": []})
    assert len(given) == 2

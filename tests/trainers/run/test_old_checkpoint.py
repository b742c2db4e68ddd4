"""A checkpoint that was written before the files of `trainers` were moved into rooms (at 9420a7c) still resumes.

`before_the_rooms` holds step 2 of a run of four on the toy world, and the LoRA that the same run ended with.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from trainers.oro import train

BEFORE = Path(__file__).parent / "before_the_rooms"


def test_a_run_goes_on_exactly_from_a_checkpoint_of_before_the_move(toy_config, brightness, tmp_path, capsys):
    shutil.copytree(BEFORE / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    config = toy_config(
        max_steps=4,
        save_steps=2,
        ema_decay=0.9,
        denoising_weight=0.5,
        grad_steps="random",
        grad_steps_k=2,
        learning_rate=1e-2,
        resume_from_checkpoint="auto",
    )
    train(config, recipe=brightness())
    expected = load_file(BEFORE / "pytorch_lora_weights.safetensors")
    resumed = load_file(tmp_path / "run" / "pytorch_lora_weights.safetensors")
    assert expected.keys() == resumed.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-4, atol=1e-6)
    assert "resumed from" in capsys.readouterr().out
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 4], "the first two were not made again"

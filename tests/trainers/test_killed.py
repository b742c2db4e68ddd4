"""A run that is killed at any moment, in the middle of a checkpoint too, goes on and ends with the same weights.

KILLS=30 pytest tests/trainers/test_killed.py -m slow      # as before a release; by default 3
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainers.checkpoint import MANIFEST, _sha256, checkpoints

KILLS = int(os.environ.get("KILLS", "3"))

PROGRAM = """
import sys, types, torch
from trainers import oro
from trainers.config import OROConfig

class Loud:
    def judge(self, video, columns, grad):
        print("scored", flush=True)
        with torch.set_grad_enabled(grad):
            total_B = video.frames_BTCHW.mean(dim=(1, 2, 3, 4))
        ones_B = torch.ones(video.batch_size)
        return types.SimpleNamespace(
            total_B=total_B, terms={}, measurable_B=ones_B, reasons=[None] * len(ones_B), observation=None
        )

model, clips, output, steps = sys.argv[1:]
config = OROConfig(
    model_name_or_path=model, dataset=clips, output_dir=output, max_steps=int(steps), num_inference_steps=2,
    per_device_train_batch_size=1, lora_r=4, learning_rate=1e-2, ema_decay=0.5, save_steps=1, num_threads=1,
    report_to=["none"], disable_tqdm=True, resume_from_checkpoint="auto",
)
oro.train(config, recipe=Loud())
"""


def start(world, output, steps):
    command = [sys.executable, "-c", PROGRAM, str(world / "model"), str(world / "clips"), str(output), str(steps)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def kill_after(process, judgements, seconds):
    """Kill a run some time after its n-th judgement; the first is the check before the run."""
    for line in process.stdout:
        judgements -= line == "scored\n"
        if judgements == 0:
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finish(process):
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * KILLS)
def test_a_run_killed_again_and_again_ends_like_one_in_peace(toy_world, tmp_path):
    steps, chance = 3 * KILLS, random.Random(0)
    finish(start(toy_world, tmp_path / "whole", steps))
    for _ in range(KILLS):
        kill_after(start(toy_world, tmp_path / "killed", steps), chance.randint(2, 4), chance.uniform(0, 0.25))
        for folder in checkpoints(tmp_path / "killed"):  # what has a checkpoint's name is whole
            for name, expected in json.loads((folder / MANIFEST).read_text())["sha256"].items():
                assert _sha256(folder / name) == expected
    finish(start(toy_world, tmp_path / "killed", steps))
    expected, actual = (
        load_file(Path(tmp_path / name) / "pytorch_lora_weights.safetensors") for name in ("whole", "killed")
    )
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    last = [json.loads(line)["step"] for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert last == list(range(1, steps + 1))

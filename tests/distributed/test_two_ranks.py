"""Two CPU processes through real `accelerate launch` hold equal weights, with the gradient of one process."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from data import rows as data_rows
from trainers.models.tiny import tiny_ltx

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    tiny_ltx(folder / "model")
    (folder / "clips" / "train").mkdir(parents=True)
    random, shapes = np.random.default_rng(0), data_rows.features(9, 32, 32)
    blank = {"caption": "a red ball falls", "kind": "drop", "shape": "sphere", "scene": "{}", "split": "train"}
    arrays = {"depth_m": (9, 32, 32), "mask": (9, 32, 32), "flow_px": (8, 32, 32, 2), "poses": (9, 2, 7)}
    blank |= {name: np.ones(shape, np.float32) for name, shape in arrays.items()}
    blank |= {"intrinsics": np.eye(3, dtype=np.float32), "world_from_camera": np.eye(4, dtype=np.float32)}
    blank |= {"at_rest": True, "fps": 16.0, "g_m_s2": 9.81, "radius_m": 0.2, "height_m": 1.0, "impact_times_s": [0.4]}
    rows = [
        blank | {"id": str(i), "seed": i, "frames": random.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)}
        for i in range(4)
    ]
    datasets.Dataset.from_list(rows, features=shapes).to_parquet(folder / "clips" / "train" / "part.parquet")
    return folder


def launch(world, processes, batch_size):
    """Results of every rank. Without a GPU `--multi_gpu` starts the processes and the trainer asks for gloo."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "29511", str(SCRIPT)]
    command += [str(world / "model"), str(world / "clips"), str(world / "several"), str(batch_size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return results(done.stdout)


def results(output):
    """Every printed result: two processes may write on one line, but no write is cut."""
    return [json.loads(found) for found in re.findall(r"RESULT(\{.*?\})", output)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_ranks_hold_equal_weights_and_the_gradient_of_one(world, capsys):
    runpy.run_path(str(SCRIPT))["main"](*map(str, (world / "model", world / "clips", world / "one", 4)))
    (one,) = results(capsys.readouterr().out)
    several = launch(world, 2, 2)
    assert len(several) == 2
    for rank in several:
        assert rank["spread"] == 0
        assert rank["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        assert rank["reward"] == pytest.approx(one["reward"], rel=1e-5)

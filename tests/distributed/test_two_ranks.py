"""Two CPU processes through real `accelerate launch` hold equal weights, with the gradient of one process."""

import contextlib
import io
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest

from data import rows as data_rows
from trainers.checkpoint import checkpoints
from trainers.models.tiny import tiny_ltx

ROOT = Path(__file__).resolve().parents[2]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
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
        for i in range(8)
    ]
    datasets.Dataset.from_list(rows, features=shapes).to_parquet(folder / "clips" / "train" / "part.parquet")
    return folder


def launch(world, output, **settings):
    """Results of every rank."""
    done = subprocess.run(command(world, output, **settings), capture_output=True, text=True, timeout=900, env=ALONE)
    assert done.returncode == 0, done.stderr[-3000:]
    return results(done.stdout)


def command(world, output, *, processes=2, batch_size=2, steps=2, accumulation=1, zero=0, bf16=False):
    """A launch as the README says. Without a GPU the trainer asks for gloo."""
    config = ROOT / "configs" / "accelerate" / (f"zero{zero}.yaml" if zero else "multi_gpu.yaml")
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    line += ["--num_processes", str(processes), "--main_process_port", str(free_port())]
    line += [str(SCRIPT), str(world / "model"), str(world / "clips")]
    line += [str(world / output), str(batch_size), str(steps), str(accumulation), str(int(bf16))]
    return line


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def results(output):
    """Every printed result: two processes may write on one line, but no write is cut."""
    return [json.loads(found) for found in re.findall(r"RESULT(\{.*?\})", output)]


@pytest.fixture(scope="module")
def one(world):
    """One process at twice the batch."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_path(str(SCRIPT))["main"](*map(str, (world / "model", world / "clips", world / "one", 4)))
    (result,) = results(output.getvalue())
    return result


def needs_deepspeed(zero):
    if zero:
        pytest.importorskip("deepspeed")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_ranks_hold_equal_weights_and_the_gradient_of_one(world, one, zero):
    needs_deepspeed(zero)
    several = launch(world, f"several_{zero}", zero=zero)
    assert len(several) == 2
    for rank in several:
        assert rank["weights"] == several[0]["weights"]
        assert rank["count"] == one["count"] > 1000
        assert rank["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
        assert rank["reward"] == pytest.approx(one["reward"], rel=1e-5)
        assert rank["weights"] == pytest.approx(one["weights"], abs=2e-4)  # Adam amplifies the smallest gradients
    assert (world / f"several_{zero}" / "pytorch_lora_weights.safetensors").stat().st_size > 4 * one["count"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("zero", [2, 3])
def test_the_lora_stays_in_float32_over_a_bf16_base(world, zero):
    needs_deepspeed(zero)
    one, other = launch(world, f"bf16_{zero}", zero=zero, bf16=True)
    assert one["dtypes"] == other["dtypes"] == ["torch.float32", "torch.bfloat16"]
    assert one["weights"] == other["weights"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("zero", [0, 2])
def test_accumulated_micro_batches_are_the_large_batch(world, one, zero):
    needs_deepspeed(zero)
    for rank in launch(world, f"accumulated_{zero}", batch_size=1, accumulation=2, zero=zero):
        assert rank["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("zero", [0, 2])
def test_a_resumed_run_ends_bit_for_bit_like_one_in_one_go(world, zero):
    needs_deepspeed(zero)
    whole = launch(world, f"whole_{zero}", steps=4, zero=zero)
    launch(world, f"resumed_{zero}", steps=2, zero=zero)
    resumed = launch(world, f"resumed_{zero}", steps=4, zero=zero)
    assert resumed[0]["weights"] == whole[0]["weights"]
    assert resumed[0]["grad_norm"] == whole[0]["grad_norm"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_shards_of_another_number_of_processes_are_refused(world):
    needs_deepspeed(2)
    launch(world, "shards", zero=2)
    with pytest.raises(AssertionError, match="was written by 2 processes with DeepSpeed and cannot go on with 1"):
        launch(world, "shards", processes=1, steps=4, zero=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("fault", "message", "kept"),
    [
        ("raise", "error: the reward's server is gone", 1),
        ("hang", "error: the reward took longer than 5 s on process 1", 1),
        ("term", "stopped by SIGTERM after step 2: go on with --resume_from_checkpoint auto", 2),
    ],
)
def test_a_fault_of_one_process_ends_all_within_a_minute(world, fault, message, kept):
    folder = f"fault_{fault}"
    environment = {**ALONE, "FAULT": fault}
    process = subprocess.Popen(
        command(world, folder, steps=4),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    lines, at = [], 0.0
    for line in process.stdout:
        lines.append(line)
        at = time.monotonic() if "FAULT" in line else at
    assert process.wait() != 0
    assert at and time.monotonic() - at < 60
    assert message in "".join(lines)
    assert [path.name for path in checkpoints(world / folder)][-1] == f"checkpoint-{kept}"
    whole, resumed = launch(world, f"peace_{fault}", steps=4)[0], launch(world, folder, steps=4)[0]
    assert resumed["weights"] == whole["weights"]

"""Two CPU processes that share a prompt's samples hold equal weights, those of one process at twice the batch."""

import contextlib
import io
import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.models.tiny import tiny_ltx

SCRIPT = Path(__file__).with_name("rwr_ranks.py")
ROOT = Path(__file__).resolve().parents[2]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def results(output):
    """Every printed result: two processes may write on one line, but no write is cut."""
    return [json.loads(found) for found in re.findall(r"RESULT(\{.*?\})", output)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_equal_one(tmp_path):
    write_split = runpy.run_path(str(ROOT / "tests" / "trainers" / "conftest.py"))["write_split"]
    write_split(tmp_path / "clips", "train", count=4)
    tiny_ltx(tmp_path / "model")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_path(str(SCRIPT))["main"](*map(str, (tmp_path / "model", tmp_path / "clips", tmp_path / "one", 4)))
    (one,) = results(output.getvalue())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "2",
        "--main_process_port",
        str(port),
    ]
    line += ["--config_file", str(ROOT / "configs" / "accelerate" / "multi_gpu.yaml"), str(SCRIPT)]
    line += [str(tmp_path / "model"), str(tmp_path / "clips"), str(tmp_path / "two"), "2"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=800, env=ALONE)
    assert done.returncode == 0, done.stderr[-3000:]
    two = results(done.stdout)
    assert sorted(rank["rank"] for rank in two) == [0, 1]
    for rank in two:
        assert rank["weights"] == two[0]["weights"]
        assert rank["weights"] == pytest.approx(one["weights"], abs=5e-4)  # Adam amplifies the smallest gradients
        assert rank["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
        for name in ("reward", "ess", "temperature", "absolute_weight"):
            assert rank[name] == pytest.approx(one[name], rel=1e-3)
    files = sorted(path.name for path in (tmp_path / "two" / "replay").iterdir())
    assert files == ["round-000001-p0.safetensors", "round-000001-p1.safetensors", "round-000001.json"]

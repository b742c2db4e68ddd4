"""The GPU's benchmark on a small model on the CPU: the same code, and a row that fails stops no other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.models.tiny.ltx import tiny_ltx

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_rows_are_planned_and_measured_each_by_itself(tmp_path):
    tiny_ltx(tmp_path / "model")
    lines = (ROOT / "configs" / "oro_ltx_24gb.yaml").read_text().splitlines()
    small = {"model_name_or_path": tmp_path / "model", "num_frames": 17, "height": 64, "width": 64}
    kept = [line for line in lines if line.partition(":")[0] not in small]
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in small.items())]))
    bad.write_text(good.read_text().replace("num_frames: 17", "num_frames: 16"))
    command = [sys.executable, ROOT / "benchmarks" / "memory_device.py", "--rows", "--config", bad, good]
    options = ["--changes", '{"num_inference_steps": 2}', "--budget_s", "250", "--row_s", "200"]
    subprocess.run([*command, *options, "--output_dir", tmp_path / "out"], check=True, cwd=ROOT, capture_output=True)
    failed, done = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "num_frames must be 1 + a multiple of" in failed["error"]
    assert "error" not in done
    assert "error" not in done["measured"]
    assert len(done["measured"]["seconds"]) == 2
    assert done["measured"]["figures"][0]["grad_norm"] > 0
    assert {"sample", "decode", "reward", "backward"} <= done["measured"]["peaks"].keys()
    assert done["planned"]["peaks"]["backward"] > sum(done["planned"]["held"].values())
    assert (tmp_path / "out" / "results.md").read_text().count("good.yaml") > 4

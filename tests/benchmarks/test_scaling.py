"""The cost model: what is sent, what is waited for, and its limits."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def step_seconds(scaling):
    return scaling.step_seconds


WAN = {
    "compute_s": 60.0,
    "lora_parameters": 80e6,
    "base_parameters": 14e9,
    "denoising_steps": 8,
    "bandwidth_gb_s": 25.0,
    "latency_s": 0.0,
    "spread": 0.0,
}


def test_one_gpu_sends_nothing(step_seconds):
    assert step_seconds(gpus=1, zero=3, **WAN) == 60.0


def test_a_lora_is_all_reduced_once_and_zero_3_gathers_the_base_in_every_pass(step_seconds):
    # 2 * 7/8 * 4 bytes * 80e6 = 0.56 GB at 25 GB/s
    assert step_seconds(gpus=8, zero=2, **WAN) - 60 == pytest.approx(0.56 / 25)
    # + 7/8 * 2 bytes * 14e9 * 24 passes = 588 GB
    assert step_seconds(gpus=8, zero=3, **WAN) - 60 == pytest.approx((0.56 + 588) / 25)


def test_the_slowest_of_many_is_waited_for(step_seconds):
    found = step_seconds(gpus=512, zero=2, **(WAN | {"spread": 0.05, "lora_parameters": 0.0}))
    assert found == pytest.approx(60 * (1 + 0.05 * math.sqrt(2 * math.log(512))))


def test_a_step_of_wan_is_counted_from_its_operations(scaling):
    # 21 * 30 * 52 = 32760 tokens: 2 * 14.3e9 * 32760 + 4 * 40 * 5120 * 32760^2 = 1.816e15 operations a forward
    expected = 8 * 4 * 1.81613e15 / (0.4 * 989e12)
    assert scaling.wan_step_seconds() == pytest.approx(expected, rel=1e-4)


def test_the_table_and_the_projection_are_written(scaling, tmp_path, monkeypatch, capsys):
    seconds = {"seconds": 4.0, "seconds/sample": 3.0, "seconds/wait": 0.2}
    found = {
        1: scaling.Found(clips_a_second=1.0, seconds=seconds, spread=0.0),
        2: scaling.Found(clips_a_second=1.9, seconds=seconds, spread=0.03),
    }
    monkeypatch.setattr(scaling, "measure", lambda count, options, folder: found[count])
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--output", str(tmp_path / "scaling.md")])
    scaling.main()
    text = (tmp_path / "scaling.md").read_text()
    assert text == capsys.readouterr().out
    assert "| processes | clips a second, ratio | sample | wait |" in text
    assert "| 2 | 1.90 | 75% | 5% |" in text
    assert "a spread of 3.0% between processes, nothing overlapped" in text
    assert [line.split(" | ")[0] for line in text.splitlines()[-4:]] == ["| 1", "| 8", "| 64", "| 512"]

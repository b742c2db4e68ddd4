"""The cost model: what is sent, what is waited for, and its limits."""

import importlib.util
import math
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def step_seconds():
    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.step_seconds


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

"""What every test shares: threads, the real data, and whether this machine can render."""

import functools
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may download
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TESTDATA = ROOT.parent / "shared" / "testdata"

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))

RENDER_ONE_FRAME = """
import mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
renderer.render()
"""


@functools.cache
def working_gl() -> str | None:
    """The name of a way to render without a screen that works here, as `MUJOCO_GL` takes it, or None."""
    wanted = os.environ.get("MUJOCO_GL")
    for backend in [wanted] if wanted else ["egl", "osmesa"]:
        environment = {**os.environ, "MUJOCO_GL": backend}
        try:
            trial = subprocess.run(
                [sys.executable, "-c", RENDER_ONE_FRAME], env=environment, capture_output=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            continue
        if trial.returncode == 0:
            return backend
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("realdata") and not TESTDATA.is_dir():
        pytest.skip(f"real clips and weights are absent: expected them in {TESTDATA}")
    if item.get_closest_marker("render"):
        backend = working_gl()
        if backend is None:
            reason = "no OpenGL without a screen: install libegl1 or libosmesa6"
            if os.environ.get("REQUIRE_RENDER"):
                pytest.fail(reason)
            pytest.skip(reason)
        os.environ.setdefault("MUJOCO_GL", backend)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def testdata() -> Path:
    """The folder of real clips and weights; for tests marked `realdata`."""
    if not TESTDATA.is_dir():
        pytest.skip(f"real clips and weights are absent: expected them in {TESTDATA}")
    return TESTDATA


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random numbers on the CPU."""
    return torch.Generator().manual_seed(0)

"""No large file enters the history by mistake: every clone carries every version of it for ever."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST_BYTES = 1_000_000
SHIPPED = {
    *(f"data/drops/clips/train/clips-{first:07d}.parquet" for first in range(0, 1500, 250)),
    "data/drops/clips/heldout/clips-0001000.parquet",
    "data/drops/clips/validation/clips-0000000.parquet",
    *(f"data/drops/estimators/{name}/model.safetensors" for name in ("depth", "flow", "judge_depth", "judge_flow")),
    "data/drops/model/transformer/diffusion_pytorch_model.safetensors",
    "data/drops/model/vae/diffusion_pytorch_model.safetensors",
    "docs/results/oro_drops_lora/pytorch_lora_weights.safetensors",
}
"""Tracked files over the limit: the shipped clips and weights. CONTRIBUTING says how one is replaced."""


def test_no_large_file_is_tracked_but_the_shipped_ones() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("no git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    large = {str(path.relative_to(ROOT)) for path in paths if path.is_file() and path.stat().st_size > LARGEST_BYTES}
    assert large - SHIPPED == set(), f"over {LARGEST_BYTES} bytes: make it smaller, or see CONTRIBUTING, Lighter clones"
    assert SHIPPED - large == set(), "no longer there or no longer large: leave it out of the list"

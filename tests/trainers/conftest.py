"""A toy world for the trainers: a tiny random LTX, a split of random clips, a reward for brightness."""

import types

import datasets
import numpy as np
import pytest
import torch
from diffusers.utils.logging import disable_progress_bar

from data import rows as data_rows
from trainers.models.tiny.ltx import tiny_ltx
from trainers.settings.oro import OROConfig

disable_progress_bar()


class Brightness:
    """Mean colour of the clip; `change` may alter the scores, `blind` names clips that cannot be measured."""

    def __init__(self, change=lambda reward_B, frames_BTCHW: reward_B, blind=()):
        self.change, self.blind = change, list(blind)

    def score(self, video, columns, grad):
        with torch.set_grad_enabled(grad):
            reward_B = self.change(video.frames_BTCHW.mean(dim=(1, 2, 3, 4)), video.frames_BTCHW)
        measurable_B = torch.ones_like(reward_B, dtype=torch.bool)
        measurable_B[self.blind] = False
        seen_B = torch.where(measurable_B, reward_B.detach(), float("nan"))
        return types.SimpleNamespace(
            total_B=torch.where(measurable_B, reward_B, -1.0),
            terms={"brightness": seen_B},
            measurable_B=measurable_B,
            reasons=[None if ok else "hidden" for ok in measurable_B.tolist()],
            observation=None,
        )


def write_split(folder, split, count=5, seed=0):
    """Random clips of 9 frames of 32 x 32 px at 16 fps, typed as real ones are."""
    random = np.random.default_rng(seed)
    eye, poses = np.eye(4, dtype=np.float32), np.zeros((9, 2, 7), np.float32)
    poses[..., 2] = 2.0  # two metres in front of the camera
    intrinsics = np.array([[32, 0, 16], [0, 32, 16], [0, 0, 1]], np.float32)
    rows = [
        {
            "id": f"{split}-{i}",
            "split": split,
            "seed": i,
            "caption": ["a red ball falls", "a blue box slides"][i % 2],
            "kind": ["drop", "slide"][i % 2],
            "shape": "sphere",
            "at_rest": i % 2 == 0,
            "fps": 16.0,
            "g_m_s2": 9.81,
            "radius_m": 0.2,
            "height_m": 1.0,
            "impact_times_s": [0.4],
            "frames": random.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8),
            "depth_m": np.ones((9, 32, 32), np.float32),
            "mask": np.ones((9, 32, 32), np.uint8),
            "flow_px": np.zeros((8, 32, 32, 2), np.float32),
            "poses": poses,
            "intrinsics": intrinsics,
            "world_from_camera": eye,
            "scene": "{}",
        }
        for i in range(count)
    ]
    (folder / split).mkdir(parents=True)
    table = datasets.Dataset.from_list(rows, features=data_rows.features(9, 32, 32))
    table.to_parquet(folder / split / "part-0.parquet")


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory):
    """Folder of splits `train` and `validation`, and of the pipeline `model`."""
    folder = tmp_path_factory.mktemp("toy_world")
    write_split(folder / "clips", "train")
    write_split(folder / "clips", "validation", count=3, seed=1)
    tiny_ltx(folder / "model")
    return folder


@pytest.fixture
def toy_config(toy_world, tmp_path):
    """`toy_config(max_steps=3, ...)` is a small ORO run into a folder of its own."""

    def make(**changes):
        base = {
            "model_name_or_path": str(toy_world / "model"),
            "dataset": str(toy_world / "clips"),
            "output_dir": str(tmp_path / "run"),
            "num_inference_steps": 3,
            "per_device_train_batch_size": 2,
            "lora_r": 4,
            "max_steps": 2,
            "report_to": ["none"],
            "disable_tqdm": True,
        }
        return OROConfig(**(base | changes))

    return make


@pytest.fixture
def base(toy_world, tmp_path):
    """Settings of a small run of a trainer that regresses on clips."""
    return {
        "model_name_or_path": str(toy_world / "model"),
        "dataset": str(toy_world / "clips"),
        "output_dir": str(tmp_path / "run"),
        "num_inference_steps": 2,
        "per_device_train_batch_size": 2,
        "lora_r": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "report_to": ["none"],
        "disable_tqdm": True,
    }


@pytest.fixture
def brightness():
    return Brightness

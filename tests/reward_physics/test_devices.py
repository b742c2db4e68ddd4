"""Observations stay on the device of their frames; test_every_measurement holds each measurement by itself to that."""

from __future__ import annotations

import pytest
import torch
from devices import PACKAGE, SaysWhere
from discs import free_fall, make_world
from pairs import collide, look

from reward_physics.estimators.flow import forward_backward_consistency, load_flow
from reward_physics.estimators.load import load_depth
from reward_physics.observation import Instruments, Observation
from reward_physics.observation.trajectories import pair_in_pixels
from reward_physics.video import Video
from rewards.score.summary import summarise


def tossed() -> torch.Tensor:
    """A clip (T, 3, H, W) of two discs that fly past each other."""
    v, u = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    time = torch.arange(14)[:, None, None]
    clip = (0.6 + 0.05 * torch.sin(u / 9)).expand(14, 3, -1, -1)
    for x, y, level in ((8 + 6 * time, 45 - 5 * time + 0.4 * time**2, 0.1), (88 - 5 * time, 20 + 0.3 * time, 0.95)):
        ball = (4.5 - torch.hypot(u - x, v - y)).clamp(0, 1)[:, None]
        clip = clip * (1 - ball) + level * ball
    return clip


def no_flow(frames_BTCHW: torch.Tensor, stride: int = 1) -> torch.Tensor:
    return torch.zeros_like(frames_BTCHW[:, stride:, :2]).movedim(2, -1)


def everything(observation: Observation) -> None:
    """What an Observation measures, and a summary of it."""
    for one in observation.objects:
        summarise(one, in_metres=True)
        assert one.flights is not None and one.visibility_B is not None


def test_a_trap_that_can_spring():
    with SaysWhere() as trap:
        exec(compile("import torch\ntorch.zeros(3)\ntorch.zeros(3, device='cpu')", f"{PACKAGE}/made_up.py", "exec"))
    assert trap.lines == {"made_up.py:2"}


@pytest.mark.parametrize("kind", ["segmenter", "appearance", "propagated", "first frame", "motion", "size", "boxes"])
def test_observations_make_tensors_where_their_frames_are(kind):
    world = make_world(free_fall(frames=12, g_m_s2=5.0))
    settings = {"mask": kind} if kind in ("appearance", "propagated") else {}
    settings |= {"first_frame_distance": True} if kind == "first frame" else {"floor_height_m": 0.0}
    video, instruments = world.video, world.instruments(flow=True, **settings)
    if kind in ("motion", "size", "boxes"):
        masks = torch.zeros(1, 2, 64, 96)
        masks[0, 0, 41:50, 4:13], masks[0, 1, 16:25, 84:93] = 1, 1
        known = {"object_masks_BNHW": masks} if kind == "boxes" else {}
        scale = {"object_diameter_m_B": torch.tensor([0.2])} if kind == "size" else {"px_per_m_B": torch.tensor([40.0])}
        video = Video(frames_BTCHW=tossed()[None], fps_B=torch.tensor([24.0]), **known, **scale)
        instruments = Instruments(
            mask="motion", flow=lambda x, stride=1: torch.zeros_like(x[:, stride:, :2]).movedim(2, -1)
        )
    observation = Observation(video, instruments, grad=False)
    with SaysWhere() as trap:
        everything(observation)
    assert sorted(trap.lines) == []


def test_pairs_make_tensors_where_their_frames_are():
    observation = look(collide())
    with SaysWhere() as trap:
        pair_in_pixels(observation)
    assert sorted(trap.lines) == []


def test_the_embedded_estimators_make_tensors_where_their_frames_are():
    world = make_world(free_fall(frames=4))
    flow, depth = load_flow("embedded", updates=1), load_depth("embedded")
    with SaysWhere() as trap:
        forward = flow(world.video.frames_BTCHW)
        forward_backward_consistency(forward, -forward)
        depth(world.video.frames_BTCHW, world.camera)
    assert sorted(trap.lines) == []

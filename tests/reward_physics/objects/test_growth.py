"""Paths in slow motion, and at uneven times."""

import pytest
import torch
from drawn_balls import balls, uneven_times

from reward_physics.objects.motion import find_moving


@pytest.mark.parametrize("fps", [480, 1000])
def test_slow_motion_is_seen_over_the_time_in_which_it_shows(fps):
    frames = 240
    times = [t / fps for t in range(frames)]
    speed = 70 * fps / frames
    clip = balls(times, lambda time: (30 + speed * time, 50.0), radius=10.0, size=(96, 144))
    found = find_moving(clip[None])
    assert found.reasons == [None] and found.places is not None
    assert found.places.present_BT.float().mean() > 0.9
    off_px = found.places.centre_BT2[0, :, 0] - torch.tensor([30 + speed * time for time in times])
    assert off_px.abs().median() < 0.5


def test_frames_at_uneven_times_are_linked_by_their_times():
    times = uneven_times(0.9)
    clip = balls(times, lambda time: (10 + 140 * time, 20 + 100 * time**2))
    ticks = torch.tensor(times, dtype=torch.float64)[None]
    found = find_moving(clip[None], None, ticks / ticks.diff(dim=1).median())
    assert found.places is not None and found.places.present_BT.all()

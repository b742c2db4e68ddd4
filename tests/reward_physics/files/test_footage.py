"""Clips read as streams: each frame at its own time, a cut of a large clip, pieces of a long one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_balls import balls, uneven_times, write_timed

from reward_physics.files.footage import Cut, Footage, clock_of


def across(time: float) -> tuple[float, float]:
    return 20 + 100 * time, 60.0


def footage(path: str) -> Footage:
    return Footage(path=Path(path))


def test_each_frame_has_the_time_that_the_file_says(tmp_path):
    times = uneven_times(0.8)
    clip = footage(write_timed(tmp_path / "phone.mp4", balls(times, across), times))
    clock = clock_of(clip, "container")
    frames = clip.whole(most=10**9)
    assert frames is not None and clock.uneven
    torch.testing.assert_close(clock.times_of(frames), torch.tensor(times, dtype=torch.float64), atol=2e-4, rtol=0)


def test_the_first_frame_may_come_late_and_a_repeated_time_is_left_out(tmp_path):
    times = [0.5 + 0.04 * t for t in range(12)]
    clip = footage(write_timed(tmp_path / "late.mkv", balls(times, across), times))
    clock = clock_of(clip, "container")
    assert not clock.uneven and clock.fps == pytest.approx(25, rel=0.3)


def test_slow_motion_at_uneven_times_is_scaled_by_the_rate_of_capture(tmp_path):
    times = uneven_times(1.0)
    clip = footage(write_timed(tmp_path / "slow.mp4", balls(times, across), times))
    own = clock_of(clip, "container").fps
    frames = clip.whole(most=10**9)
    assert frames is not None
    slowed, near = clock_of(clip, 8 * own).times_of(frames), clock_of(clip, 1.1 * own).times_of(frames)
    assert slowed is not None and near is not None
    torch.testing.assert_close(slowed, torch.tensor(times, dtype=torch.float64) / 8, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(near, torch.tensor(times, dtype=torch.float64), atol=2e-4, rtol=0)


def test_a_cut_shows_its_part_at_its_size(tmp_path):
    times = [t / 30 for t in range(10)]
    clip = footage(write_timed(tmp_path / "clip.mp4", balls(times, across), times))
    whole = clip.whole(most=10**9)
    assert whole is not None and clip.whole(most=10**5) is None
    part = clip.cut(Cut(numbers=range(2, 9, 3), left=10, top=20, height_px=40, width_px=60, scale=1.0))
    assert part.numbers_T.tolist() == [2, 5, 8]
    np.testing.assert_array_equal(part.images_THWC, whole.images_THWC[[2, 5, 8], 20:60, 10:70])
    half = clip.cut(Cut(numbers=range(2, 9, 3), left=10, top=20, height_px=20, width_px=30, scale=0.5))
    mean = part.images_THWC.reshape(3, 20, 2, 30, 2, 3).mean((2, 4))
    assert np.abs(half.images_THWC - mean).mean() < 3


def test_pieces_hold_every_frame_that_was_asked_for_and_share_some(tmp_path):
    times = [t / 30 for t in range(23)]
    clip = footage(write_timed(tmp_path / "clip.mp4", balls(times, across), times))
    pieces = [piece.numbers_T.tolist() for piece in clip.pieces(step=2, length=5, overlap=2, largest_px=64)]
    assert pieces == [[0, 2, 4, 6, 8], [6, 8, 10, 12, 14], [12, 14, 16, 18, 20], [18, 20, 22]]

"""Frames at a lower rate are taken by their times: whatever falls goes on falling with its own g."""

import numpy as np
import pytest

from data.rates import at_rate, frames_at


def test_every_second_frame_at_half_the_rate():
    assert frames_at(17, 16.0, 8.0, clip="a") == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert frames_at(16, 16.0, 8.0, clip="a") == [0, 2, 4, 6, 8, 10, 12, 14]
    assert frames_at(5, 240.0, 60.0, clip="a") == [0, 4]


def test_the_clips_own_rate_takes_all_frames_and_keeps_their_times():
    assert frames_at(17, 16.0, 16.0, clip="a") is None
    assert frames_at(49, 23.976, 24.0, clip="a") is None


@pytest.mark.parametrize(("rate", "wanted"), [(240.0, 25.0), (120.0, 16.0), (1000.0, 24.0)])
def test_no_frame_is_far_from_its_time(rate, wanted):
    taken = np.array(frames_at(200, rate, wanted, clip="a")) / rate
    assert np.abs(taken - np.arange(len(taken)) / wanted).max() <= 0.1 / wanted


@pytest.mark.parametrize(
    ("rate", "wanted", "said"),
    [
        (16.0, 24.0, r"fps 24 is above the 16 frames a second of clip a: take one of 16, 8, 5.33333, 4, 3.2"),
        (30.0, 16.0, r"fps 16 does not fit the 30 frames a second of clip a: .* take one of 30, 15, 10"),
        (0.0, 8.0, "clip a: fps must be > 0, got 0"),
    ],
)
def test_other_rates_are_refused(rate, wanted, said):
    with pytest.raises(ValueError, match=said):
        frames_at(17, rate, wanted, clip="a")


def test_all_that_a_row_has_of_each_frame_follows():
    row = {
        "id": "a",
        "fps": np.float32(16),
        "frames": np.arange(9)[:, None, None, None] + np.zeros((9, 2, 2, 3)),
        "mask": np.arange(9)[:, None, None] + np.zeros((9, 2, 2)),
        "poses": np.arange(9)[:, None, None] + np.zeros((9, 2, 7)),
        "flow_px": np.zeros((8, 2, 2, 2)),
        "brightness": list(range(9)),
        "intrinsics": np.eye(3),
        "impact_times_s": [0.1] * 9,
        "height_m": 1.0,
    }
    taken = at_rate(row, 8.0)
    for name in ("frames", "mask", "poses", "brightness"):
        assert np.asarray(taken[name]).reshape(5, -1)[:, 0].tolist() == [0, 2, 4, 6, 8], name
    assert "flow_px" not in taken, "no column knows the flow between frames that are further apart"
    assert taken["fps"] == 8
    assert (taken["intrinsics"] == row["intrinsics"]).all()
    assert len(taken["impact_times_s"]) == 9
    assert len(at_rate(row, 8.0, 3)["frames"]) == 3
    assert set(at_rate(row, 16.0)) == set(row)
    assert at_rate(row, None)["fps"] == 16

"""The README's moving picture: ticks where they belong, and a file that plays."""

import math

import pytest
import torch
from PIL import Image

from benchmarks.moving_picture import FACTOR, LAST_FRAME_S, ticked, write_webp


def test_a_tick_stands_at_the_row_of_its_frame_and_nowhere_else():
    grey_TCHW = torch.full((3, 3, 32, 48), 0.5)
    big_TCHW = ticked(grey_TCHW, [10.0, 20.0, math.inf])
    assert big_TCHW.shape == (3, 3, 32 * FACTOR, 48 * FACTOR)
    for frame, row_px in ((0, 10), (1, 20)):
        black_HW = (big_TCHW[frame] == 0).all(0)
        rows = black_HW.nonzero()[:, 0].float()
        assert rows.mean().item() == pytest.approx(row_px * FACTOR, abs=1)
        assert black_HW[:, 0].any() and black_HW[:, -1].any() and not black_HW[:, 24 * FACTOR].any()
    assert (big_TCHW[2] == 0.5).all()
    assert (grey_TCHW == 0.5).all()


def test_the_file_repeats_and_rests_at_the_last_frame(tmp_path):
    shades_T = torch.linspace(0, 1, 4)
    write_webp(tmp_path / "a.webp", shades_T[:, None, None, None].expand(4, 3, 16, 16), fps=8.0)
    with Image.open(tmp_path / "a.webp") as picture:
        assert (picture.n_frames, picture.info["loop"]) == (4, 0)
        picture.seek(3)
        picture.load()
        assert picture.info["duration"] == round(1000 * LAST_FRAME_S)

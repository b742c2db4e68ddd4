import math

import numpy as np
import pytest
import torch
from PIL import Image

from reward_physics.drawing import scenes as report

TIMES_S = np.arange(9) / 16


def falling_square(g_m_s2: float = 9.81) -> torch.Tensor:
    """A dark square that falls over a bright background, 20 px a metre."""
    frames = torch.full((9, 3, 32, 32), 0.9)
    for frame, time in zip(frames, TIMES_S, strict=True):
        top = min(27, round(3 + 20 * 0.5 * g_m_s2 * time**2))
        frame[:, top : top + 5, 12:17] = 0.1
    return frames


def ink(path) -> tuple[tuple[int, int], float]:
    """Size of a picture, and how much of it is not white."""
    image = Image.open(path).convert("L")
    return image.size, float((np.asarray(image) < 250).mean())


def test_film_strip_has_a_row_for_each_version(tmp_path):
    strips = [report.Strip(label=name, frames_TCHW=falling_square(), note="9.81") for name in ("truth", "base")]
    one = report.film_strip(tmp_path / "one.png", strips[:1], times_s=TIMES_S, frames=[0, 4, 8])
    two = report.film_strip(
        tmp_path / "two.png",
        strips,
        times_s=TIMES_S,
        frames=[0, 4, 8],
        true_rows_px=[math.nan, *range(8)],
        title="one scene",
    )
    assert ink(two)[0][1] > 1.5 * ink(one)[0][1]
    assert ink(two)[1] > 0.2


def test_an_empty_strip_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        report.film_strip(tmp_path / "a.png", [], times_s=TIMES_S, frames=[0])


def test_a_stroboscope_shows_the_object_where_it_has_been():
    picture = report.stroboscope(falling_square(), np.ones(9, dtype=bool))
    assert picture[0, 4, 14].item() == pytest.approx(0.1)
    assert picture[0, 29, 14].item() == pytest.approx(0.1)
    assert picture[0, 4, 25].item() == pytest.approx(0.9)


def test_spaced_frames_do_not_overlap():
    centroid = np.stack([np.zeros(6), [0.0, 2.0, 5.0, 6.0, np.nan, 30.0]], -1)
    used = np.array([True, True, True, True, True, False])
    assert report.spaced(centroid, used, least_px=4.0).tolist() == [True, False, True, False, False, False]


def test_track_is_drawn_with_missing_frames(tmp_path):
    height = 1.6 - 0.5 * 9.81 * TIMES_S**2
    centroid = np.stack([np.full(9, 14.5), 5.5 + 20 * (1.6 - height)], -1)
    measured = height + 0.01
    measured[3] = np.nan
    path = report.tracked_object(
        tmp_path / "track.png",
        falling_square(),
        centroid_T2=centroid,
        fitted_T2=centroid,
        used_T=np.arange(9) < 6,
        times_s=TIMES_S,
        height_m=measured,
        fitted_height_m=height,
        title="g = 9.8 ± 0.1 m/s²",
    )
    assert ink(path)[1] > 0.05


def test_a_grid_plays_every_clip_under_its_label():
    strip = report.Strip(label="base", frames_TCHW=falling_square(), note="9.81 m/s²")
    grid = report.video_grid([[strip, strip], [strip]], cell_px=64, gap_px=4)
    # cells of 64 px with 18 px of text above them, 4 px apart
    assert grid.shape == (9, 3, 4 + 2 * 86, 4 + 2 * 68)
    inside = grid[:, :, 22:86, 4:68]
    torch.testing.assert_close(inside[:, :, ::2, ::2], falling_square())
    assert grid[:, :, 4:22, 4:68].min() < 0.5
    assert (grid[:, :, -64:, -64:] == 1).all()

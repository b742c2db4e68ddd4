"""Reading clips from anywhere: what turns up in real files is read right or refused in one line."""

import contextlib

import numpy as np
import pytest
import torch

from reward_physics.files.io import write_video
from reward_physics.files.readers import read_clip


def corner(frames: int = 6, height: int = 48, width: int = 64) -> torch.Tensor:
    """A dark clip whose top left quarter is bright."""
    clip = torch.full((frames, 3, height, width), 0.1)
    clip[..., : height // 2, : width // 2] = 0.9
    return clip


def turned_by_metadata(path) -> None:
    """Mark an mp4 as to be shown turned clockwise by 90 degrees, as phones do."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    matrix = np.array([0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000], dtype=">i4")
    data[start : start + 36] = matrix.tobytes()
    path.write_bytes(bytes(data))


def test_rotated_metadata_turns_the_picture(tmp_path):
    path = write_video(tmp_path / "phone.mp4", corner().rot90(1, (2, 3)), fps=30, min_side_px=0)
    turned_by_metadata(path)
    read = read_clip(path, fps=30.0).frames_TCHW
    assert read.shape == (6, 3, 48, 64)
    torch.testing.assert_close(read, corner(), atol=0.06, rtol=0)


def test_only_the_chosen_frames_are_read(tmp_path):
    levels = torch.linspace(0, 1, 12)[:, None, None, None].expand(12, 3, 32, 32)
    path = write_video(tmp_path / "a.mp4", levels, fps=30, min_side_px=0)
    clip = read_clip(path, fps=240.0, frames=(4, 10))
    assert len(clip.frames_TCHW) == 6
    assert clip.first_frame == 4
    assert clip.fps == 240.0
    assert clip.container_fps == 30.0
    torch.testing.assert_close(clip.frames_TCHW.mean((1, 2, 3)), levels[4:10, 0, 0, 0], atol=0.02, rtol=0)


def test_too_much_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("reward_physics.files.readers.LARGEST_CLIP", 3 * 48 * 64 * 5)
    path = write_video(tmp_path / "a.mp4", corner(), fps=30, min_side_px=0)
    with pytest.raises(ValueError, match="--frames"):
        read_clip(path, fps=30.0)


def test_bytes_of_any_kind_never_end_in_a_traceback(tmp_path):
    hypothesis = pytest.importorskip("hypothesis")
    whole = write_video(tmp_path / "whole.mp4", corner(), fps=30, min_side_px=0).read_bytes()
    path = tmp_path / "fuzzed.mp4"

    @hypothesis.settings(max_examples=40, deadline=None)
    @hypothesis.given(
        cut=hypothesis.strategies.integers(0, len(whole)),
        place=hypothesis.strategies.integers(0, len(whole) - 1),
        put=hypothesis.strategies.binary(min_size=1, max_size=40),
    )
    def reads_or_refuses(cut, place, put):
        damaged = whole[:place] + put + whole[place + len(put) :]
        path.write_bytes(damaged[: cut or None])
        # Anything but a ValueError is a failure.
        with contextlib.suppress(ValueError):
            assert read_clip(path, fps=30.0).frames_TCHW.isfinite().all()

    reads_or_refuses()

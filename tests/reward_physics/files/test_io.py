import numpy as np
import pytest
import torch
from frame_folders import write_frames

from reward_physics.files import readers
from reward_physics.files.io import enlarge, read_video, upscale_factor, write_video


def clip(frames: int = 5, height: int = 32, width: int = 48) -> torch.Tensor:
    """A grey clip whose left half brightens from frame to frame."""
    frames_TCHW = torch.full((frames, 3, height, width), 0.5)
    frames_TCHW[..., : width // 2] = torch.linspace(0, 1, frames)[:, None, None, None]
    return frames_TCHW


def test_mp4_keeps_frames_rate_and_colours(tmp_path):
    written = clip()
    video = read_video(write_video(tmp_path / "a.mp4", written, fps=16, min_side_px=0))
    assert video.frames_BTCHW.shape == (1, 5, 3, 32, 48)
    assert video.fps_B.tolist() == [16.0]
    torch.testing.assert_close(video.frames_BTCHW[0], written, atol=0.04, rtol=0)


def test_small_clips_are_enlarged_by_a_whole_factor(tmp_path):
    video = read_video(write_video(tmp_path / "a.mp4", clip(), fps=16, min_side_px=100))
    assert video.frames_BTCHW.shape[-2:] == (128, 192)
    assert upscale_factor(64, 64, min_side_px=256) == 4
    assert upscale_factor(480, 832, min_side_px=256) == 1


def test_enlarging_repeats_pixels():
    assert enlarge(torch.tensor([[1.0, 2.0]]), 2).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_odd_sides_are_padded(tmp_path):
    video = read_video(write_video(tmp_path / "a.mp4", clip(height=31, width=47), fps=10, min_side_px=0))
    assert video.frames_BTCHW.shape[-2:] == (32, 48)


def test_fractional_rates_survive(tmp_path):
    video = read_video(write_video(tmp_path / "a.mp4", clip(), fps=30000 / 1001))
    assert video.fps_B.item() == pytest.approx(29.97003, abs=1e-4)


def test_gif_is_readable(tmp_path):
    video = read_video(write_video(tmp_path / "a.gif", clip(), fps=10, min_side_px=0))
    assert video.num_frames == 5
    assert video.fps_B.item() == pytest.approx(10, rel=0.02)


def test_frames_are_lossless(tmp_path):
    written = (clip() * 255).round() / 255
    video = read_video(write_frames(tmp_path / "frames", written), fps=24)
    torch.testing.assert_close(video.frames_BTCHW[0], written)
    assert video.fps_B.tolist() == [24.0]


def test_a_stated_rate_overrides_the_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", clip(), fps=16)
    assert read_video(path, fps=120).fps_B.tolist() == [120.0]


def test_nothing_half_written_is_left(tmp_path):
    with pytest.raises(ValueError, match="3 x H x W"):
        write_video(tmp_path / "a.mp4", torch.zeros(5, 1, 8, 8), fps=16)
    write_video(tmp_path / "b.mp4", clip(), fps=16)
    assert [file.name for file in tmp_path.iterdir()] == ["b.mp4"]


def test_bad_input_says_what_to_do(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video at all" * 50)
    (tmp_path / "empty").mkdir()
    write_frames(tmp_path / "frames", clip())
    with pytest.raises(ValueError, match="fps must be > 0, got 0"):
        write_video(tmp_path / "a.mp4", clip(), fps=0)
    with pytest.raises(ValueError, match="must end in"):
        write_video(tmp_path / "a.avi", clip(), fps=16)
    with pytest.raises(ValueError, match="no clip at"):
        read_video(tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="cannot read"):
        read_video(tmp_path / "broken.mp4")
    with pytest.raises(ValueError, match="give fps"):
        read_video(tmp_path / "frames")
    with pytest.raises(ValueError, match="no frames"):
        read_video(tmp_path / "empty", fps=16)


def test_frames_of_two_sizes_are_refused(tmp_path):
    from PIL import Image

    write_frames(tmp_path / "frames", clip())
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "frames" / "9999.png")
    with pytest.raises(ValueError, match="one size"):
        read_video(tmp_path / "frames", fps=16)


def test_uneven_frames_are_refused_unless_the_rate_is_stated(tmp_path):
    from PIL import Image

    images = [Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8)) for level in (0, 80, 160, 240)]
    images[0].save(tmp_path / "uneven.gif", save_all=True, append_images=images[1:], duration=[50, 400, 50, 50])
    with pytest.raises(ValueError, match="constant frame rate"):
        read_video(tmp_path / "uneven.gif")
    assert read_video(tmp_path / "uneven.gif", fps=20).num_frames == 4


def test_what_a_file_claims_is_bounded_before_a_frame_is_unpacked(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", clip(), fps=16, min_side_px=0)
    frames = write_frames(tmp_path / "frames", clip())
    monkeypatch.setattr(readers, "LARGEST_CLIP_BYTES", 5 * 32 * 48 * 3 - 1)
    with pytest.raises(ValueError, match="more than 4 frames of 48 x 32 px do not fit"):
        read_video(frames, fps=16)
    monkeypatch.setattr(readers, "_frames_of", None)
    with pytest.raises(ValueError, match=r"a\.mp4: 5 frames of 48 x 32 px are more than"):
        read_video(path)


def test_frames_beyond_what_the_header_says_are_not_kept(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", clip(), fps=16, min_side_px=0)
    monkeypatch.setattr(readers, "_check_claim", lambda path: None)
    monkeypatch.setattr(readers, "LARGEST_CLIP_BYTES", 5 * 32 * 48 * 3 - 1)
    with pytest.raises(ValueError, match="more than 4 frames"):
        read_video(path)

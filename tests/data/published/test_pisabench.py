"""PisaBench's layout and plain folders of videos, on files made in that layout."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.published.pisabench import clip_folders, read_clip
from data.published.video_folder import frame_indices, read_folder, video_paths
from reward_physics.figures.published import published_l2
from reward_physics.files.io import write_video

FRAMES, SIDE = 30, 32


def falling(fps, frames=FRAMES, objects=2):
    """mask_TKHW uint8: the first object lies still at the bottom, the last falls by 400 px/s^2."""
    mask = np.zeros((frames, objects, SIDE, SIDE), np.uint8)
    for t in range(frames):
        row = int(200 * (t / fps) ** 2)
        mask[t, -1, row : row + 4, 10:14] = 1
        mask[t, 0, 28:, 20:24] = 1
    return mask


def write_clip(folder, *, kind, fps, frames=FRAMES, masks=True, pictures=True):
    """One clip as the benchmark keeps it; the falling object is white, the other grey."""
    folder.mkdir(parents=True)
    mask = falling(fps, frames)
    pixels = np.repeat((mask[:, -1] * 255 + mask[:, 0] * 120)[..., None], 3, -1).astype(np.uint8)
    prefix = "" if kind == "real" else "rbga_"
    for t, picture in enumerate(pixels if pictures else ()):
        Image.fromarray(picture).save(folder / f"{prefix}{t:05d}.jpg", quality=95)
    name = "movie.mp4" if kind == "real" else "movie.gif"
    write_video(folder / name, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, fps=fps, min_side_px=0)
    points = [{"positive": [[22, 30]], "negative": []}, {"positive": [[12, 5], [12, 2]], "negative": [[0, 0]]}]
    info = {"caption": "a ball is dropped"} | ({"points": points} if kind == "real" else {})
    (folder / "clip_info.json").write_text(json.dumps(info))
    if masks:
        np.savez_compressed(folder / "mask.npz", mask=mask if kind == "sim" else mask.astype(bool))


@pytest.mark.parametrize(("kind", "fps"), [("real", 120.0), ("sim", 16.0)])
def test_a_clip_is_read_with_its_masks_and_the_object_that_falls(tmp_path, kind, fps):
    frames = FRAMES if kind == "real" else 6
    write_clip(tmp_path / kind / "0000", kind=kind, fps=fps, frames=frames)
    (folder,) = clip_folders(tmp_path, kind)
    clip = read_clip(folder, kind=kind)
    assert clip.fps == fps
    assert clip.frames_TCHW.shape == (frames, 3, SIDE, SIDE)
    assert clip.mask_TKHW.shape == (frames, 2, SIDE, SIDE)
    assert clip.dropped == 1
    assert clip.caption == "a ball is dropped"
    assert (clip.frames_TCHW[:, 0] > 0.8)[clip.dropped_mask_THW > 0].float().mean() > 0.95
    top_T = clip.dropped_mask_THW.amax(2).argmax(1)
    assert (top_T[1:] >= top_T[:-1]).all() and top_T[-1] > top_T[0]


def test_without_pictures_the_movie_is_read(tmp_path):
    write_clip(tmp_path / "real" / "0000", kind="real", fps=120.0, pictures=False, masks=False)
    clip = read_clip(tmp_path / "real" / "0000", kind="real")
    assert clip.frames_TCHW.shape == (FRAMES, 3, SIDE, SIDE)
    assert clip.mask_TKHW is None
    with pytest.raises(ValueError, match=r"0000 has no mask.npz: real clips get one"):
        _ = clip.dropped_mask_THW


def test_a_slow_motion_clip_is_compared_at_the_times_of_the_generated_one(tmp_path):
    """120 fps against 16: frames 0, 7, 15, 22 of 30. The same fall at 16 fps is then the same to a frame's time."""
    assert frame_indices(30, 120.0, target_fps=16.0) == [0, 7, 15, 22]
    assert frame_indices(30, 120.0, target_fps=16.0, count=2) == [0, 7]
    assert frame_indices(4, 16.0, target_fps=16.0) == [0, 1, 2, 3]
    write_clip(tmp_path / "real" / "0000", kind="real", fps=120.0)
    clip = read_clip(tmp_path / "real" / "0000", kind="real").at(16.0)
    assert len(clip.frames_TCHW) == len(clip.mask_TKHW) == 4
    assert clip.fps == 16.0
    generated = torch.from_numpy(falling(16.0, 4)).float()[:, -1]
    assert published_l2(clip.dropped_mask_THW, generated) < 0.01
    assert published_l2(read_clip(tmp_path / "real" / "0000", kind="real").dropped_mask_THW[:4], generated) > 0.025


def test_what_does_not_fit_is_refused(tmp_path):
    write_clip(tmp_path / "sim" / "0000", kind="sim", fps=16.0, frames=5)
    np.savez_compressed(tmp_path / "sim" / "0000" / "mask.npz", mask=falling(16.0, 4))
    with pytest.raises(ValueError, match=r"of 5 frames, got \(4, 2, 32, 32\)"):
        read_clip(tmp_path / "sim" / "0000", kind="sim")
    with pytest.raises(ValueError, match=r"no PisaBench clips in .*real"):
        clip_folders(tmp_path, "real")
    with pytest.raises(ValueError, match="real and sim clips, got both"):
        clip_folders(tmp_path, "both")


def test_a_plain_folder_of_videos(tmp_path):
    frames = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "b.mp4", frames, fps=24.0, min_side_px=0)
    (tmp_path / "a").mkdir()
    for t in range(5):
        Image.fromarray((frames[t].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "a" / f"{t}.png")
    (tmp_path / "prompts.json").write_text('{"b": "a ball falls"}')
    (tmp_path / "notes.txt").write_text("not a video")
    clips = list(read_folder(tmp_path, fps=10.0))
    assert [(clip.name, clip.fps, clip.prompt) for clip in clips] == [("a", 10.0, ""), ("b", 10.0, "a ball falls")]
    assert clips[0].frames_TCHW.shape == (5, 3, SIDE, SIDE)
    assert (clips[0].frames_TCHW - frames).abs().max() < 1 / 250
    assert frame_indices(len(frames), 24.0, target_fps=8.0) == [0, 3]
    with pytest.raises(ValueError, match="have no clock: give fps"):
        list(read_folder(tmp_path))


def test_folders_without_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder of videos"):
        video_paths(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no video"):
        video_paths(tmp_path)
    for name in ("x.mp4", "x.gif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="two videos named x"):
        video_paths(tmp_path)

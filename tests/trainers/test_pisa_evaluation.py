"""Folders of videos against files in PisaBench's layout: right ones score right, slow and vanishing ones do not."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from reward_physics.files.io import write_video
from trainers.evaluation.clip_figures import mask_figures
from trainers.pisa_evaluation import PisaConfig, run

FRAMES, SIDE, FPS = 8, 48, 16.0


def squares(g_px_s2, *, gone_from=FRAMES):
    """mask_TKHW of an object at rest and of one that falls from row 4 at this acceleration."""
    mask = np.zeros((FRAMES, 2, SIDE, SIDE), np.uint8)
    for t in range(FRAMES):
        row = 4 + round(0.5 * g_px_s2 * (t / FPS) ** 2)
        mask[t, 0, 40:, 30:40] = 1
        mask[t, 1, row : row + 8, 10:18] = t < gone_from
    return mask


def pixels(mask_TKHW):
    grey = mask_TKHW[:, 1] * 255 + mask_TKHW[:, 0] * 120
    return torch.from_numpy(np.repeat(grey[:, None], 3, 1)).float() / 255


@pytest.fixture
def truth(tmp_path):
    """Two simulated clips in the benchmark's layout; pictures as JPEG, masks in mask.npz."""
    for name in ("0000", "0001"):
        folder = tmp_path / "pisabench" / "sim" / name
        folder.mkdir(parents=True)
        mask = squares(200)
        for t, picture in enumerate((pixels(mask) * 255).byte().permute(0, 2, 3, 1).numpy()):
            Image.fromarray(picture).save(folder / f"rbga_{t:05d}.jpg", quality=95)
        (folder / "clip_info.json").write_text(json.dumps({"caption": "a square is dropped"}))
        np.savez_compressed(folder / "mask.npz", mask=mask)
    return tmp_path / "pisabench"


def made(folder, mask, *, names=("0000", "0001"), masks=True):
    folder.mkdir(parents=True)
    for name in names:
        write_video(folder / f"{name}.mp4", pixels(mask), fps=FPS, min_side_px=0)
        if masks:
            np.savez_compressed(folder / f"{name}.npz", mask=mask)
    return folder


def test_right_slow_and_vanishing_videos_are_told_apart(tmp_path, truth):
    """By hand: at g / 2 the L2 is the mean of 0.5 (g - g / 2) t^2 over the diagonal; the published one halves it."""
    folders = {
        "right": made(tmp_path / "right", squares(200)),
        "slow": made(tmp_path / "slow", squares(100)),
        "vanishing": made(tmp_path / "vanishing", squares(200, gone_from=4)),
    }
    videos = [f"{name}={folder}" for name, folder in folders.items()]
    record = run(PisaConfig(truth=str(truth), videos=videos, output_dir=str(tmp_path / "out")))
    right, slow, vanishing = (record["arms"][name]["clips"][0] for name in folders)
    assert right["trajectory_l2"] == right["published_l2"] == right["chamfer_px"] == right["vanished"] == 0
    assert right["iou"] == right["aligned_iou"] == right["area_ratio"] == 1
    away_T = [round(100 * (t / FPS) ** 2) - round(50 * (t / FPS) ** 2) for t in range(FRAMES)]
    by_hand = sum(away_T) / FRAMES / (2**0.5 * SIDE)
    assert slow["trajectory_l2"] == pytest.approx(by_hand, rel=1e-6)
    assert slow["published_l2"] == pytest.approx(by_hand / 2, rel=1e-6)
    assert slow["iou"] < 1 and slow["aligned_iou"] == pytest.approx(1)
    assert vanishing["published_l2"] == vanishing["published_chamfer"] == 0, "the published figures forgive it"
    assert vanishing["vanished"] == 0.5 and vanishing["trajectory_l2"] == 0.5 and vanishing["iou"] == 0.5
    assert "| slow | 2 |" in (tmp_path / "out" / "pisa.md").read_text()
    assert json.loads((tmp_path / "out" / "pisa.json").read_text())["arms"]["slow"]["missing"] == []


def test_without_a_segmenters_file_the_first_mask_is_carried_by_the_flow(tmp_path, truth):
    """At half its size, with the true flow: the fall is followed and measured in the benchmark's picture."""
    half = squares(200)[:, :, ::2, ::2]
    folder = made(tmp_path / "half", half, masks=False)
    rows = torch.tensor([half[t, 1].any(1).argmax() for t in range(FRAMES)]).float()

    def flow(frames_BTCHW):
        down_BSHW2 = torch.zeros(1, FRAMES - 1, SIDE // 2, SIDE // 2, 2)
        down_BSHW2[..., 1] = (rows[1:] - rows[:-1])[None, :, None, None]
        return down_BSHW2

    config = PisaConfig(truth=str(truth), videos=[f"half={folder}"], output_dir=str(tmp_path / "out"))
    for clip in run(config, flow=flow)["arms"]["half"]["clips"]:
        assert clip["trajectory_l2"] < 0.02 and clip["iou"] > 0.75 and clip["vanished"] == 0


def test_missing_videos_are_counted_and_strange_ones_refused(tmp_path, truth):
    one = made(tmp_path / "one", squares(200), names=("0001",))
    config = PisaConfig(truth=str(truth), videos=[f"one={one}"], output_dir=str(tmp_path / "out"))
    assert run(config)["arms"]["one"]["missing"] == ["0000"]
    assert "one: 1 clips have no video" in (tmp_path / "out" / "pisa.md").read_text()
    strange = made(tmp_path / "strange", squares(200), names=("toss",))
    with pytest.raises(ValueError, match=r"holds toss, which is no sim clip of .*: name the videos as the clips"):
        run(PisaConfig(truth=str(truth), videos=[f"strange={strange}"], output_dir=str(tmp_path / "out")))
    for videos, message in (
        ([], "videos must name folders as NAME=FOLDER, got none"),
        (["wan"], "got wan"),
        ([f"a={one}", f"a={one}"], "two folders of one name"),
    ):
        with pytest.raises(ValueError, match=message):
            run(PisaConfig(truth=str(truth), videos=videos, output_dir=str(tmp_path / "out")))


def test_mask_figures_against_values_by_hand():
    """A 2 x 2 square one column off in both of two frames: IoU 2 / 6, nearest distances 0, 1 on each side."""
    true = torch.zeros(2, 10, 10)
    true[:, 4:6, 4:6] = 1
    found = mask_figures(true.roll(1, dims=-1), true)
    assert found["iou"] == found["published_iou"] == pytest.approx(1 / 3)
    assert found["chamfer_px"] == pytest.approx(0.5)
    assert found["published_chamfer"] == pytest.approx(1 / (2**0.5 * 10))
    assert found["published_l2"] == pytest.approx(0.5 / (2**0.5 * 10))
    assert found["vanished"] == 0

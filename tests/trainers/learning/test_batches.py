"""Scenes come in an order that the clip's number alone decides, and in the size that was asked for."""

import dataclasses

import numpy as np
import pytest
import torch

from data.write import write_shard
from rewards.recipe.recipe import load_recipe
from trainers.learning.batches import Scenes, clip_size, lasting, resized
from trainers.learning.scoring import score
from trainers.learning.streams import clip_generators
from trainers.run.held_out import measured_g
from trainers.settings.common import DataConfig


@pytest.fixture
def scenes(toy_world):
    def make(**changes):
        return Scenes(DataConfig(dataset=str(toy_world / "clips"), **changes), "train", seed=3)

    return make


def test_every_epoch_sees_every_scene_once_in_another_order(scenes):
    table = scenes()
    epochs = [[table.row_index(5 * epoch + place) for place in range(5)] for epoch in range(4)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [scenes().row_index(13)] == [table.row_index(13)]  # whatever was asked before


def test_filters_keep_what_they_name(scenes):
    assert len(scenes(kinds=["drop"])) == 3
    assert len(scenes(at_rest=True)) == 3
    assert set(scenes(kinds=["slide"]).batch([0, 1]).columns["kind"]) == {"slide"}


def test_a_batch_carries_pixels_camera_and_columns(scenes):
    batch = scenes().batch([0, 7])
    assert batch.video.frames_BTCHW.shape == (2, 9, 3, 32, 32)
    assert 0 <= batch.video.frames_BTCHW.min() < 0.1 < 0.9 < batch.video.frames_BTCHW.max() <= 1
    assert batch.video.fps_B.tolist() == [16.0, 16.0]
    assert batch.video.camera is not None
    assert batch.video.first_mask_BHW.sum() == 2 * 32 * 32
    assert batch.columns["g_m_s2_B"].tolist() == pytest.approx([9.81, 9.81])
    assert len(batch.captions) == 2


def test_size_and_frame_rate_can_be_changed(scenes):
    batch = scenes(height=64, width=96, num_frames=5, fps=8.0).batch([0])
    assert batch.video.frames_BTCHW.shape == (1, 5, 3, 64, 96)
    assert batch.video.fps_B.tolist() == [8.0]
    assert (batch.video.camera.height_px, batch.video.camera.width_px) == (64, 96)
    same = scenes().batch([0]).video
    assert resized(same, None, 32) is same
    scaled = resized(dataclasses.replace(same, px_per_m_B=torch.tensor([10.0])), 64, 64)
    assert scaled.px_per_m_B.tolist() == [20.0]


def test_noise_depends_on_seed_number_and_stream_alone():
    def draw(*arguments):
        return torch.rand(3, generator=clip_generators(*arguments)[0]).tolist()

    assert draw(0, [4]) == torch.rand(3, generator=clip_generators(0, [3, 4])[1]).tolist()
    assert len({tuple(draw(0, [4])), tuple(draw(1, [4])), tuple(draw(0, [5])), tuple(draw(0, [4], 1))}) == 4


def test_a_lower_frame_rate_takes_frames_and_relabels_none(scenes):
    whole, half = scenes().batch([0]), scenes(fps=8.0).batch([0])
    assert torch.equal(half.video.frames_BTCHW, whole.video.frames_BTCHW[:, ::2])
    assert torch.equal(half.columns["reference_BTCHW"], whole.columns["reference_BTCHW"][:, ::2])
    assert torch.equal(half.columns["mask_BTHW"], whole.columns["mask_BTHW"][:, ::2])
    assert torch.equal(half.columns["poses_BTN7"], whole.columns["poses_BTN7"][:, ::2])
    assert "flow_BSHW2" not in half.columns
    assert clip_size(scenes(fps=8.0).config)[0] == 5
    with pytest.raises(ValueError, match="fps 24 is above the 16 frames a second of clip train-0"):
        scenes(fps=24.0)
    with pytest.raises(ValueError, match="fps 12 does not fit the 16 frames a second"):
        scenes(fps=12.0)


def test_g_is_the_same_at_half_the_frame_rate():
    config = DataConfig(split="validation", kinds=["drop", "bounce"], at_rest=True, fps=8.0)
    batch = Scenes(config, "validation", shuffle=False).batch(list(range(6)))
    scored, observation = score(load_recipe("configs/recipes/judge_scene.yaml"), batch.video, batch.columns)
    g_B, true_B = measured_g(observation, scored.measurable_B), batch.columns["g_m_s2_B"]
    error_B = ((g_B - true_B).abs() / true_B)[g_B.isfinite()]
    assert len(error_B) >= 4 and error_B.median() < 0.1


def filmed(folder, **changes):
    """Clips without a camera, with pixels a metre and a column of their owner's."""
    rows = [
        {"id": f"f{number}", "caption": "a ball falls", "fps": 30.0, "px_per_m": 20.0, "spin_hz": 2.0 + number}
        | {"frames": np.full((9, 32, 32, 3), 20 * number, np.uint8)}
        | changes
        for number in range(3)
    ]
    (folder / "train").mkdir(parents=True)
    write_shard(rows, folder / "train" / "a.parquet")
    return str(folder)


def test_filmed_clips_bring_their_scale_and_further_columns(tmp_path):
    batch = Scenes(DataConfig(dataset=filmed(tmp_path), height=64, width=64), "train", shuffle=False).batch([1, 2])
    assert batch.video.camera is None
    assert batch.video.px_per_m_B.tolist() == [40.0, 40.0], "of the size that the clips are brought to"
    assert batch.columns["px_per_m_B"].tolist() == [40.0, 40.0]
    assert batch.columns["spin_hz_B"].tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match="kinds needs a column `kind`, which split train lacks"):
        Scenes(DataConfig(dataset=str(tmp_path), kinds=["drop"]), "train")


def test_prompts_alone_give_clips_of_the_asked_size(tmp_path):
    (tmp_path / "p.txt").write_text("a ball is thrown\na cup drops\n")
    text = {"dataset": str(tmp_path / "p.txt"), "image_conditioning": False}
    size = {"num_frames": 9, "height": 32, "width": 64, "fps": 8.0}
    batch = Scenes(DataConfig(**text, **size), "train", shuffle=False).batch([0, 1, 2])
    assert batch.captions == ["a ball is thrown", "a cup drops", "a ball is thrown"]
    assert batch.video.frames_BTCHW.shape == (3, 9, 3, 32, 64)
    assert not batch.has_clips
    assert "reference_BTCHW" not in batch.columns
    with pytest.raises(ValueError, match=r"p\.txt holds prompts alone, no frames: set num_frames, height, width, fps"):
        Scenes(DataConfig(**text), "train")
    with pytest.raises(ValueError, match="set image_conditioning to false"):
        Scenes(DataConfig(**text | {"image_conditioning": True}, **size), "train")


def test_clips_last_as_long_as_asked():
    frames = torch.rand(1, 3, 3, 2, 2)
    assert torch.equal(lasting(frames, 2), frames[:, :2])
    assert torch.equal(lasting(frames, 5), frames[:, [0, 1, 2, 2, 2]])

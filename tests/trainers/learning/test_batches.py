"""Scenes come in an order that the clip's number alone decides, and in the size that was asked for."""

import dataclasses

import pytest
import torch

from trainers.learning.batches import Scenes, resized
from trainers.learning.streams import clip_generators
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

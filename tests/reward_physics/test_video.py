"""Video: one pixel range, an explicit frame rate, clips that can be picked apart."""

import pytest
import torch

from reward_physics.camera import Camera
from reward_physics.video import Video


def frames(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 5, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def test_times_follow_each_clips_own_frame_rate():
    video = Video.make(frames(), torch.tensor([10.0, 20.0]))
    torch.testing.assert_close(video.times_BT[:, -1], torch.tensor([0.4, 0.2], dtype=torch.float64))


def test_gradient_passes_until_detached():
    pixels = frames().requires_grad_()
    video = Video.make(pixels, 16.0)
    assert video.frames_BTCHW.requires_grad and not video.detached().frames_BTCHW.requires_grad


def test_some_clips_keep_their_scene():
    camera = Camera.looking(height_px=8, width_px=12, fov_y_deg=40)
    video = Video.make(frames(), torch.tensor([10.0, 20.0]), camera=camera, first_mask_BHW=torch.ones(2, 8, 12))
    second = video[[1]]
    assert second.batch_size == 1 and second.fps_B.item() == 20.0
    assert second.camera is not None and second.camera.batch_size == 1
    torch.testing.assert_close(second.frames_BTCHW[0], frames()[1])


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_frame_rate_must_be_positive(fps):
    with pytest.raises(ValueError, match="fps must be > 0"):
        Video.make(frames(), fps)


def test_wrong_shapes_and_types_are_refused():
    with pytest.raises(ValueError, match="shape"):
        Video.make(frames()[0], 16.0)
    with pytest.raises(ValueError, match="floating point"):
        Video.make((frames() * 255).to(torch.uint8), 16.0)
    with pytest.raises(ValueError, match="first mask"):
        Video.make(frames(), 16.0, first_mask_BHW=torch.ones(2, 8, 8))
    with pytest.raises(ValueError, match="resized"):
        Video.make(frames(), 16.0, camera=Camera.looking(height_px=64, width_px=64, fov_y_deg=40))

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


def test_frames_may_have_times_of_their_own():
    times = torch.tensor([[1.0, 1.01, 1.06, 1.08, 1.10]] * 2)
    video = Video(frames_BTCHW=frames(), fps_B=torch.tensor([40.0, 40.0]), frame_times_BT=times)
    torch.testing.assert_close(video.times_BT[0], torch.tensor([0, 0.01, 0.06, 0.08, 0.10]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(video[[1]].ticks_BT[0], video.times_BT[0] / 0.02, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="law compares neighbouring frames"):
        video.refuse_uneven_times("law")


def test_times_that_do_not_rise_are_refused():
    for times in ([[0.0, 0.1, 0.1, 0.2, 0.3]] * 2, [[0.0, 0.1, 0.2, 0.3]] * 2):
        with pytest.raises(ValueError, match="frame times must"):
            Video(frames_BTCHW=frames(), fps_B=torch.tensor([10.0, 10.0]), frame_times_BT=torch.tensor(times))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single_and_carries_the_gradient(dtype):
    pixels = frames().to(dtype).requires_grad_()
    video = Video.make(pixels, 16.0)
    assert video.dtype == torch.float32
    video.frames_BTCHW.sum().backward()
    assert pixels.grad is not None

"""Camera motion: known motions are found, still cameras are left alone, a thing that swings is no camera motion."""

import torch
import torch.nn.functional as F

from reward_physics.objects.homography import camera_motion, stabilised


def scene(height: int = 120, width: int = 160) -> torch.Tensor:
    """A picture with edges everywhere, (3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)[0]


def shifted(shift_T2: torch.Tensor, noise: float = 0.01) -> torch.Tensor:
    """The scene through a camera moved by (right, down) px, cut from a larger picture."""
    picture, generator = scene(160, 200)[None], torch.Generator().manual_seed(1)
    v, u = torch.meshgrid(torch.arange(120) + 20.5, torch.arange(160) + 20.5, indexing="ij")
    frames = []
    for right, down in shift_T2:
        grid = torch.stack(((u + right) / 200, (v + down) / 160), -1)[None] * 2 - 1
        frames.append(F.grid_sample(picture, grid, align_corners=False)[0])
    clip = torch.stack(frames)
    return clip + noise * torch.randn(clip.shape, generator=generator)


def test_a_shift_is_found_and_taken_out():
    shift = torch.tensor([[t * 1.5 - 6, 3 - t * 0.7] for t in range(9)])
    frames = shifted(shift)
    motion = camera_motion(frames)
    assert motion.kind == "shift"
    found = motion.frame_from_reference_T33[:, :2, 2]
    torch.testing.assert_close(found, -(shift - shift[4]), atol=0.1, rtol=0)
    steady = stabilised(frames, motion)
    inner = steady[:, :, 12:-12, 12:-12]
    assert (inner - inner[4]).abs().mean() < 0.03
    assert (frames - frames[4]).abs().mean() > 0.05


def test_a_still_camera_is_left_exactly_alone():
    frames = shifted(torch.zeros(7, 2))
    motion = camera_motion(frames)
    assert motion.kind == "static"
    assert motion.largest_px == 0.0
    assert stabilised(frames, motion) is frames


def test_one_thing_that_moves_is_no_camera_motion():
    frames = shifted(torch.zeros(7, 2), noise=0.0)
    for t in range(7):
        frames[t, :, 10:110, 60 + 2 * t : 75 + 2 * t] = 0.95
    assert camera_motion(frames).kind == "static"


def test_warping_keeps_the_gradient():
    frames = shifted(torch.tensor([[t - 2.0, 0.0] for t in range(5)]))
    motion = camera_motion(frames)
    frames.requires_grad_()
    stabilised(frames, motion)[0].mean().backward()
    assert frames.grad[0].abs().sum() > 0
    assert frames.grad.isfinite().all()

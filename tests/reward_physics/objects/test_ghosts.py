"""What stood still for most of a clip is no background."""

import pytest
import torch

from reward_physics.objects.blobs import LEAST_CHANGE, background_plate
from reward_physics.objects.ghosts import without_ghosts
from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video

FPS, PX_PER_M, G = 24.0, 42.0, 9.81


def fall(*, frames: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """A checked ball of 24 px released at rest before a wall with a gradient: frames (T, 3, H, W) and the wall."""
    v, u = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    wall = torch.stack((0.4 + 0.002 * u, 0.5 + 0.001 * v, 0.6 - 0.001 * u))
    clip = []
    for t in range(frames):
        y = 25 + 0.5 * G * (t / FPS) ** 2 * PX_PER_M
        ball = (12.5 - torch.hypot(u - 48, v - y)).clamp(0, 1)
        check = (((u - 48) / 6).floor() + ((v - y) / 6).floor()) % 2
        colour = torch.stack((0.8 - 0.2 * check, 0.2 + 0.1 * check, 0.15 + 0 * check))
        clip.append(ball * colour + (1 - ball) * wall)
    return torch.stack(clip), wall


@pytest.mark.parametrize("backwards", [False, True])
def test_the_plate_is_the_wall_where_the_ball_was_released_or_came_to_rest(backwards):
    """Played backwards a fall from rest is a climb that ends at rest."""
    frames, wall = fall()
    frames = frames.flip(0) if backwards else frames

    def wrong_px(plate: torch.Tensor) -> int:
        return int(((plate - wall).abs().amax(0) > 0.03).sum())

    assert wrong_px(frames.median(0).values) > 300
    assert wrong_px(background_plate(frames)) < 20


def test_a_plate_without_ghosts_stays_as_it_is():
    frames, wall = fall()
    ball = (frames[0] - wall).abs().amax(0) > 0
    moving = torch.stack([torch.where(ball.roll(8 * t, 0), 0.9, wall) for t in range(12)])
    plate = moving.median(0).values
    assert torch.equal(plate, wall)
    assert torch.equal(without_ghosts(plate, moving, least_change=LEAST_CHANGE), plate)
    assert torch.equal(without_ghosts(wall, frames[:5], least_change=LEAST_CHANGE), wall)


def test_g_of_a_short_fall_from_rest():
    frames, _ = fall()
    video = Video(frames_BTCHW=frames[None], fps_B=torch.tensor([FPS]), px_per_m_B=torch.tensor([PX_PER_M]))
    fit = Observation(video, Instruments(mask="motion"), grad=False).fit
    assert fit.num_frames_B.item() == 12
    assert fit.g_m_s2_B.item() == pytest.approx(G, rel=0.02)

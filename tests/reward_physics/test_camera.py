"""Laws of the pinhole camera."""

import pytest
import torch

from reward_physics.camera import Camera


def camera(pitch: float = 20.0, batch: int = 2) -> Camera:
    return Camera.looking(height_px=64, width_px=96, fov_y_deg=45, pitch_down_deg=pitch, batch_size=batch)


def test_project_undoes_unproject():
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(2, 5, 4, 2, generator=generator) * 60
    depth = 1 + torch.rand(2, 5, 4, generator=generator)
    seen_uv, seen_depth = camera().project(camera().unproject(uv, depth))
    torch.testing.assert_close(seen_uv, uv, atol=1e-3, rtol=0)
    torch.testing.assert_close(seen_depth, depth)


def test_level_camera_looks_along_y_with_z_up():
    level = camera(pitch=0, batch=1)
    centre = level.unproject(torch.tensor([[48.0, 32.0]]), torch.tensor([3.0]))
    torch.testing.assert_close(centre, torch.tensor([[0.0, 3.0, 1.0]]))
    higher = level.unproject(torch.tensor([[48.0, 10.0]]), torch.tensor([3.0]))
    assert higher[0, 2] > 1 and torch.allclose(higher[0, 0], torch.tensor(0.0))


def test_pose_is_a_rotation():
    rotation = camera(pitch=17, batch=1).world_from_camera_B44[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.tensor(1.0))


def test_resizing_sees_the_same_ray():
    uv, depth = torch.tensor([[20.0, 30.0], [20.0, 30.0]]), torch.tensor([2.0, 2.0])
    point = camera().unproject(uv, depth)
    torch.testing.assert_close(camera().resized(128, 192).unproject(uv * 2, depth), point)


def test_pixel_centres_lie_at_halves():
    uv = camera().rays_uv()
    assert uv.shape == (64, 96, 2)
    assert uv[0, 0].tolist() == [0.5, 0.5] and uv[3, 7].tolist() == [7.5, 3.5]


def test_gradients_reach_pixels_and_depth():
    uv = torch.tensor([[20.0, 30.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    depth = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(camera().unproject, (uv, depth))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(intrinsics_B33=torch.eye(3)), "shape"),
        (dict(intrinsics_B33=torch.full((2, 3, 3), float("nan"))), "finite"),
        (dict(intrinsics_B33=torch.zeros(2, 3, 3)), "focal"),
        (dict(world_from_camera_B44=torch.eye(4)[None]), "pose"),
        (dict(height_px=0), "at least 1"),
    ],
)
def test_bad_cameras_are_refused(change, message):
    good = dict(
        intrinsics_B33=camera().intrinsics_B33,
        world_from_camera_B44=camera().world_from_camera_B44,
        height_px=64,
        width_px=96,
    )
    with pytest.raises(ValueError, match=message):
        Camera(**(good | change))


def test_a_camera_for_three_clips_does_not_serve_two():
    with pytest.raises(ValueError, match="cameras"):
        camera(batch=3).expanded(2)

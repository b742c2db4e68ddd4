"""The camera, rate and mask that the scoring command is told of."""

import argparse
import dataclasses

import numpy as np
import pytest
import torch
from discs import free_fall, make_world
from PIL import Image

from reward_physics.observation import Instruments, Observation
from rewards.score.inputs import CameraFile, frames_of, masks_from

THROW = free_fall(frames=14, fps=24.0, start_m=(-0.9, 4.0, 0.0), velocity_m_s=(3.0, 0.0, 2.0))


def g_of(world, camera) -> float:
    """g of a drawn fall, with the scale at the object's mean place and a camera (or none)."""
    _, depth = world.camera.project(world.centres_BT3)
    scale = (world.camera.focal_px_B / depth.mean(1)).float()
    video = dataclasses.replace(world.video, camera=camera, px_per_m_B=scale, first_mask_BHW=None)
    return Observation(video, Instruments(mask="motion"), grad=False).fit.g_m_s2_B.item()


def test_a_tilted_camera_that_is_told_reads_g(tmp_path):
    """A throw through a strong perspective, 20 degrees down: a plain scale reads it low."""
    world = make_world(THROW, fps=24.0, pitch_deg=20.0, size_px=128)
    path = tmp_path / "camera.yaml"
    path.write_text("{fov_y_deg: 45, pitch_down_deg: 20}")
    assert g_of(world, CameraFile.read(str(path)).build(128, 128)) == pytest.approx(9.81, rel=0.01)
    assert g_of(world, None) < 9.6


def test_roll_turns_the_camera_clockwise():
    """What lies to the right of the axis then lies above it in the picture."""
    camera = CameraFile(fov_y_deg=45.0, roll_deg=90.0).build(100, 100)
    pixel, _ = camera.project(torch.tensor([[[0.5, 4.0, 1.0]]]))
    assert pixel[0, 0, 0].item() == pytest.approx(50.0, abs=1e-3)
    assert pixel[0, 0, 1].item() < 40


def test_intrinsics_follow_the_size_of_the_clip(tmp_path):
    path = tmp_path / "camera.json"
    path.write_text('{"intrinsics": [[800, 0, 320], [0, 800, 240], [0, 0, 1]], "height_px": 480, "width_px": 640}')
    camera = CameraFile.read(str(path)).build(240, 320)
    assert camera.intrinsics_B33[0].tolist() == [[400, 0, 160], [0, 400, 120], [0, 0, 1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{fov_deg: 45}", "did you mean fov_y_deg"),
        ("{fov_y_deg: .nan}", "finite"),
        ("{fov_y_deg: 45, focal_px: 10, height_px: 5}", "one of"),
        ("{pitch_down_deg: 10}", "one of"),
        ("[1, 2]", "mapping"),
        ("{focal_px: 100}", "height_px"),
        ("{intrinsics: [[1, 2]], height_px: 1, width_px: 1}", "3 x 3"),
        ("{a: b: c}", "camera.yaml"),
    ],
)
def test_a_camera_that_is_none_is_refused(text, said, tmp_path):
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        CameraFile.read(str(path))


def test_frames_are_both_included():
    assert frames_of("264:335") == (264, 336)


def test_boxes_are_masks():
    (mask,) = masks_from("2,1,5,3", 6, 8)
    assert mask.sum() == 6
    assert mask[1:3, 2:5].all()
    two = masks_from("2,1,5,3;0,4,8,6", 6, 8)
    assert two.sum((1, 2)).tolist() == [6, 16]
    with pytest.raises(ValueError, match="inside the 8 x 6"):
        masks_from("2,1,9,3", 6, 8)
    with pytest.raises(ValueError, match="left,top,right,bottom"):
        masks_from("2,1,5,3;4", 6, 8)


def test_an_image_is_one_mask_or_labels(tmp_path):
    levels = np.zeros((6, 8), dtype=np.uint8)
    levels[:2], levels[3:, :4] = 2, 5
    labels = tmp_path / "labels.png"
    Image.fromarray(levels).save(labels)
    first, second = masks_from(str(labels), 6, 8)
    assert (first == torch.tensor(levels == 2)).all() and (second == torch.tensor(levels == 5)).all()
    palette = Image.fromarray(levels).convert("P")
    palette.putdata(levels.flatten().tolist())
    palette.putpalette([0, 0, 0, 250, 250, 250, 200, 0, 0, 9, 9, 9, 0, 0, 0, 0, 0, 9])
    palette.save(tmp_path / "palette.png")
    assert (masks_from(str(tmp_path / "palette.png"), 6, 8) == torch.stack((first, second))).all()
    Image.fromarray(np.where(levels == 2, 200, 60).astype(np.uint8)).save(labels)
    (bright,) = masks_from(str(labels), 6, 8)
    assert (bright == first).all()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(labels)
    with pytest.raises(ValueError, match="has 47 labels: expected 1 to 16"):
        masks_from(str(labels), 6, 8)

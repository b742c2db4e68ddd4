"""Following the object in the image, and from its surface to its centre."""

import math

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.tracks.in_image import robust_flow, surface_to_centre, track_in_image
from reward_physics.tracks.in_metres import centre_seen, fit_distance, horizontal_distance, place_at_distance


def world(**more):
    return make_world(free_fall(frames=8, **more))


def test_centroid_is_right_to_a_few_hundredths_of_a_pixel():
    scene = world(velocity_m_s=(0.7, 0.0, 0.3))
    track = track_in_image(scene.masks_BTHW, first_mask_BHW=scene.video.first_mask_BHW)
    truth, _ = scene.camera.project(scene.centres_BT3)
    assert (track.centroid_BT2 - truth).abs().max() < 0.05
    assert (track.weight_BT == 1).all() and (track.visible_BT > 0.95).all()


def test_far_pixels_do_not_pull():
    scene = world()
    dirty = scene.masks_BTHW.clone()
    dirty[:, :, 40:60, 2:14] = 1.0  # bigger than the object
    track = track_in_image(dirty, first_mask_BHW=scene.video.first_mask_BHW)
    truth, _ = scene.camera.project(scene.centres_BT3)
    assert (track.centroid_BT2 - truth).abs().max() < 0.1


def test_without_a_first_mask_the_heaviest_blob_is_followed():
    scene = world()
    track = track_in_image(scene.masks_BTHW)
    truth, _ = scene.camera.project(scene.centres_BT3)
    assert (track.centroid_BT2 - truth).abs().max() < 0.05


def test_flow_over_the_object_is_robust_to_its_edge():
    scene = world()
    flow = torch.zeros(*scene.masks_BTHW[:, 1:].shape, 2, dtype=torch.float64)
    flow[..., 1] = torch.where(scene.masks_BTHW[:, :-1] > 0.3, 2.0, 0.0)
    track = track_in_image(scene.masks_BTHW, first_mask_BHW=scene.video.first_mask_BHW, flow_BSHW2=flow)
    assert track.flow_BS2 is not None
    torch.testing.assert_close(track.flow_BS2[..., 1], torch.full((1, 7), 2.0).double(), atol=1e-3, rtol=0)


def test_the_gradient_of_the_robust_flow_is_its_detached_weights():
    draw = torch.Generator().manual_seed(0)
    flow = torch.randn(1, 2, 8, 8, 2, generator=draw, dtype=torch.float64).requires_grad_()
    inside = torch.rand(1, 2, 8, 8, generator=draw, dtype=torch.float64)
    mean = robust_flow(flow, inside)
    (gradient,) = torch.autograd.grad(mean[0, 1, 0], flow)
    assert gradient[0, 0].abs().sum() == 0 and gradient[..., 1].abs().sum() == 0
    assert gradient[0, 1, ..., 0].min() >= 0
    assert gradient.sum().item() == pytest.approx(1.0)
    assert (gradient * flow)[..., 0].sum().item() == pytest.approx(mean[0, 1, 0].item())


def test_frames_cut_by_the_border_are_not_trusted():
    scene = make_world(free_fall(frames=14, start_m=(0.0, 4.0, 1.7)))
    track = track_in_image(scene.masks_BTHW, first_mask_BHW=scene.video.first_mask_BHW)
    truth, _ = scene.camera.project(scene.centres_BT3)
    radius = 0.2 * scene.camera.focal_px_B.item() / 4
    whole = truth[0, :, 1] + radius < 64
    assert (track.weight_BT[0] == whole.double()).all() and not whole.all()


@pytest.mark.parametrize("level", [0.0, 1e-7])
def test_empty_masks_give_finite_numbers_and_gradients(level):
    mask = torch.full((2, 5, 16, 16), level, dtype=torch.float64, requires_grad=True)
    depth = torch.ones(2, 5, 16, 16, dtype=torch.float64)
    flow = torch.zeros(2, 4, 16, 16, 2, dtype=torch.float64)
    for first in (None, torch.zeros(2, 16, 16)):
        track = track_in_image(mask, first_mask_BHW=first, flow_BSHW2=flow, depth_BTHW=depth)
        assert (track.weight_BT == 0).all()
        total = track.centroid_BT2.sum() + track.area_BT.sum() + track.visible_BT.sum()
        (gradient,) = torch.autograd.grad(total, mask)
        assert torch.isfinite(gradient).all() and torch.isfinite(total)
        assert track.surface_depth_BT is not None and torch.isfinite(track.surface_depth_BT).all()


@pytest.mark.parametrize("radius", [0.15, 0.5])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.2])
def test_surface_to_centre_of_a_ball(share, radius):
    """Against the mean depth at which rays through the middle disc, which holds `share` of the area, meet the ball."""
    depth, focal = 3.0, 77.0
    tangent = torch.linspace(0, 1, 20001, dtype=torch.float64) * math.sqrt(share / (depth**2 - radius**2)) * radius
    inside = (radius**2 - tangent.square() * (depth**2 - radius**2)).clamp(min=0).sqrt()
    surface = ((depth - inside) / (1 + tangent.square()) * tangent).sum() / tangent.sum()
    radius_px = torch.tensor(focal * radius / math.sqrt(depth**2 - radius**2))
    centre = surface_to_centre(surface, radius_px, torch.tensor(share), torch.tensor(focal))
    assert centre.item() == pytest.approx(depth, abs=0.015 * radius)


def test_centre_of_a_ball_is_seen_inside_the_centroid_of_its_silhouette():
    """Against the middle of the ball's outline, the rays at asin(r / d) about its centre, in the plane of the axis."""
    world = make_world(free_fall(frames=1), size_px=64)
    focal, radius, depth, aside = world.camera.focal_px_B.item(), 0.4, 3.0, 1.0
    angle, half = math.atan2(aside, depth), math.asin(radius / math.hypot(aside, depth))
    middle = focal * (math.tan(angle - half) + math.tan(angle + half)) / 2
    seen = torch.tensor([[[32.0 + middle, 32.0]]], dtype=torch.float64)
    radius_px = torch.full((1, 1), focal * radius / math.sqrt(depth**2 - radius**2))
    centre = centre_seen(seen, radius_px, world.camera)[0, 0]
    true = 32 + focal * aside / depth
    assert centre[0].item() == pytest.approx(true, abs=0.02) and abs(seen[0, 0, 0].item() - true) > 0.4
    assert centre[1] == 32


@pytest.mark.parametrize("pitch", [0.0, 15.0, 30.0])
def test_free_flight_keeps_a_horizontal_line_whatever_the_pitch(pitch):
    centres = free_fall(frames=9, start_m=(0.3, 3.0, 1.0), velocity_m_s=(0.5, 0.4, 0.0))
    camera = make_world(centres, pitch_deg=pitch).camera
    uv, depth = camera.project(centres)
    distance = horizontal_distance(camera, uv, depth)
    torch.testing.assert_close(distance, centres[..., 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(place_at_distance(camera, uv, distance), centres, atol=1e-4, rtol=0)


def test_distance_is_one_line_an_arc_with_a_shrunk_slope():
    time = (torch.arange(9, dtype=torch.float64) / 16)[None].repeat(200, 1)
    noise = 0.05 * torch.randn(200, 9, generator=torch.Generator().manual_seed(0)).double()
    line = fit_distance(4 * (1 + noise), time, torch.ones_like(time), speed_sd_m_s=0.2, bias_sd=0.0)
    assert line.distance_B.mean().item() == pytest.approx(4.0, abs=0.03)
    assert line.slope_B.abs().median() < 0.05
    assert 0.01 < line.relative_sd_B.median() < 0.05
    clean = fit_distance(4 + 0.3 * time, time, torch.ones_like(time), speed_sd_m_s=0.2, bias_sd=0.01)
    assert clean.slope_B.mean().item() == pytest.approx(0.3, abs=0.1)

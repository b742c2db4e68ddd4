"""Depth of clips: the camera's geometry, the embedded network's symmetries, transformers' models with gradient."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from reward_physics.camera import Camera
from reward_physics.estimators.depth import EmbeddedDepth, align_inverse_depth
from reward_physics.estimators.depth_net import DepthNet, DepthShape, Layers, geometry_channels
from reward_physics.estimators.load import load_depth

TINY = DepthShape(backbone="test_resnet", width=32, layers=1, heads=2, decoder=(16, 16, 8))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return DepthNet(TINY)


@pytest.fixture
def estimator(net):
    return EmbeddedDepth(net)


def frames(batch=1, count=3, size=64, seed=0):
    return torch.rand(batch, count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def camera(height_m=2.0, pitch_deg=20.0, size=64, fov_deg=40.0):
    return Camera.looking(
        height_px=size, width_px=size, fov_y_deg=fov_deg, pitch_down_deg=pitch_deg, position_m=(0.3, -4.0, height_m)
    )


def test_floor_channel_is_the_inverse_depth_of_the_floor():
    cam = camera(height_m=2.0)
    channels, log_height = geometry_channels(cam, frames())
    assert log_height.exp().item() == pytest.approx(2.0)
    fall = channels[0, 0]
    v, u = 55, 20
    depth = 2.0 / fall[v, u]
    point = cam.unproject(torch.tensor([[[u + 0.5, v + 0.5]]]), depth.view(1, 1))
    assert point[0, 0, 2].item() == pytest.approx(0.0, abs=1e-5)
    assert fall[0, 32] < fall[63, 32]


def test_rays_are_those_of_the_intrinsics():
    channels, _ = geometry_channels(camera(fov_deg=40.0), frames())
    half = math.tan(math.radians(20)) * 63 / 64
    assert channels[0, 1, 10, 63].item() == pytest.approx(half, rel=1e-5)
    assert channels[0, 2, 0, 10].item() == pytest.approx(-half, rel=1e-5)
    assert (channels[0, 3] == 1).all()


def test_without_a_camera_nothing_is_claimed_of_it():
    channels, log_height = geometry_channels(None, frames(batch=2))
    assert not channels.any()
    assert not log_height.any()


def test_a_world_twice_as_large_is_twice_as_deep(estimator):
    with torch.no_grad():
        small, large = (estimator(frames(), camera(height_m=h)) for h in (1.5, 3.0))
    torch.testing.assert_close(large.depth_BTHW, 2 * small.depth_BTHW, rtol=1e-4, atol=0)
    torch.testing.assert_close(large.mask_logits_BTHW, small.mask_logits_BTHW)


def test_shape_sign_and_metric(estimator):
    depth = estimator(frames(batch=2), camera())
    assert depth.metric
    assert depth.depth_BTHW.shape == depth.mask_logits_BTHW.shape == depth.object_depth_BTHW.shape == (2, 3, 64, 64)
    assert (depth.depth_BTHW > 0).all()


def test_another_size_is_measured_at_the_trained_one(estimator):
    clips = frames()
    large = F.interpolate(clips[0], scale_factor=2, mode="nearest")[None]
    with torch.no_grad():
        at_64, at_128 = estimator(clips, camera()), estimator(large, camera(size=128))
    assert at_128.depth_BTHW.shape == (1, 3, 128, 128)
    ratio = at_128.depth_BTHW.mean() / at_64.depth_BTHW.mean()
    assert ratio.item() == pytest.approx(1.0, abs=0.05)


def test_clips_of_a_batch_do_not_meet_but_frames_of_a_clip_do(estimator):
    clips = frames(batch=2)
    with torch.no_grad():
        together = estimator(clips, camera()).depth_BTHW
        alone = estimator(clips[1:], camera()).depth_BTHW
        other = clips.clone()
        other[:, 2] = 0
        changed = estimator(other, camera()).depth_BTHW
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert (changed[:, 0] - together[:, 0]).abs().max() > 1e-6


def test_gradient_reaches_every_frame_and_no_weight(estimator):
    clips = frames().requires_grad_()
    depth = estimator(clips, camera())
    (depth.depth_BTHW.sum() + depth.mask_logits_BTHW.sum()).backward()
    assert clips.grad is not None
    assert torch.isfinite(clips.grad).all()
    assert (clips.grad.flatten(2).abs().amax(dim=2) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in estimator.parameters())
    assert not estimator.train().training


def test_gradient_equals_finite_differences(net):
    double = EmbeddedDepth(DepthNet(TINY)).double()
    double.net.load_state_dict(net.state_dict())
    clips = frames(count=2).double().requires_grad_()
    cam = camera()

    def total(x):
        return double(x, cam).depth_BTHW.mean()

    total(clips).backward()
    direction = torch.randn(clips.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        slope = (total(clips + 1e-6 * direction) - total(clips - 1e-6 * direction)) / 2e-6
    assert clips.grad is not None
    torch.testing.assert_close((clips.grad * direction).sum(), slope, rtol=1e-3, atol=1e-9)


def test_the_mask_decides_which_layer_is_seen():
    one = torch.ones(1, 1, 2, 2)
    front, back = one * math.log(2.0), one * math.log(5.0)
    for logit, expected in ((3.0, 2.0), (-3.0, 5.0)):
        seen = Layers(object_log_depth_BTHW=front, background_log_depth_BTHW=back, mask_logits_BTHW=one * logit)
        torch.testing.assert_close(seen.log_depth_BTHW.exp(), one * expected, rtol=1e-4, atol=0)


def test_one_scale_and_shift_a_clip_bring_relative_depth_to_metres():
    metres = 2 + 3 * torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scale, shift = torch.tensor([3.0, 0.5]).view(2, 1, 1, 1), torch.tensor([0.2, -0.1]).view(2, 1, 1, 1)
    relative = (1 / metres - shift) / scale
    known = torch.zeros_like(metres)
    known[:, :, 4:] = 1
    wrong_elsewhere = torch.where(known > 0, metres, 0.0)
    torch.testing.assert_close(align_inverse_depth(relative, wrong_elsewhere, known), metres, rtol=1e-4, atol=0)


def test_alignment_keeps_the_motion_that_alignment_frame_by_frame_would_hide():
    near_then_far = torch.tensor([[1.0, 0.5]]).view(1, 2, 1, 1) * torch.linspace(1, 2, 16).view(1, 1, 4, 4)
    aligned = align_inverse_depth(near_then_far, 1 / near_then_far)
    assert (aligned[:, 1] / aligned[:, 0]).mean().item() == pytest.approx(2.0, rel=1e-4)


def test_a_constant_relative_depth_is_aligned_without_dividing_by_zero():
    flat = torch.ones(1, 2, 4, 4, requires_grad=True)
    metres = align_inverse_depth(flat, 4 * torch.ones(1, 2, 4, 4))
    metres.sum().backward()
    torch.testing.assert_close(metres, 4 * torch.ones(1, 2, 4, 4))
    assert torch.isfinite(flat.grad).all() if flat.grad is not None else True


@pytest.fixture
def folder(tmp_path, net):
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_config()))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_comes_back_as_it_was_saved(folder, estimator):
    loaded = load_depth(str(folder))
    with torch.no_grad():
        ours, again = estimator(frames(), camera()), loaded(frames(), camera())
    torch.testing.assert_close(again.depth_BTHW, ours.depth_BTHW, rtol=0, atol=0)


def test_bad_weights_and_names_are_refused_in_one_line(folder):
    cases = [("nothing", "unknown estimator"), (str(folder / "absent"), "unknown estimator")]
    for name, said in cases:
        with pytest.raises(ValueError, match=said) as caught:
            load_depth(name)
        assert "\n" not in str(caught.value)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot read"):
        load_depth(str(folder))
    save_file({"x": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match="another network"):
        load_depth(str(folder))
    weights.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        load_depth(str(folder))
    (folder / "config.json").write_text('{"architecture": "raft"}')
    with pytest.raises(ValueError, match="depth_net"):
        load_depth(str(folder))


def test_few_pixels_and_an_unknown_size_make_a_distance_less_certain(estimator):
    known, side = torch.full((3,), 0.3), estimator.side_px
    few, more, twice = estimator.size_sd(known, torch.tensor([3.0, 6.0, 12.0]), side).tolist()
    assert few > more > twice > 0
    # The same object in a picture twice as large is seen no better by a network that works at its own size.
    assert estimator.size_sd(known[:1], torch.tensor([12.0]), 2 * side).item() == pytest.approx(more)
    radius_m = torch.tensor([0.08, 0.3, 0.6])
    small, usual, large = estimator.size_sd(radius_m, torch.full((3,), 6.0), side).tolist()
    assert small > 2 * usual and large > 2 * usual


def test_bad_frames_are_refused(estimator):
    with pytest.raises(ValueError, match="must be"):
        estimator(torch.rand(2, 3, 64, 64))


def depth_anything(folder, kind):
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        patch_size=14,
        depth_estimation_type=kind,
        max_depth=20,
    )
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = DPTImageProcessor(
        size={"height": 56, "width": 56},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(folder)
    return processor


def zoe(folder):
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    backbone = BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    torch.manual_seed(0)
    ZoeDepthForDepthEstimation(config).save_pretrained(folder)
    processor = ZoeDepthImageProcessor(size={"height": 64, "width": 96}, ensure_multiple_of=32)
    processor.save_pretrained(folder)
    return processor


def smooth(height=48, width=72):
    coarse = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(5))
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_depth_anything_by_folder(tmp_path, kind):
    processor = depth_anything(tmp_path, kind)
    estimator = load_depth(str(tmp_path))
    assert estimator.metric is (kind == "metric")
    check_like_transformers(estimator, processor)


def test_zoedepth_by_folder(tmp_path):
    processor = zoe(tmp_path)
    estimator = load_depth(str(tmp_path))
    assert estimator.metric
    check_like_transformers(estimator, processor)


def check_like_transformers(estimator, processor):
    """Same pixels as the image processor's, same depth as the network's, and a gradient to the frames."""
    images = (smooth() * 255).round() / 255
    height, width = images.shape[-2:]
    ours = estimator.preprocessing.apply(images)
    arrays = [np.uint8((image.permute(1, 2, 0).numpy() * 255).round()) for image in images]
    theirs = processor(images=arrays, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 0.03  # the processor rounds to bytes after resizing
    with torch.no_grad():
        predicted = estimator.network(pixel_values=theirs)
        depth = estimator(images[None]).depth_BTHW[0]
    sizes = [(height, width)] * 2
    if estimator.preprocessing.pads:
        expected = processor.post_process_depth_estimation(predicted, source_sizes=sizes)
        expected = torch.stack([answer["predicted_depth"] for answer in expected])
    else:
        expected = F.interpolate(predicted.predicted_depth[:, None], size=(height, width), mode="bilinear")[:, 0]
    assert depth.shape == (2, height, width)
    torch.testing.assert_close(depth, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))
    clips = images[None].clone().requires_grad_()
    estimator(clips).depth_BTHW.sum().backward()
    assert clips.grad is not None
    assert torch.isfinite(clips.grad).all()
    assert (clips.grad.flatten(2).abs().amax(dim=2) > 0).all()


def test_a_folder_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="expected model_type depth_anything or zoedepth, got bert"):
        load_depth(str(tmp_path))

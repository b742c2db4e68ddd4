"""Training the estimators: augmentations keep truth true, losses vanish on it, the commands leave weights that load."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from data.warps import WarpRanges, draw_warps
from reward_physics.camera import Camera
from reward_physics.estimators.depth_net import Layers, geometry_channels
from reward_physics.estimators.flow import load_flow
from reward_physics.estimators.load import load_depth
from trainers.pretrain import check_estimators
from trainers.pretrain import depth as train_depth
from trainers.pretrain import flow as train_flow
from trainers.pretrain.clips import Clips, read_clips
from trainers.pretrain.training import Training

VALIDATION = Path(__file__).resolve().parents[3] / "data" / "drops" / "clips" / "validation"


def camera(count=1):
    return Camera.looking(
        height_px=64, width_px=64, fov_y_deg=42.0, pitch_down_deg=15.0, position_m=(0.0, -3.0, 1.8), batch_size=count
    )


@pytest.fixture(scope="module")
def clips() -> Clips:
    """Two clips of five frames: a square of two metres' depth moves two pixels a frame before a wall at five metres."""
    frames, mask, depth = (
        torch.zeros(2, 5, 64, 64, 3, dtype=torch.uint8),
        torch.zeros(2, 5, 64, 64, dtype=torch.uint8),
        torch.full((2, 5, 64, 64), 5.0),
    )
    flow = torch.zeros(2, 4, 64, 64, 2)
    for t in range(5):
        square = (slice(None), t, slice(20, 30), slice(10 + 2 * t, 20 + 2 * t))
        frames[square], mask[square], depth[square] = 200, 1, 2.0
        if t < 4:
            flow[square] = torch.tensor([2.0, 0.0])
    cam = camera(2)
    return Clips(
        frames_NTHW3=frames,
        mask_NTHW=mask,
        depth_NTHW=depth.half(),
        flow_NSHW2=flow.half(),
        intrinsics_N33=cam.intrinsics_B33,
        world_from_camera_N44=cam.world_from_camera_B44,
    )


def warped_pairs():
    warps = draw_warps(2, torch.Generator().manual_seed(0), WarpRanges(size_px=64))
    return train_flow.Pairs(
        first_BCHW=warps.first_BCHW,
        second_BCHW=warps.second_BCHW,
        flow_B2HW=warps.flow_BHW2.permute(0, 3, 1, 2),
        weight_BHW=warps.visible_BHW,
        object_BHW=torch.zeros(2, 64, 64, dtype=torch.uint8),
    )


@pytest.mark.parametrize("flip_u", [False, True])
@pytest.mark.parametrize("flip_v", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_turning_a_pair_turns_its_flow(flip_u, flip_v, swap):
    pairs = train_flow.turned(warped_pairs(), flip_u=flip_u, flip_v=flip_v, swap=swap)
    axis = torch.arange(64) + 0.5
    x = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1) + pairs.flow_B2HW.permute(0, 2, 3, 1)
    found = F.grid_sample(pairs.second_BCHW, x / 32 - 1, align_corners=False)
    inside = (pairs.weight_BHW == 1) & ((x > 1) & (x < 63)).all(dim=-1)
    gap = (found - pairs.first_BCHW).abs().amax(dim=1)[inside]
    assert gap.median() < 1e-5


def test_drops_pairs_are_enlarged_with_their_flow(clips):
    moving = train_flow.moving_frames(clips)
    assert moving.all()
    pairs = train_flow.draw_drops(clips, moving, 3, torch.Generator().manual_seed(0))
    assert pairs.first_BCHW.shape == (3, 3, 128, 128)
    on = pairs.object_BHW == 1
    assert on.sum() == 3 * 20 * 20
    assert (pairs.flow_B2HW[:, 0][on].abs() == 4.0).all()
    assert not pairs.flow_B2HW.permute(0, 2, 3, 1)[~on].any()


def test_flow_loss_is_zero_on_the_truth_and_counts_moving_objects(clips):
    pairs = train_flow.draw_drops(clips, train_flow.moving_frames(clips), 2, torch.Generator().manual_seed(0))
    truth, still = pairs.flow_B2HW, torch.zeros_like(pairs.flow_B2HW)
    zero, values = train_flow.sequence_loss([truth, truth], pairs)
    assert zero.item() == 0.0
    assert values["epe_moving"] == 0.0
    missed, values = train_flow.sequence_loss([still], pairs)
    assert values["epe_moving"] == pytest.approx(4.0)
    everywhere = 4.0 * 400 / 128**2
    assert missed.item() == pytest.approx(everywhere + 0.5 * 4.0 + 0.5 * 4.0, rel=1e-5)


def test_both_images_get_the_same_colours(clips):
    pairs = train_flow.draw_drops(clips, train_flow.moving_frames(clips), 4, torch.Generator().manual_seed(0))
    first, second = train_flow.augmented(pairs, torch.Generator().manual_seed(1))
    assert first.min() >= -1
    assert first.max() <= 1
    backgrounds = (first - second).abs()[..., :40, 100:]
    assert backgrounds.mean() < 0.1


def test_zooming_moves_pixels_and_intrinsics_together():
    cam = camera()
    span, shift = torch.tensor([0.8]), torch.tensor([[0.15, -0.1]])
    grid = train_depth.zoom_grid(span, shift, 64, 64)
    before, _ = geometry_channels(cam, torch.zeros(1, 1, 3, 64, 64))
    zoomed = Camera(
        intrinsics_B33=train_depth.zoomed_intrinsics(cam.intrinsics_B33, span, shift, 64, 64),
        world_from_camera_B44=cam.world_from_camera_B44,
        height_px=64,
        width_px=64,
    )
    after, _ = geometry_channels(zoomed, torch.zeros(1, 1, 3, 64, 64))
    looked_up = F.grid_sample(before, grid, align_corners=False)
    inside = (grid.abs() < 0.95).all(dim=-1)[0]
    torch.testing.assert_close(looked_up[0, :, inside], after[0, :, inside], atol=1e-4, rtol=1e-4)


def test_a_mirrored_scene_has_mirrored_rays():
    channels, _ = geometry_channels(camera(), torch.zeros(1, 1, 3, 64, 64))
    torch.testing.assert_close(train_depth.mirror(channels), channels)  # a centred camera is its own mirror image
    torch.testing.assert_close(train_depth.mirror(channels)[:, 1], -channels[:, 1].flip(-1))


def test_a_depth_batch_holds_the_clips_depth(clips):
    batch = train_depth.draw_batch(clips, 4, 3, torch.Generator().manual_seed(0))
    assert batch.frames_BTCHW.shape == (4, 3, 3, 64, 64)
    assert batch.numbers_T.tolist() == sorted(batch.numbers_T.tolist())
    on = batch.object_BTHW == 1
    torch.testing.assert_close(batch.log_depth_BTHW[on].exp(), torch.full_like(batch.log_depth_BTHW[on], 2.0))
    torch.testing.assert_close(batch.log_depth_BTHW[~on].exp(), torch.full_like(batch.log_depth_BTHW[~on], 5.0))


def test_depth_loss_vanishes_on_the_truth_and_sees_a_biased_object(clips):
    batch = train_depth.draw_batch(clips, 4, 3, torch.Generator().manual_seed(0))
    logits = 40 * (batch.object_BTHW - 0.5)

    def layers(bias):
        return Layers(
            object_log_depth_BTHW=batch.log_depth_BTHW + bias,
            background_log_depth_BTHW=batch.log_depth_BTHW,
            mask_logits_BTHW=logits,
        )

    perfect, values = train_depth.depth_loss(layers(0.0), batch)
    assert perfect.item() < 1e-3
    assert values["iou"] == 1.0
    _, values = train_depth.depth_loss(layers(0.1), batch)
    assert values["object_bias"] == pytest.approx(0.1, rel=1e-3)


def test_the_centroid_of_a_mask_and_of_two_pixels_of_unequal_weight():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 2:4, 5:7] = 1
    torch.testing.assert_close(train_depth.centroid_px(mask)[0, 0], torch.tensor([5.5, 2.5]))
    mask.zero_()
    mask[0, 0, 1, 0], mask[0, 0, 1, 4] = 0.25, 0.75
    torch.testing.assert_close(train_depth.centroid_px(mask)[0, 0], torch.tensor([3.0, 1.0]))


def test_figures_are_recorded_beside_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(check_estimators, "FLOW_SHIPPED", {"embedded": tmp_path / "flow"})
    monkeypatch.setattr(check_estimators, "DEPTH_SHIPPED", {"embedded": tmp_path / "depth"})
    for name in ("flow", "depth"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training.json").write_text('{"seed": 1, "quality": {}}')
    check_estimators.record({"embedded": {"flow_epe_moving_px": 0.5, "mask_iou": 0.9}, "published": {}}, "clips")
    flow, depth = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("flow", "depth"))
    assert flow == {"seed": 1, "quality": {"measured_on": "clips", "flow_epe_moving_px": 0.5}}
    assert depth == {"seed": 1, "quality": {"measured_on": "clips", "mask_iou": 0.9}}


def test_reading_the_shipped_clips():
    clips = read_clips([VALIDATION], 3)
    assert clips is not None
    assert len(clips) == 3
    assert clips.frames_NTHW3.shape == (3, 17, 64, 64, 3)
    assert clips.flow_NSHW2.shape == (3, 16, 64, 64, 2)
    on = clips.mask_NTHW > 0
    assert 0.001 < on.float().mean() < 0.1
    assert clips.depth_NTHW[on].float().mean() < clips.depth_NTHW[~on].float().mean()
    assert read_clips([VALIDATION.parent / "absent"], 3) is None


def run(command, folder, *extra):
    common = ["--output_dir", str(folder), "--data", str(VALIDATION), "--max_clips", "4", "--num_threads", "1"]
    command.main([*common, "--batch_size", "2", "--log_steps", "1", *extra])


def test_flow_training_stops_goes_on_and_leaves_a_flow_estimator(tmp_path):
    flags = ["--max_steps", "2", "--updates", "1", "--variant", "judge"]
    run(train_flow, tmp_path, *flags, "--stop_after_minutes", "1e-9")
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 1
    run(train_flow, tmp_path, *flags)
    training = json.loads((tmp_path / "training.json").read_text())
    assert training["steps"] == 2
    assert training["seed"] == 0
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 2
    assert load_flow(str(tmp_path), updates=1)(torch.rand(1, 2, 3, 64, 64)).shape == (1, 1, 64, 64, 2)


def test_depth_training_leaves_a_depth_estimator_that_can_be_checked(tmp_path, capsys):
    run(train_depth, tmp_path / "depth", "--max_steps", "2", "--frames", "2", "--variant", "judge")
    estimator = load_depth(str(tmp_path / "depth"))
    clips = read_clips([VALIDATION], 2)
    assert clips is not None
    figures = check_estimators.depth_figures(estimator, clips)
    assert set(figures) == {name for name, network in check_estimators.FIGURES.items() if network == "depth"}
    text = check_estimators.table({"mine": figures})
    assert "at most 0.05" in text
    assert "mask_iou" in text


def test_training_starts_from_exported_weights(tmp_path):
    options = train_depth.parse(["--output_dir", str(tmp_path / "first"), "--seed", "1"])
    first = Training(options, torch.nn.Linear(3, 2))
    first.ema.values["weight"].fill_(0.5)
    first.export({}, {})
    options = train_depth.parse(["--output_dir", str(tmp_path / "second"), "--start_from", str(tmp_path / "first")])
    second = Training(options, torch.nn.Linear(3, 2))
    assert (second.model.weight == 0.5).all() and (second.ema.values["weight"] == 0.5).all()
    second.export({}, {})
    assert json.loads((tmp_path / "second" / "training.json").read_text())["started_from"]["seed"] == 1


def test_depth_training_without_clips_says_so(tmp_path):
    with pytest.raises(ValueError, match="no clips in"):
        train_depth.main(["--output_dir", str(tmp_path), "--data", str(tmp_path), "--max_steps", "1"])


class Exact(torch.nn.Module):
    """A flow or depth estimator that knows the truth, off by a known part."""

    def __init__(self, truth, factor):
        super().__init__()
        self.truth, self.factor = truth, factor

    def forward(self, frames, camera=None):
        from reward_physics.estimators.depth import Depth

        if camera is None:
            return self.truth * self.factor
        truth = self.truth[:, : frames.shape[1]]
        logits = torch.where(truth < 3, 5.0, -5.0)
        return Depth(depth_BTHW=truth * self.factor, metric=True, mask_logits_BTHW=logits)


def test_figures_of_estimators_with_a_known_error(clips):
    flow = check_estimators.flow_figures(Exact(clips.flow_NSHW2.float(), 1.1), clips)  # type: ignore[arg-type]
    assert flow["flow_epe_moving_px"] == pytest.approx(0.2, rel=1e-3)
    assert flow["flow_object_bias"] == pytest.approx(0.1, rel=1e-3)
    assert flow["flow_object_bias_signed"] == pytest.approx(0.1, rel=1e-3)
    depth = check_estimators.depth_figures(Exact(clips.depth_NTHW.float(), 0.95), clips)  # type: ignore[arg-type]
    assert depth["depth_abs_rel"] == pytest.approx(0.05, rel=1e-3)
    assert depth["depth_object_bias"] == pytest.approx(0.05, rel=1e-3)
    assert depth["depth_object_bias_signed"] == pytest.approx(-0.05, rel=1e-3)
    assert depth["first_frame_distance_error"] == pytest.approx(0.05, rel=1e-3)
    assert depth["mask_iou"] == 1.0

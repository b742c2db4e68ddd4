"""Every attack on true clips: what it does to the picture, and that a guarded recipe is not beaten by it."""

import pytest
import torch

from data.rows import LIGHT_COLUMNS, collate, load_split, to_video
from reward_physics.figures.metrics import mask_centroid
from trainers.redteam.attacks import ATTACKS, adversarial_noise, apply
from trainers.redteam.cut import cut_out, recompose


@pytest.fixture(scope="module")
def batch():
    rows = load_split("validation", columns=LIGHT_COLUMNS)
    return collate([rows[0], rows[4]])


@pytest.fixture(scope="module")
def cut(batch):
    return cut_out(to_video(batch).frames_BTCHW, (batch["mask_BTHW"] == 1).float())


def attacked(name, cut, level=2):
    return apply(name, cut, level, torch.Generator().manual_seed(0))


def test_a_clip_put_together_again_is_itself(cut):
    change = (recompose(cut) - cut.frames_BTCHW).abs()
    assert (change > 0.05).float().mean() < 0.01, "the repaired rim of the object alone may differ"
    assert change.amax(2)[cut.mask_BTHW > 0].max() < 2e-3


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_changes_pixels_in_range_and_keeps_its_input_and_the_first_frame(name, cut):
    before = cut.frames_BTCHW.clone()
    size = []
    for level in range(3):
        frames = attacked(name, cut, level)
        assert frames.shape == before.shape and frames.min() >= 0 and frames.max() <= 1
        size.append((frames - before).abs().mean().item())
        if name != "reverse_time":
            assert torch.equal(frames[:, 0], before[:, 0])
        assert torch.equal(frames, attacked(name, cut, level))
    assert size[2] > 0 and (size[2] >= size[0] or name in ("edge", "reverse_time"))
    assert torch.equal(cut.frames_BTCHW, before)


def test_objects_go_where_the_attack_says(cut):
    frames = torch.zeros_like(cut.frames_BTCHW)
    frames[:, :, 0] = cut.mask_BTHW
    white = cut_out(frames, cut.mask_BTHW)
    slow = mask_centroid(attacked("slow_motion", white)[:, :, 0])
    time = 10 * 0.4
    expected = white.centroid_BT2[:, int(time)] * (1 - time % 1) + white.centroid_BT2[:, int(time) + 1] * (time % 1)
    torch.testing.assert_close(slow[:, 10], expected, atol=0.15, rtol=0)
    assert (attacked("vanish", white)[:, 1:, 0].sum() == 0).all()
    grown = attacked("grow", white)[:, 8, 0].sum((1, 2)) / cut.mask_BTHW[:, 8].sum((1, 2))
    assert ((grown > 1.3) & (grown < 2.6)).all()
    gone = attacked("edge", white)[:, -1, 0].sum((1, 2))
    assert (gone < 0.1 * cut.mask_BTHW[:, 0].sum((1, 2))).all()
    assert torch.equal(attacked("reverse_time", white)[:, -1], frames[:, 0])
    doubled = attacked("duplicate", white)[:, 1:, 0].sum((2, 3)) / cut.mask_BTHW[:, 1:].sum((2, 3)).clamp(min=1)
    assert (doubled.median(1).values > 1.7).all()


def test_an_unknown_attack_is_refused():
    with pytest.raises(ValueError, match="unknown attack 'freez'"):
        apply("freez", None, 0, torch.Generator())


def test_pumped_energy_rises_at_the_same_g_and_spares_what_never_lands(cut):
    v, pumped = cut.centroid_BT2[..., 1], _pump_centres(cut, 1.5)
    for clip in range(len(v)):
        changed = (pumped[clip] - v[clip]).abs() > 1e-3
        if not changed.any():
            continue
        low = int(changed.nonzero()[0])
        rise, fall = pumped[clip, low:], v[clip, :low]
        assert rise[0] - rise[1] > fall[-1] - fall[-2], "faster than it came"
        curves = [one.diff().diff().median().item() for one in (fall[-6:], rise[:6])]
        assert curves[1] == pytest.approx(curves[0], abs=0.35)


def _pump_centres(cut, factor):
    frames = torch.zeros_like(cut.frames_BTCHW)
    frames[:, :, 0] = cut.mask_BTHW
    return mask_centroid(ATTACKS["pump_energy"].make(cut_out(frames, cut.mask_BTHW), factor, None)[:, :, 0])[..., 1]


def test_adversarial_noise_stays_within_its_bound_and_raises_the_reward(cut):
    def reward(frames):
        return frames[:, 1:, 0].mean((1, 2, 3))

    def as_a_recipe(frames):
        assert frames.requires_grad, "a recipe that is asked for its gradient refuses frames without one"
        return reward(frames)

    frames = adversarial_noise(cut.frames_BTCHW, as_a_recipe, bound=8 / 255, steps=4)
    assert (frames - cut.frames_BTCHW).abs().max() <= 8 / 255 + 1e-6
    assert torch.equal(frames[:, 0], cut.frames_BTCHW[:, 0])
    assert (reward(frames) > reward(cut.frames_BTCHW) + 0.015).all()
    same = adversarial_noise(cut.frames_BTCHW, lambda frames: -(frames - cut.frames_BTCHW).square().sum((1, 2, 3, 4)))
    assert torch.equal(same, cut.frames_BTCHW), "where nothing can be gained, nothing is changed"

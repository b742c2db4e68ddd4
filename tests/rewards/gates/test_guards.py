"""Gates and guards of the picture: open for a true fall, shut for what each of them is there to catch."""

import dataclasses

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from rewards.gates.background import background
from rewards.gates.continuity import continuity
from rewards.gates.first_frame import first_frame
from rewards.gates.motion_gate import motion_gate
from rewards.gates.observability_gate import observability_gate, perspective
from rewards.gates.own_colours import own_colours
from rewards.gates.registration import registration
from rewards.gates.saturation import saturation
from rewards.gates.sharpness import sharpness
from rewards.gates.steadiness import steadiness

FALL = make_world(free_fall(frames=8))
FRAMES = FALL.video.frames_BTCHW
GUARDS = [motion_gate, continuity, observability_gate, own_colours, sharpness, saturation, background, registration]


def observe(frames, grad=False, world=FALL):
    return Observation(world.video.with_frames(frames), world.instruments(), grad=grad)


def score(guard, frames, world=FALL, **parameters):
    return guard(observe(frames, world=world), **parameters).item()


@pytest.mark.parametrize("guard", GUARDS)
def test_a_true_fall_passes(guard):
    assert score(guard, FRAMES) > {"sharpness": 0.85, "own_colours": 0.97}.get(guard.__name__, 0.99)


@pytest.mark.parametrize("guard", [*GUARDS, lambda seen: first_frame(seen, reference_BTCHW=FRAMES)])
def test_gradients_are_finite_also_for_a_frozen_and_an_empty_clip(guard):
    gone = make_world(free_fall(frames=8, start_m=(9.0, 4.0, 1.7))).video.frames_BTCHW
    for frames in (FRAMES, FRAMES[:, :1].expand_as(FRAMES), gone):
        leaf = frames.clone().requires_grad_()
        value = guard(observe(leaf, grad=True))
        (gradient,) = torch.autograd.grad(torch.where(value.isnan(), 0.0, value).sum(), leaf, allow_unused=True)
        assert gradient is None or gradient.isfinite().all()


def test_motion_gate_shuts_on_a_frozen_clip_and_opens_with_the_way():
    frozen = FRAMES[:, :1].expand_as(FRAMES)
    assert score(motion_gate, frozen) == pytest.approx(0.1, abs=0.01)
    assert score(motion_gate, frozen, closed=0.0) == pytest.approx(0.0, abs=0.01)
    # 0.4 m wide, and half of that in steady motion: half of a diameter.
    steady = make_world(free_fall(frames=9, g_m_s2=0.0, start_m=(0.0, 4.0, 1.0), velocity_m_s=(0.2, 0.0, 0.0)))
    way = score(motion_gate, steady.video.frames_BTCHW, steady, closed=0.0, least_diameters=1.0)
    assert way == pytest.approx(0.1 / 0.4 * (10 / 8) ** 0.5, rel=0.1)
    gone = make_world(free_fall(frames=8, start_m=(9.0, 4.0, 1.7)))
    assert motion_gate(Observation(gone.video, gone.instruments(), grad=False)).isnan().all()


def test_observability_gate_shuts_when_the_object_goes_swells_or_doubles():
    empty = make_world(free_fall(frames=8, start_m=(9.0, 4.0, 1.7))).video.frames_BTCHW
    vanished = torch.cat((FRAMES[:, :4], empty[:, 4:]), 1)
    assert score(observability_gate, vanished, enough=1.0) == pytest.approx(0.5, abs=0.02)
    assert score(observability_gate, torch.cat((FRAMES[:, :1], empty[:, 1:]), 1)) < 0.2
    other = make_world(free_fall(frames=8, start_m=(0.9, 4.0, 1.7))).video.frames_BTCHW
    double = torch.maximum(FRAMES, other)
    double = torch.cat((FRAMES[:, :1], double[:, 1:]), 1)
    assert score(observability_gate, double, enough=1.0) < 0.65
    faded = torch.cat((FRAMES[:, :1], 0.5 * FRAMES[:, 1:] + 0.5 * empty[:, 1:]), 1)
    assert score(observability_gate, faded, enough=1.0) == pytest.approx(1 / 8 + 7 / 16, abs=0.05)


def test_own_colours_see_what_a_segmenter_takes_for_the_whole_body():
    empty = make_world(free_fall(frames=8, start_m=(9.0, 4.0, 1.7))).video.frames_BTCHW
    faded = torch.cat((FRAMES[:, :1], 0.4 * FRAMES[:, 1:] + 0.6 * empty[:, 1:]), 1)
    seen = observe(faded)
    seen.__dict__["mask_BTHW"] = observe(FRAMES).mask_BTHW
    assert observability_gate(seen, enough=1.0).item() > 0.95, "the segmenter still sees all of it"
    assert own_colours(seen).item() < 0.7
    with pytest.raises(ValueError, match=r"^own_colours: .*give first_mask_BHW"):
        own_colours(Observation(dataclasses.replace(FALL.video, first_mask_BHW=None), FALL.instruments(), grad=False))


def test_sharpness_loses_by_blur_and_by_painted_texture(generator):
    blurred = torch.nn.functional.avg_pool2d(FRAMES[0], 5, 1, 2, count_include_pad=False)[None]
    assert score(sharpness, torch.cat((FRAMES[:, :1], blurred[:, 1:]), 1)) < 0.75 * score(sharpness, FRAMES)
    noisy = (FRAMES + 0.3 * torch.randn(FRAMES.shape, generator=generator)).clamp(0, 1)
    assert score(sharpness, torch.cat((FRAMES[:, :1], noisy[:, 1:]), 1)) < 0.75 * score(sharpness, FRAMES)
    assert score(sharpness, FRAMES, enough=0.5) == 1.0


def test_sharpness_allows_a_little_more_of_it():
    sharper = (FRAMES + 0.6 * (FRAMES - torch.nn.functional.avg_pool2d(FRAMES[0], 3, 1, 1)[None])).clamp(0, 1)
    sharper = torch.cat((FRAMES[:, :1], sharper[:, 1:]), 1)
    assert score(sharpness, sharper, allowed=2.0) > score(sharpness, sharper) + 0.05
    blurred = torch.nn.functional.avg_pool2d(FRAMES[0], 5, 1, 2, count_include_pad=False)[None]
    blurred = torch.cat((FRAMES[:, :1], blurred[:, 1:]), 1)
    assert score(sharpness, blurred, allowed=2.0) == score(sharpness, blurred)


def test_continuity_is_open_for_bounces_and_shuts_on_a_jump():
    bounce = make_world(free_fall(frames=12, floor_m=0.4, restitution=0.9))
    assert score(continuity, bounce.video.frames_BTCHW, bounce) > 0.9
    centres = free_fall(frames=8)
    centres[:, 4:, 0] += 0.8
    assert score(continuity, make_world(centres).video.frames_BTCHW) < 0.1
    assert continuity(observe(FRAMES[:, :2])).isnan().all(), "too short to say"


def test_perspective_tells_how_large_a_body_looks_off_the_axis():
    centres = free_fall(frames=7, start_m=(0.0, 4.0, 1.2))
    world = make_world(centres, pitch_deg=20.0, camera_height_m=1.5)
    seen = Observation(world.video, world.instruments(), grad=False)
    camera_centre = torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64)
    _, depth = world.camera.project(centres)
    expected = (centres - camera_centre).norm(dim=-1) / depth**3
    torch.testing.assert_close(
        perspective(seen, seen.image_track).double(), expected / expected[:, :1], rtol=0.02, atol=0
    )


def test_saturation_loses_by_overexposure():
    assert score(saturation, torch.cat((FRAMES[:, :1], (3 * FRAMES[:, 1:]).clamp(0, 1)), 1)) < 0.05
    assert score(saturation, torch.cat((FRAMES[:, :1], FRAMES[:, 1:] * 0), 1)) < 0.05
    assert score(saturation, (3 * FRAMES).clamp(0, 1)) > 0.9, "what is so from the first frame on is the scene's own"


def test_background_loses_by_drift_by_flicker_and_by_a_shaking_camera(generator):
    drift = FRAMES + torch.linspace(0, 0.3, 8).view(1, 8, 1, 1, 1)
    flicker = FRAMES + 0.1 * torch.tensor([0.0, 1.0]).repeat(4).view(1, 8, 1, 1, 1)
    shaken = torch.stack(
        [frame.roll(int(step), -1) for step, frame in zip([0, 2, -1, 3, 0, -2, 1, 2], FRAMES[0], strict=True)]
    )
    assert score(background, drift) < 0.3
    assert score(background, flicker) < 0.1
    assert score(background, flicker, flicker_tolerance=1e3) > 0.5
    assert score(background, shaken[None]) < 0.1


def test_registration_loses_by_a_shift_a_gain_and_a_blur_and_lets_a_shadow_pass(generator):
    v, u = torch.meshgrid(torch.arange(FRAMES.shape[-2]), torch.arange(FRAMES.shape[-1]), indexing="ij")
    seen = make_world(free_fall(frames=8)).instruments()
    floor = 0.5 + 0.1 * (((u // 5) + (v // 5)) % 2).float()
    mask = Observation(FALL.video, seen, grad=False).mask_BTHW[:, :, None]
    still = mask * FRAMES + (1 - mask) * floor

    def changed(background, first=still[:, :1]):
        return torch.cat((first, mask[:, 1:] * FRAMES[:, 1:] + (1 - mask[:, 1:]) * background), 1).clamp(0, 1)

    def judged(frames):
        return registration(FoundMask(frames, mask[:, :, 0])).item()

    half = 0.5 * (floor + floor.roll(1, -1))
    soft = torch.nn.functional.avg_pool2d(floor[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    shadow = torch.where((u - 12) ** 2 + (v - 50) ** 2 < 25, 0.4 * floor, floor)
    assert judged(still) == pytest.approx(1.0) and judged(changed(shadow)) > 0.98
    assert judged(changed(floor.roll(1, -1))) < judged(changed(half)) < 0.9
    assert judged(changed(1.1 * floor)) < 0.1 and judged(changed(soft)) < 0.3
    assert judged(changed(floor + 0.01 * torch.randn(floor.shape, generator=generator))) > 0.95


def test_steadiness_lets_a_vortex_and_a_pan_pass_and_shuts_on_a_shake(generator):
    pairs = FRAMES.shape[1] - 1
    v, u = torch.meshgrid(torch.arange(64) - 32.0, torch.arange(64) - 32.0, indexing="ij")
    vortex = 0.05 * torch.stack((-v, u), -1).expand(1, pairs, -1, -1, -1)

    def judged(flow, **parameters):
        return steadiness(Observation(FALL.video, Instruments(mask="appearance", flow=flow), grad=False), **parameters)

    def plus(shift_S2):
        return judged(lambda *_, **__: vortex + shift_S2[None, :, None, None]).item()

    assert plus(torch.zeros(pairs, 2)) == 1.0
    assert plus(torch.tensor([1.0, 0.5]).expand(pairs, -1)) == pytest.approx(1.0), "an even pan"
    shake = 0.64 * torch.randn(pairs + 1, 2, generator=generator).diff(dim=0)
    assert plus(shake) < plus(0.3 * shake) < 0.9 and plus(shake) < 0.05
    with pytest.raises(ValueError, match="steadiness needs optical flow"):
        judged(None)
    with pytest.raises(ValueError, match="steadiness: jerk_px must be > 0, got 0"):
        judged(lambda *_, **__: vortex, jerk_px=0)


@dataclasses.dataclass
class FoundMask:
    """As much of an observation as the guards of the background ask for."""

    frames: torch.Tensor
    mask_BTHW: torch.Tensor

    @property
    def video(self):
        return FALL.video.with_frames(self.frames)


def test_two_bodies_are_judged_by_themselves():
    first, second = free_fall(frames=8, start_m=(-0.6, 4.0, 1.7)), free_fall(frames=8, start_m=(0.6, 4.0, 1.7))
    jumps = second.clone()
    jumps[:, 4:, 0] -= 0.8
    for later, least in ((second, 0.9), (jumps, 0.0)):
        masks = [make_world(one).video.first_mask_BHW for one in (first, second)]
        frames = two_discs(make_world(first).video.frames_BTCHW, make_world(later).video.frames_BTCHW)
        video = dataclasses.replace(FALL.video.with_frames(frames), first_mask_BHW=masks[0])
        video = dataclasses.replace(video, object_masks_BNHW=torch.stack(masks, 1))
        gate = continuity(Observation(video, Instruments(mask="appearance"), grad=False)).item()
        assert (gate > 0.9) if least else (gate < 0.3)


def test_what_one_body_lacks_no_other_fills_up():
    t = torch.linspace(0, 1, 16)
    small, large = 1 - 0.5 * t, 1 + 0.4 * t
    v, u = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(80) + 0.5, indexing="ij")

    def drawn(scale_T, at):
        return (7 * scale_T[:, None, None] + 0.5 - torch.hypot(u - at, v - 20)).clamp(0, 1)

    def gate(*scales, guard=observability_gate):
        masks = [drawn(scale, at) for scale, at in zip(scales, (22, 58), strict=True)]
        colours = (torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.9]))
        frames = torch.full((16, 3, 40, 80), 0.5)
        for mask, colour in zip(masks, colours, strict=True):
            frames = frames * (1 - mask[:, None]) + mask[:, None] * colour.view(3, 1, 1)
        first = torch.stack([(mask[0] > 0.5).float() for mask in masks])
        video = Video.make(frames[None], 24, first_mask_BHW=first.amax(0)[None])
        video = dataclasses.replace(video, object_masks_BNHW=first[None])
        return guard(Observation(video, Instruments(mask="appearance"), grad=False), enough=0.9).item()

    ones = torch.ones(16)
    assert gate(ones, ones) == 1.0
    assert gate(small, large) < gate(small, ones) < 0.8 and gate(small, large) < gate(ones, large) < 0.9
    assert gate(ones, ones, guard=own_colours) == 1.0
    assert gate(small, large, guard=own_colours) < min(
        gate(*some, guard=own_colours) for some in ((small, ones), (ones, large))
    )
    assert gate(small, ones, guard=own_colours) < 0.8 and gate(ones, large, guard=own_colours) < 0.9


def two_discs(one, other):
    """Both discs in one picture, the second's red and blue exchanged."""
    empty = make_world(free_fall(frames=8, start_m=(9.0, 4.0, 1.7))).video.frames_BTCHW
    away = (other - empty).abs().amax(2, keepdim=True) > 0.02
    return torch.where(away, other.flip(2), one)


def test_first_frame_fidelity():
    other = FRAMES + torch.tensor(0.05)
    assert score(first_frame, FRAMES, reference_BTCHW=FRAMES) == 1.0
    assert score(first_frame, other, reference_BTCHW=FRAMES) == pytest.approx(0.3679, abs=1e-3)
    big = FRAMES.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert score(first_frame, FRAMES, reference_BTCHW=big) > 0.8
    with pytest.raises(ValueError, match="reference_BTCHW must hold 1 clips of at least 1 frames"):
        score(first_frame, FRAMES, reference_BTCHW=FRAMES.expand(2, -1, -1, -1, -1))


@pytest.mark.parametrize(
    ("guard", "parameters"),
    [
        (motion_gate, {"least_diameters": 0}),
        (motion_gate, {"closed": 1}),
        (observability_gate, {"enough": 0}),
        (own_colours, {"reach": 1}),
        (sharpness, {"enough": 2}),
        (sharpness, {"allowed": 0.5}),
        (continuity, {"tolerance": 0}),
        (saturation, {"tolerance": 0}),
        (background, {"margin_px": -1}),
        (registration, {"shift_px": 0}),
        (first_frame, {"tolerance": 0, "reference_BTCHW": FRAMES}),
    ],
)
def test_settings_out_of_range_name_the_reward(guard, parameters):
    with pytest.raises(ValueError, match=f"^{guard.__name__}: "):
        score(guard, FRAMES, **parameters)

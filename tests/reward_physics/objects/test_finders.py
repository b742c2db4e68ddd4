"""Finders: each says what it is and needs, reads no more than that, and one of one's own needs no other change."""

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.objects.finder import Finder, Found, Measurements, Places
from reward_physics.objects.finders import FINDERS, finder_of
from reward_physics.objects.masks import by_appearance
from reward_physics.objects.probed import Probed
from reward_physics.observation import Instruments, Observation

WORLD = make_world(free_fall(frames=9))


def settings_for(name: str) -> Instruments:
    return dataclasses.replace(WORLD.instruments(flow=True), mask=name)


@pytest.mark.parametrize(
    ("name", "needs_first_mask", "words"),
    [
        ("segmenter", False, "from the depth network"),
        ("propagated", True, "carried by the flow"),
        ("appearance", True, "by the colours of the first frame"),
        ("motion", False, "what moves against the background"),
    ],
)
def test_every_finder_says_what_it_is_and_whether_it_needs_a_first_mask(name, needs_first_mask, words):
    finder = FINDERS[name]
    assert finder.name == name and words in finder.description
    assert finder.needs_first_mask == needs_first_mask
    video = dataclasses.replace(WORLD.video, first_mask_BHW=None)
    if needs_first_mask:
        with pytest.raises(ValueError, match=f"mask '{name}' needs the object's mask in the first frame"):
            Observation(video, settings_for(name), grad=False)
    else:
        assert Observation(video, settings_for(name), grad=False).mask_BTHW.shape == WORLD.masks_BTHW.shape


def test_every_name_is_in_this_test_and_in_order():
    assert list(FINDERS) == ["segmenter", "propagated", "appearance", "motion"]


@pytest.mark.parametrize("name", list(FINDERS))
def test_a_finder_reads_only_the_measurements_that_it_names(name):
    finder, observation = FINDERS[name], Observation(WORLD.video, settings_for(name), grad=False)
    clips = SimpleNamespace(
        frames_BTCHW=WORLD.video.frames_BTCHW, first_mask_BHW=WORLD.video.first_mask_BHW, batch_size=1
    )
    seen = SimpleNamespace(video=clips, **{need: getattr(observation, need) for need in finder.needs})
    found = finder.find(seen)
    torch.testing.assert_close(found.mask_BTHW, observation.mask_BTHW)
    assert found.reasons == [None]


@pytest.mark.parametrize("name", list(FINDERS))
def test_every_finder_finds_the_disc(name):
    observation = Observation(WORLD.video, settings_for(name), grad=False)
    uv, _ = WORLD.camera.project(WORLD.centres_BT3)
    apart = (observation.image_track.centroid_BT2 - uv).norm(dim=-1)
    assert apart.max() < 1.0


def test_a_name_or_a_finder_is_taken_and_nothing_else():
    assert finder_of("motion") is FINDERS["motion"]
    own = Probed()
    assert finder_of(own) is own
    with pytest.raises(ValueError, match="mask must be one of segmenter, propagated, appearance, motion, got 'sam'"):
        finder_of("sam")


class Red(Finder):
    """A finder of one's own: what is red, followed by windows of its own."""

    name = "red"
    description = "what is red"

    def find(self, seen: Measurements) -> Found:
        frames = seen.video.frames_BTCHW
        mask = (3 * (frames[:, :, 0] - frames[:, :, 1]) - 1).clamp(0, 1)
        batch, count = mask.shape[:2]
        places = Places(
            window_BTHW=torch.ones_like(mask),
            centre_BT2=torch.zeros(batch, count, 2),
            radius_B=torch.ones(batch),
            present_BT=torch.ones(batch, count, dtype=torch.bool),
        )
        return Found(mask_BTHW=mask, reasons=["a reason of its own"] * batch, places=places)


def test_a_finder_of_one_s_own_is_an_instrument():
    instruments = dataclasses.replace(settings_for("segmenter"), mask=Red())
    observation = Observation(dataclasses.replace(WORLD.video, first_mask_BHW=None), instruments, grad=False)
    assert observation.mask_BTHW.amax() == 1
    assert observation.image_track.window_BTHW.min() == 1
    assert observation.reasons == ["a reason of its own"]
    assert observation.objects == [observation]


def test_objects_with_known_first_masks_are_shared_out_by_default():
    first_BNHW = WORLD.video.first_mask_BHW[:, None].repeat(1, 2, 1, 1)
    first_BNHW[:, 1] = 0
    video = dataclasses.replace(WORLD.video, object_masks_BNHW=first_BNHW)
    instruments = dataclasses.replace(settings_for("segmenter"), mask=Red())
    known = Observation(video, instruments, grad=False).known_objects
    assert [found.reasons for found in known] == [[None], ["this clip has fewer objects"]]
    torch.testing.assert_close(
        known[0].mask_BTHW + known[1].mask_BTHW, by_appearance(video.frames_BTCHW, first_BNHW.amax(1))
    )


def test_no_code_asks_which_way_was_chosen(root):
    """A way of finding is a class of `Finder`: nothing compares `mask` with the name of one."""
    compared = re.compile(r"mask (==|!=|in|not in)")
    lines = [
        f"{path.relative_to(root)}: {line.strip()}"
        for package in ("reward_physics", "rewards")
        for path in sorted((root / package).rglob("*.py"))
        for line in path.read_text().splitlines()
        if compared.search(line)
    ]
    assert not lines, "ask the finder, or choose other words: " + "; ".join(lines)

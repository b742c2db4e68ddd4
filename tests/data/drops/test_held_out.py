"""Held out means held out: no scene that judges, nor a neighbour of one, is in any split that anything learns from.

The margin, of the ranges and so of any number of clips: a held-out scene has a shape that no other split draws, a hue
at least 0.03 of the colour circle away from every other (both ways round), a camera at least as far as the farthest of
the training ranges, and a release at least as high as the highest of them, but for `tall`, whose first frames show
releases at least 0.05 m higher than any held-out one. `validation`, on which settings are chosen, shares
the training ranges: its scenes are others, by their seeds.
"""

import colorsys
import itertools
import json
from pathlib import Path

import pytest

from data.drops.ranges import SPLIT_SEEDS, SPLITS
from data.drops.scenes import Scene, draw_scene
from data.rows import SHIPPED, load_split
from data.write import split_name

HUE_MARGIN = 0.03
HEIGHT_MARGIN_M = 0.05
LEARNED_FROM = ("train", "varied", "practice", "tall")
DRAWN = 300


def hues(scene: Scene) -> list[float]:
    return [colorsys.rgb_to_hsv(*body.colour)[0] for body in scene.bodies]


def hue_distance(one: float, other: float) -> float:
    """Around the circle."""
    away = abs(one - other) % 1
    return min(away, 1 - away)


def drawn(split: str) -> list[Scene]:
    return [draw_scene(SPLIT_SEEDS[split] + index, SPLITS[split]) for index in range(DRAWN)]


def shipped(split: str) -> list[Scene]:
    return [Scene.from_json(str(text)) for text in load_split(split, columns=["scene"])["scene"]]


@pytest.mark.parametrize("learned_from", LEARNED_FROM)
def test_the_ranges_keep_the_margin(learned_from):
    judged, learned = SPLITS["heldout"], SPLITS[learned_from]
    assert not set(judged.shapes) & set(learned.shapes)
    higher = learned.height_m[0] - judged.height_m[1] >= HEIGHT_MARGIN_M - 1e-9
    assert judged.height_m[0] >= learned.height_m[1] or (higher and learned_from == "tall")
    assert judged.distance_m[0] >= learned.distance_m[1]
    around = [hue_distance(a, b) for a in judged.hue for b in learned.hue]
    assert min(around) >= HUE_MARGIN - 1e-9
    low, high = judged.hue
    assert not any(low <= hue <= high for hue in learned.hue)


def test_scenes_keep_the_margin_one_by_one():
    """Drawn and shipped held-out scenes against drawn and shipped training ones."""
    learned = [scene for split in LEARNED_FROM for scene in drawn(split)] + [
        scene for split in ("train", "practice", "tall") for scene in shipped(split)
    ]
    known = {body.shape for scene in learned for body in scene.bodies}
    learned_hues = sorted(hue for scene in learned for hue in hues(scene))
    for scene in drawn("heldout") + shipped("heldout"):
        assert not known & {body.shape for body in scene.bodies}
        for hue in hues(scene):
            assert min(hue_distance(hue, other) for other in learned_hues) >= HUE_MARGIN - 0.002  # colours are rounded
        if scene.release_height_m:
            for other in learned:
                away = other.release_height_m - scene.release_height_m
                assert away <= 0 or away >= HEIGHT_MARGIN_M
        assert scene.distance_m >= max(other.distance_m for other in learned)


def test_no_split_shares_a_seed_with_another_even_after_ten_million_clips():
    starts = sorted(SPLIT_SEEDS.values())
    assert len(SPLIT_SEEDS) == len(SPLITS) == 6
    assert all(later - earlier >= 10_000_000 for earlier, later in itertools.pairwise(starts))


def test_no_shipped_evaluation_scene_is_a_training_scene_under_another_gravity():
    """Clips of true gravity (`train-g9.81`) show the training scenes: g and the seed's name aside, all must differ."""

    def bare(scene: Scene) -> str:
        return json.dumps(json.loads(scene.with_gravity(1.0).to_json()) | {"seed": 0}, sort_keys=True)

    learned = {bare(scene) for split in ("train", "practice", "tall") for scene in shipped(split)}
    assert bare(shipped("train")[0].with_gravity(9.81)) in learned
    judged = [bare(scene) for split in ("validation", "heldout") for scene in shipped(split)]
    assert len(judged) == len(set(judged))
    assert not learned & set(judged)


def test_every_shipped_split_is_accounted_for():
    """A new split must be named above as one that teaches or one that judges."""
    assert {path.name for path in Path(SHIPPED).iterdir() if path.is_dir()} <= {*LEARNED_FROM, "validation", "heldout"}
    assert split_name("train", 9.81) not in SPLITS


def test_shipped_configs_learn_from_training_splits_only():
    configs = [path.read_text() for path in (Path(__file__).resolve().parents[3] / "configs").glob("*.yaml")]
    splits = [line.split()[1] for text in configs for line in text.splitlines() if line.startswith("split:")]
    assert splits
    known = ("train", "practice", "tall")
    assert {part for split in splits for part in split.split("+")} <= {*known, *(f"{name}-g9.81" for name in known)}

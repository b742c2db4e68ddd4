"""Advantages belong to the gathered group: no cut of it into batches, processes or parts changes them."""

import random

import pytest
import torch

from reward_physics.observation import Instruments
from reward_physics.video import Video
from rewards.recipe.recipe import Recipe, RecipeConfig
from trainers.learning.advantages import reward_weights
from trainers.learning.scoring import joined, score
from trainers.rounds.sampling import priced_in_groups
from trainers.settings.regression import Weighting

REWARDS = """
import torch

def one(observation, one_B):
    return one_B

def other(observation, other_B):
    return other_B

def dim(observation, gate_B):
    return gate_B
"""
WAYS = {
    "worst": {"unmeasurable": "worst"},
    "number": {"unmeasurable": -1.0},
    "spread": {"unmeasurable": "worst", "aggregation": "normalised_sum"},
    "gated": {"unmeasurable": "worst", "gates": [{"name": "mine.py:dim"}], "aggregation": "normalised_sum"},
}
SAMPLES, GROUPS = 8, 3


@pytest.fixture
def clips():
    draw = torch.Generator().manual_seed(2)
    count = SAMPLES * GROUPS
    columns = {name: torch.randn(count, generator=draw) * 2 - 3 for name in ("one_B", "other_B")}
    columns["gate_B"] = torch.rand(count, generator=draw)
    columns["one_B"][torch.tensor([1, 5, 9])] = float("nan")
    columns["other_B"][16:] = float("nan")  # nobody could measure the last group
    return Video.make(torch.rand(count, 2, 3, 8, 8, generator=draw), 16.0), columns


@pytest.mark.parametrize("way", list(WAYS))
def test_every_cut_of_a_round_gives_the_same_advantages(way, tmp_path, clips):
    (tmp_path / "mine.py").write_text(REWARDS)
    rewards = [{"name": "mine.py:one", "weight": 2.0}, {"name": "mine.py:other"}]
    config = RecipeConfig.model_validate({"rewards": rewards, "visibility_weight": 0.0} | WAYS[way])
    recipe = Recipe(config, Instruments(depth=lambda frames, camera: None, mask="segmenter"), base=tmp_path)
    video, columns = clips
    count = video.batch_size

    def rewards_of(cuts):
        ends = [*cuts, count]
        parts = [slice(start, end) for start, end in zip([0, *cuts], ends, strict=True)]
        scored = [score(recipe, video[part], {name: one[part] for name, one in columns.items()})[0] for part in parts]
        return priced_in_groups(recipe, joined(scored), SAMPLES)

    def advantages(scored, how):
        groups = scored.reward_B.view(-1, SAMPLES), scored.measurable_B.view(-1, SAMPLES)
        return reward_weights(*groups, how).weight_GN

    expected = rewards_of([])
    for seed in range(12):
        cuts = sorted(random.Random(seed).sample(range(1, count), seed + 1))
        found = rewards_of(cuts)
        torch.testing.assert_close(found.reward_B, expected.reward_B, rtol=1e-6, atol=1e-6)
        for how in (Weighting(signed=True), Weighting(absolute_scale=0.0)):
            torch.testing.assert_close(advantages(found, how), advantages(expected, how), rtol=1e-6, atol=1e-6)
    signed = advantages(expected, Weighting(signed=True))
    assert signed[2].tolist() == [0.0] * SAMPLES
    hidden = expected.measurable_B.view(-1, SAMPLES) == 0
    for group in range(2):
        assert signed[group][hidden[group]].max() <= signed[group][~hidden[group]].min()

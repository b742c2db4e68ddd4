"""Scores beside sampled clips: from the scenes that they start from, gone on where they stopped."""

import json
import math

import pytest
import torch

from data.rows import load_split
from reward_physics.observation import Instruments
from rewards.recipe.recipe import Recipe, RecipeConfig
from trainers.clips.folder import ClipFolder, Sample
from trainers.clips.scored import ScoredClips
from trainers.score_clips import ScoreClipsConfig, score_folder


@pytest.fixture
def sampled(toy_world, tmp_path):
    """Two seeds of three scenes of the toy world; clip k has brightness k / 10."""
    rows = [load_split("train", toy_world / "clips")[i] for i in range(3)]
    folder = ClipFolder(tmp_path / "samples", {"made": "by hand"})
    for k, (row, seed) in enumerate((row, seed) for row in rows for seed in (0, 1)):
        sample = Sample(
            name=f"{row['id']}-{seed}", prompt=str(row["caption"]), seed=seed, fps=16.0, scene=str(row["id"])
        )
        folder.write(sample, torch.full((9, 3, 32, 32), k / 10))
    return {"clips": str(folder.folder), "dataset": str(toy_world / "clips"), "batch_size": 4}


class Counting:
    """Brightness by the toy's recipe; the camera must be there, and clips are counted."""

    def __init__(self, recipe):
        self.recipe, self.seen = recipe, 0

    def score(self, video, columns, grad):
        assert video.camera is not None and len(columns["g_m_s2_B"]) == video.batch_size
        self.seen += video.batch_size
        return self.recipe.score(video, columns, grad)


def test_scores_are_written_beside_the_clips_and_read_in_groups(sampled, brightness):
    rewards = score_folder(ScoreClipsConfig(**sampled), recipe=brightness())
    assert list(rewards.values()) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=0.002)
    scored = ScoredClips([sampled["clips"]])
    torch.testing.assert_close(scored.reward_GN, torch.tensor([[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]]), atol=2e-3, rtol=0)


def test_what_has_a_score_is_not_scored_again(sampled, brightness):
    recipe = Counting(brightness())
    score_folder(ScoreClipsConfig(**sampled), recipe=recipe)
    score_folder(ScoreClipsConfig(**sampled), recipe=recipe)
    assert recipe.seen == 6
    score_folder(ScoreClipsConfig(**sampled, rescore=True), recipe=recipe)
    assert recipe.seen == 12


def test_what_cannot_be_measured_has_no_number(sampled, brightness, tmp_path):
    rewards = score_folder(ScoreClipsConfig(**sampled), recipe=brightness(blind=[1]))
    assert [math.isnan(reward) for reward in rewards.values()] == [False, True, False, False, False, True]
    lines = [json.loads(line) for line in (tmp_path / "samples" / "rewards.jsonl").read_text().splitlines()]
    assert lines[1] == {"name": "train-0-1", "reward": None, "measurable": False}


def test_clips_of_other_scenes_are_refused(sampled, brightness, tmp_path):
    with pytest.raises(ValueError, match="which split validation does not hold: name the split"):
        score_folder(ScoreClipsConfig(**sampled | {"split": "validation"}), recipe=brightness())
    with pytest.raises(ValueError, match="holds no clips"):
        score_folder(ScoreClipsConfig(**sampled | {"clips": str(tmp_path / "empty")}), recipe=brightness())


def test_clips_are_measured_at_the_rate_that_they_were_made_at(toy_world, brightness, tmp_path):
    row = load_split("train", toy_world / "clips")[0]
    folder = ClipFolder(tmp_path / "slow", {"made": "by hand"})
    name, scene = f"{row['id']}-0", str(row["id"])
    folder.write(Sample(name=name, prompt=str(row["caption"]), seed=0, fps=8.0, scene=scene), torch.zeros(5, 3, 32, 32))
    seen = []

    class Rates(Counting):
        def score(self, video, columns, grad):
            seen.append((video.fps_B.tolist(), columns["reference_BTCHW"].shape[1]))
            return super().score(video, columns, grad)

    clips = ScoreClipsConfig(clips=str(folder.folder), dataset=str(toy_world / "clips"))
    score_folder(clips, recipe=Rates(brightness()))
    assert seen == [([8.0], 5)]


def test_a_spread_is_that_of_a_scenes_clips_whatever_the_batches(sampled, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def bright(observation):\n    return observation.video.frames_BTCHW.mean((1, 2, 3, 4))\n"
    )
    config = RecipeConfig.model_validate({"rewards": [{"name": "mine.py:bright"}], "aggregation": "normalised_sum"})
    recipe = Recipe(config, Instruments(mask="motion"), base=tmp_path)
    expected = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]  # k / 10 over the spread 0.05 of two clips that are 0.1 apart
    found = []
    for size in (1, 3, 4, 6):
        settings = sampled | {"batch_size": size, "rescore": True}
        rewards = score_folder(ScoreClipsConfig(**settings), recipe=recipe)
        assert [rewards[f"train-{scene}-{seed}"] for scene in range(3) for seed in (0, 1)] == pytest.approx(
            expected, abs=0.3
        )
        found.append(rewards)
    assert all(rewards == pytest.approx(found[0]) for rewards in found)


REWARD = """
import torch
def bright(observation):
    return observation.video.frames_BTCHW.mean(dim=(1, 2, 3, 4))
def wanted(observation, *, target_B):
    return target_B
"""


def own_recipe(folder, reward="bright", instruments="flow: null, depth: null, mask: motion"):
    (folder / "bright.py").write_text(REWARD)
    path = folder / f"{reward}.yaml"
    path.write_text(f"instruments: {{{instruments}}}\nrewards:\n  - {{name: 'bright.py:{reward}'}}\n")
    return str(path)


def test_clips_of_ones_own_prompt_need_no_row(tmp_path):
    folder = ClipFolder(tmp_path / "own", {"image_conditioning": False})
    for seed in (0, 1):
        clip = Sample(name=f"clip-{seed}", prompt="a red ball", seed=seed, fps=16.0)
        folder.write(clip, torch.full((9, 3, 32, 32), seed / 10))
    asked = {"clips": str(folder.folder)}
    rewards = score_folder(ScoreClipsConfig(**asked, recipe=own_recipe(tmp_path)))
    assert list(rewards.values()) == pytest.approx([0.0, 0.1], abs=0.002)
    for recipe, said in [
        (own_recipe(tmp_path, "wanted"), "wanted needs the column target_B"),
        ("configs/recipes/judge_scene.yaml", "first frame.*mask: appearance.*gravity needs metres"),
    ]:
        with pytest.raises(ValueError, match=said):
            score_folder(ScoreClipsConfig(**asked, recipe=recipe, rescore=True))
    assert list(score_folder(ScoreClipsConfig(**asked, recipe=own_recipe(tmp_path))).values()) == list(rewards.values())


def test_scores_of_another_recipe_are_not_mixed(sampled, tmp_path):
    path = own_recipe(tmp_path)
    score_folder(ScoreClipsConfig(**sampled, recipe=path))
    (tmp_path / "bright.yaml").write_text((tmp_path / "bright.yaml").read_text() + "unmeasurable: -5\n")
    with pytest.raises(ValueError, match=r"scores by another recipe .*: set rescore"):
        score_folder(ScoreClipsConfig(**sampled, recipe=path))
    assert len(score_folder(ScoreClipsConfig(**sampled, recipe=path, rescore=True))) == 6


def test_a_scene_of_another_split_under_the_same_name_is_refused(sampled, brightness, tmp_path):
    lines = tmp_path / "samples" / "samples.jsonl"
    lines.write_text(lines.read_text().replace('"source": ""', '"source": "0123456789abcdef"'))
    with pytest.raises(ValueError, match="clip of another scene train-0 than split train holds"):
        score_folder(ScoreClipsConfig(**sampled), recipe=brightness())


def test_text_to_video_is_shown_nothing_of_the_row(sampled, tmp_path):
    record = tmp_path / "samples" / "settings.json"
    record.write_text(json.dumps({"image_conditioning": False}))
    with pytest.raises(ValueError, match="cannot judge text-to-video, which shares no first frame"):
        score_folder(ScoreClipsConfig(**sampled, recipe="configs/recipes/gravity_positions.yaml"))
    assert len(score_folder(ScoreClipsConfig(**sampled, recipe=own_recipe(tmp_path)))) == 6

"""What a recipe needs of the row's scene, which clips of text alone do not share."""

import pytest
import torch

from data.rows import load_split
from rewards.recipe.recipe import load_recipe
from trainers.learning.batches import Scenes
from trainers.learning.of_text import check_without_scene, scene_needs
from trainers.run.build import held_out_judges
from trainers.settings.oro import OROConfig


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("judge_scene", ["`mask: appearance`", "`depth: known`", "gravity needs metres"]),
        ("gravity_positions", ["gravity needs metres"]),
        ("flow_match", ["flow_match needs the column reference_BTCHW"]),
        ("text_to_video", []),
        ("galileo", []),
    ],
)
def test_a_recipe_says_what_it_needs_of_the_scene(recipe, said):
    needed = "; ".join(scene_needs(load_recipe(f"configs/recipes/{recipe}.yaml")))
    assert all(part in needed for part in said)
    assert bool(needed) == bool(said)


def test_a_finder_that_no_reward_asks_is_set_aside(tmp_path):
    (tmp_path / "bright.py").write_text("def bright(observation):\n    return observation.video.frames_BTCHW.mean()\n")
    path = tmp_path / "own.yaml"
    path.write_text("instruments: {flow: null, depth: null, mask: appearance}\nrewards: [{name: 'bright.py:bright'}]\n")
    recipe = load_recipe(path)
    check_without_scene(recipe, "recipe")
    assert not recipe.instruments.finder.needs_first_mask


def test_text_to_video_scenes_know_frames_and_caption_alone():
    assert len(load_split("validation"))
    batch = Scenes(OROConfig(split="validation", image_conditioning=False), "validation").batch([0, 1])
    assert batch.video.camera is None and batch.video.first_mask_BHW is None and batch.video.object_depth_m_B is None
    assert "reference_BTCHW" not in batch.columns and "caption" in batch.columns
    own = Scenes(OROConfig(split="validation", image_conditioning=False), "validation", own_clips=True).batch([0, 1])
    assert own.video.camera is not None
    torch.testing.assert_close(own.video.frames_BTCHW, batch.video.frames_BTCHW)


def test_training_and_its_evaluations_refuse_them_for_text_alone():
    config = OROConfig(image_conditioning=False, eval_steps=1, eval_recipe="configs/recipes/judge_scene.yaml")
    with pytest.raises(ValueError, match=r"eval_recipe .*judge_scene.yaml cannot judge text-to-video.*first frame"):
        held_out_judges(config, load_recipe("configs/recipes/text_to_video.yaml"))
    with pytest.raises(ValueError, match="gravity needs metres"):
        held_out_judges(config, load_recipe("configs/recipes/gravity_positions.yaml"))
    held_out_judges(OROConfig(image_conditioning=False), load_recipe("configs/recipes/gravity.yaml"), own_clips=True)

"""Every shipped recipe says the same of the same clips on a GPU as on the CPU, and gives a gradient there."""

import dataclasses

import pytest
import torch

from data.rows import LIGHT_COLUMNS, collate, load_split, reward_columns, to_video
from rewards.recipe.recipe import load_recipe
from trainers.learning.scoring import score_with_gradient

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


@pytest.fixture(scope="module")
def clips():
    table = load_split("validation", columns=LIGHT_COLUMNS)
    return collate([table[number] for number in range(2)])


@pytest.mark.parametrize("name", ["gravity", "gravity_positions", "gravity_rigid", "gravity_guarded", "judge_scene",
                                  "energy_drift", "collision", "rigidity", "flow_match", "segmentation_match",
                                  "pde_residual", "real_clips"])  # fmt: skip
def test_a_recipe_scores_as_on_the_cpu(name, clips, root):
    video, columns = to_video(clips), reward_columns(clips)
    if name == "real_clips":  # nothing is known but a scale
        scale = torch.full((2,), 30.0)
        video = dataclasses.replace(video, camera=None, object_depth_m_B=None, px_per_m_B=scale)
    found = []
    for device in ("cpu", "cuda"):
        recipe = load_recipe(root / f"configs/recipes/{name}.yaml")
        for estimator in (recipe.instruments.flow, recipe.instruments.depth):
            if estimator is not None:
                estimator.autocast = False
        if all(term.differentiable for term in [*recipe.terms, *recipe.gates]):
            scored = score_with_gradient(recipe, video.to(device), columns)
            assert scored.pixel_grad_BTCHW is not None
            assert scored.pixel_grad_BTCHW.device.type == device
            assert scored.pixel_grad_BTCHW.isfinite().all()
        with torch.no_grad():
            result = recipe.score(video.to(device), columns)
        assert result.total_B.device.type == device
        found.append({key: value_B.cpu() for key, value_B in result.terms.items()})
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=0.02, atol=0.02, equal_nan=True, msg=f"{name}: {key}")

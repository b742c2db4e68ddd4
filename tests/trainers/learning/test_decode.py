"""Rewards and gradients at the latents: clip by clip they are those of all clips at once; saturated pixels learn."""

import dataclasses
import types

import pytest
import torch

from reward_physics.observation import Instruments
from reward_physics.video import Video
from rewards.recipe.recipe import Recipe, RecipeConfig
from trainers.learning.batches import Batch
from trainers.learning.clocks import Phases
from trainers.learning.decode import score_latents
from trainers.learning.figures import Processes
from trainers.models import lora_parameters
from trainers.models.ltx import LTXModel
from trainers.models.tiny.ltx import tiny_ltx
from trainers.oro import oro_loss
from trainers.run.processes.parallel import make_accelerator
from trainers.settings.oro import OROConfig

REWARDS = """
import torch

def colour(observation):
    return observation.video.frames_BTCHW.mean((1, 2, 3, 4))

def contrast(observation, target_B):
    frames = observation.video.frames_BTCHW
    value_B = -(frames.flatten(1).std(1) - 0.1 * target_B).square()
    seen_B = target_B < 3       # the last clip of four cannot be measured
    return torch.where(seen_B, value_B, torch.nan) if seen_B.any() else torch.full_like(target_B, torch.nan)

def dim(observation):
    return torch.sigmoid(4 - 8 * observation.video.frames_BTCHW[:, -1].mean((1, 2, 3)))
"""
WAYS = {  # what a recipe may take from its batch
    "worst": {"unmeasurable": "worst", "visibility_weight": 0.5},
    "spread": {"unmeasurable": -1, "visibility_weight": 0.0, "aggregation": "normalised_sum"},
    "gate": {"unmeasurable": "worst", "visibility_weight": 0.5, "gates": [{"name": "mine.py:dim"}]},
}
COUNT = 4


@pytest.fixture
def recipe(tmp_path, request):
    (tmp_path / "mine.py").write_text(REWARDS)
    rewards = [{"name": "mine.py:colour", "weight": 2.0}, {"name": "mine.py:contrast", "weight": 5.0}]
    config = RecipeConfig.model_validate({"rewards": rewards} | WAYS[getattr(request, "param", "gate")])
    return Recipe(config, Instruments(mask="appearance"), base=tmp_path)


@pytest.fixture
def video():
    mask = torch.zeros(COUNT, 32, 32)
    mask[:, 10:20, 12:22] = 1
    frames = torch.rand(COUNT, 9, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return Video.make(frames, 16.0, first_mask_BHW=mask)


@pytest.fixture
def model():
    model = LTXModel(tiny_ltx())
    model.add_lora(r=4, alpha=4)
    for name, weight in lora_parameters(model.transformer).items():
        if "lora_B" in name:
            weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


COLUMNS = {"target_B": torch.arange(float(COUNT)), "id": [str(i) for i in range(COUNT)]}


@pytest.mark.parametrize("recipe", list(WAYS), indirect=True)
@pytest.mark.parametrize("size", [1, 3])
def test_parts_of_a_batch_score_and_teach_as_all_of_it(recipe, video, model, size):
    condition = model.condition(["a ball"] * COUNT, fps=16.0, num_frames=9, height_px=32, width_px=32)
    latents = model.initial_latents(condition, [torch.Generator().manual_seed(i) for i in range(COUNT)])
    given = (model, latents.requires_grad_(), condition, recipe, video, COLUMNS)
    options = {"max_ratio": 1.1, "each_reward": True, "phase": Phases()}
    whole = score_latents(*given, **options)
    parts = score_latents(*given, **options, chunk_size=size, checkpointing=True)
    assert whole.measurable_B.tolist() == [1, 1, 1, 0]
    assert whole.latent_grad.flatten(1).norm(dim=1)[:3].min() > 0
    assert (parts.latent_grad - whole.latent_grad).norm() < 1e-5 * whole.latent_grad.norm()
    for field in dataclasses.fields(whole):
        expected, actual = getattr(whole, field.name), getattr(parts, field.name)
        if isinstance(expected, torch.Tensor | dict):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        else:
            assert actual == expected


def test_a_saturated_pixel_is_shown_clamped_and_can_be_pulled_back(brightness):
    still = types.SimpleNamespace(decode=lambda latents, condition, checkpointing=False: latents)
    latents = torch.full((2, 4, 3, 8, 8), 0.5)
    latents[0, 0] = 1.5
    latents[1, 1:3] = -1.0
    video = Video.make(latents.clamp(0, 1), 16.0)
    scored = score_latents(still, latents.requires_grad_(), [0, 1], brightness(), video, {}, phase=Phases())
    torch.testing.assert_close(scored.reward_B, torch.tensor([0.625, 0.25]))
    assert scored.saturated_B.tolist() == [0.25, 0.5]
    torch.testing.assert_close(scored.latent_grad, torch.full_like(latents, 1 / (4 * 3 * 8 * 8)))


def test_nothing_measured_in_any_part_is_refused(recipe, video, model):
    condition = model.condition(["a ball"] * COUNT, fps=16.0, num_frames=9, height_px=32, width_px=32)
    latents = model.initial_latents(condition, None).requires_grad_()
    recipe.terms, recipe.gates = recipe.terms[1:], []
    recipe.config = recipe.config.model_copy(update={"visibility_weight": 0.0})
    blind = COLUMNS | {"target_B": torch.full((COUNT,), 3.0)}
    for size in (0, 2):
        with pytest.raises(ValueError, match="reward contrast could not be measured on any of 4 clips"):
            score_latents(model, latents, condition, recipe, video, blind, chunk_size=size, phase=Phases())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_every_saving_of_memory_leaves_a_steps_gradient(recipe, video, model, guidance):
    """In float32, within 1e-5 of the gradient of the step that keeps its whole graph."""
    settings = {
        "num_inference_steps": 3,
        "per_device_train_batch_size": COUNT,
        "guidance_scale": guidance,
        "reference_sigma_range": [0.0, 1.0],
        "denoising_weight": 1.0,
        "gradient_checkpointing": False,
    }
    full = OROConfig(**settings)
    saving = OROConfig(**settings | {"decode_chunk_size": 1, "decode_checkpointing": True, "block_checkpointing": True})
    least = dataclasses.replace(saving, gradient_checkpointing=True)
    batch = Batch(
        video=video, captions=["a ball"] * COUNT, ids=COLUMNS["id"], columns=COLUMNS, numbers=list(range(COUNT))
    )
    weights = list(lora_parameters(model.transformer).values())
    processes, gradients = Processes.of(make_accelerator()), []
    for config in (full, saving, least):
        if config.block_checkpointing:
            model.checkpoint_blocks()
        loss, _ = oro_loss(config, model, recipe, batch, processes, 0, Phases())
        gradients.append(torch.cat([one.flatten() for one in torch.autograd.grad(loss, weights)]))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-5 * gradients[0].norm()

"""The regularisers regress what data is an example of: the prediction without guidance, whatever the rollout takes."""

import dataclasses

import pytest
import torch
from families import BY_NAME, PROMPTS, SIZE, condition_of
from toy_model import ToyModel

from trainers.learning.losses import contrast_loss, denoising_loss, noised, told

LEVELS = [0.2, 0.9]


def drawn():
    return [torch.Generator().manual_seed(i) for i in range(2)]


def clean_of(family, model):
    clips = torch.rand(2, 9, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    return model.encode_clip(clips.to(model.latent_dtype))


@pytest.mark.parametrize("name", ["ltx-t2v", "wan-t2v", "cogvideox-t2v"])
def test_the_denoising_loss_of_a_guided_run_is_that_of_the_prompt_alone(name):
    """By hand: mean |v(x_sigma, prompt) - (noise - x_0)|^2, at guidance 1 and 30 alike."""
    family = BY_NAME[name]
    model = family.adapter(family.make())
    plain = model.condition(PROMPTS, fps=16.0, **SIZE)
    guided = model.condition(PROMPTS, fps=16.0, **SIZE, guidance_scale=30.0, negative_prompt="blurred")
    clean = clean_of(family, model)
    with torch.no_grad():
        noisy, noise, sigma_B = noised(model, clean, plain, sigma_range=LEVELS, generators=drawn())
        by_hand = (model.predict(noisy, sigma_B, plain) - model.training_target(clean, noise)).square().mean()
        mixed = (model.predict(noisy, sigma_B, guided) - model.training_target(clean, noise)).square().mean()
        for condition in (plain, guided, dataclasses.replace(guided, detach_negative=True)):
            loss = denoising_loss(model, clean, condition, sigma_range=LEVELS, generators=drawn())
            torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-6)
    assert abs(mixed - by_hand) > 1e-3 * by_hand


def test_a_distilled_network_is_told_guidance_one_for_data():
    family = BY_NAME["hunyuan-t2v"]
    model = family.adapter(family.make())
    given = []

    def network(**inputs):
        given.append(inputs["guidance"].tolist())
        return (torch.zeros_like(inputs["hidden_states"]),)

    model.denoiser = network
    condition = condition_of(family, model, guidance=6.0)
    denoising_loss(model, clean_of(family, model), condition, sigma_range=LEVELS, generators=drawn())
    assert given == [[1000.0, 1000.0]]


def test_the_contrast_too_is_without_guidance():
    model, seen = ToyModel(), []
    model.add_lora()
    condition = model.condition(PROMPTS, fps=torch.ones(2), **SIZE)
    condition = dataclasses.replace(condition, guidance_scale=4.0, negative_BLD=condition.prompt_BLD)
    predict = model.predict

    def watched(latents, sigma_B, condition):
        seen.append(condition)
        return predict(latents, sigma_B, condition)

    model.predict = watched
    options = {"sigma_range": LEVELS, "generators": drawn(), "policy": torch.no_grad(), "beta": 1.0}
    contrast_loss(model, torch.zeros(2, 1), condition, advantage_B=torch.ones(2), **options)
    assert [(one.guidance_scale, one.negative_BLD) for one in seen] == [(1.0, None)] * 2
    assert told(condition).prompt_BLD is condition.prompt_BLD

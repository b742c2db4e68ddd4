"""What no noise level can teach is known before the first step: adapter off, experts left out, idle regularisers."""

import pytest

from trainers.learning.levels import (
    check_adapter_acts,
    experts_left_out,
    oro_experts_left_out,
    oro_shortfalls,
    reference_steps,
    why_oro_cannot_learn,
)
from trainers.models.tiny.wan import tiny_wan
from trainers.models.wan import WanModel
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig

SIGMAS = [1.0, 0.75, 0.5, 0.25]
HIGH, LOW = "pytorch_lora_weights.safetensors", "pytorch_lora_weights_2.safetensors"


def test_an_adapter_that_is_off_at_every_level_is_refused():
    config = OROConfig(adapter_sigma_range=[0.0, 0.1])
    with pytest.raises(ValueError, match=r"adapter_sigma_range \[0.0, 0.1\] holds none of .* 1.000, 0.750"):
        check_adapter_acts(config, SIGMAS)
    assert "holds none of the rollout's noise levels" in why_oro_cannot_learn(config, SIGMAS)


def test_gradient_where_the_adapter_is_off_is_refused():
    last = OROConfig(adapter_sigma_range=[0.6, 1.0], grad_steps="last", grad_steps_k=2)
    assert "grad_steps last carries gradient only where" in why_oro_cannot_learn(last, SIGMAS)
    for fine in ({"grad_steps_k": 3}, {"reward_weight": 0.0}, {"grad_steps": "random"}):
        settings = {"adapter_sigma_range": [0.6, 1.0], "grad_steps": "last"} | fine
        assert why_oro_cannot_learn(OROConfig(**settings), SIGMAS) is None


def test_regularisers_act_where_the_adapter_does():
    assert reference_steps(OROConfig(), SIGMAS) == [2, 3]
    assert reference_steps(OROConfig(adapter_sigma_range=[0.5, 1.0]), SIGMAS) == [2]
    assert oro_shortfalls(OROConfig(), SIGMAS) == []
    (said,) = oro_shortfalls(OROConfig(adapter_sigma_range=[0.7, 1.0]), SIGMAS)
    assert said.startswith("reference_weight has no effect")
    free = {"reference_weight": 0.0, "adapter_sigma_range": [0.7, 1.0]}
    (said,) = oro_shortfalls(OROConfig(**free, denoising_weight=1.0), SIGMAS)
    assert said == "the denoising loss is taken at noise levels [0.7, 1.0] alone, where the adapter acts"
    (said,) = oro_shortfalls(OROConfig(**free, grad_steps="random"), SIGMAS)
    assert said.startswith("the adapter is off at 2 of the 4 steps")


@pytest.mark.parametrize(
    "make",
    [
        lambda: OROConfig(adapter_sigma_range=[0.7, 1.0], denoising_weight=1.0, denoising_sigma_range=[0.0, 0.5]),
        lambda: PSFTConfig(
            adapter_sigma_range=[0.9, 1.0], denoising_sigma_range=[0.9, 1.0], physics_weight=1.0
        ),
        lambda: RWRConfig(
            adapter_sigma_range=[0.9, 1.0],
            denoising_sigma_range=[0.9, 1.0],
            reference_weight=1.0,
            reference_sigma_range=[0.0, 0.5],
        ),
    ],
)  # fmt: skip
def test_a_loss_at_levels_without_the_adapter_is_refused(make):
    with pytest.raises(ValueError, match="must have noise levels in common with adapter_sigma_range"):
        make()


def test_settings_that_can_teach_nothing_are_refused():
    with pytest.raises(ValueError, match="num_generations must be above 1 where weighting signed compares"):
        RWRConfig(num_generations=1, weighting="signed")
    with pytest.raises(ValueError, match="num_generations must be above 1 where weighting reward compares"):
        RWRConfig(num_generations=1, absolute_scale=0.0)
    assert RWRConfig(num_generations=1).num_generations == 1  # by the absolute weight
    with pytest.raises(ValueError, match="reward_num_frames must be above 1"):
        OROConfig(reward_num_frames=1)
    with pytest.warns(UserWarning, match="warmup_steps 1 gives the only step a learning rate of 0"):
        OROConfig(max_steps=1, warmup_steps=1)


def test_experts_that_no_step_visits_are_named():
    """The tiny A14B changes experts at 0.875 or another boundary: just below it the second one predicts."""
    model = WanModel(tiny_wan(layout="a14b"))
    boundary = model.pipeline.config["boundary_ratio"]
    below = boundary / 2
    assert (model.network_at(1.0), model.network_at(below)) == (HIGH, LOW)
    assert experts_left_out(model, ranges=[[0.0, boundary]]) == [HIGH]
    assert experts_left_out(model, ranges=[[boundary, 1.0]]) == [LOW]
    assert experts_left_out(model, ranges=[[0.0, 1.0]]) == []
    sigmas = [1.0, below]
    assert oro_experts_left_out(OROConfig(grad_steps="last"), model, sigmas) == [HIGH]
    assert oro_experts_left_out(OROConfig(grad_steps="early"), model, sigmas) == [LOW]
    assert oro_experts_left_out(OROConfig(), model, sigmas) == []
    assert oro_experts_left_out(OROConfig(grad_steps="last", denoising_weight=1.0), model, sigmas) == []
    assert oro_experts_left_out(OROConfig(adapter_sigma_range=[boundary, 1.0]), model, sigmas) == [LOW]
    assert experts_left_out(WanModel(tiny_wan()), points=[0.5]) == []

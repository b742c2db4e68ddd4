"""Blocks whose weights wait elsewhere give the same gradients, one at a time at hand."""

import pytest
import torch
from families import BY_NAME, condition_of, seeds

from trainers.learning.rollout import rollout
from trainers.models import lora_parameters
from trainers.models.offload import Offloaded

NUM_STEPS = 2


def gradient(family, *, offload):
    model = family.adapter(family.make())
    model.offload_blocks = offload
    model.to("cpu")
    model.checkpoint_blocks()
    model.add_lora(r=2, alpha=2)
    generator = torch.Generator().manual_seed(0)
    for weight in lora_parameters(model.transformer).values():
        weight.data.normal_(std=0.2, generator=generator)
    condition = condition_of(family, model)
    schedule = model.schedule(NUM_STEPS, condition)
    options = {"grad_steps": tuple(range(NUM_STEPS)), "checkpointing": True}
    done = rollout(model, condition, schedule, model.initial_latents(condition, seeds()), **options)
    done.latents.square().mean().backward()
    return model, torch.cat([weight.grad.flatten() for weight in lora_parameters(model.transformer).values()])


@pytest.mark.parametrize("name", ["ltx-t2v", "wan-a14b", "hunyuan-t2v"])
def test_offloaded_blocks_change_no_gradient(name, monkeypatch):
    """What is away has no numbers at all here: whoever uses it fails."""
    expected = gradient(BY_NAME[name], offload=False)[1]
    away = []

    def send_away(self, block):
        away.append(block)
        for weight, _ in self.home[block]:
            weight.data = torch.empty(0)

    monkeypatch.setattr(Offloaded, "send_away", send_away)
    monkeypatch.setattr("trainers.models.offload.AT_HAND", 1)
    model, actual = gradient(BY_NAME[name], offload=True)
    assert len(away) > 2 * sum(len(one.home) for one in model.offloaded)
    assert all(len(one.near) == 1 for one in model.offloaded)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)

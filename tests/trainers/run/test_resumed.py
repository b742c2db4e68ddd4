"""What a config says after a resume is what happens, or it is refused."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from run_reading import lora_of
from safetensors.torch import load_file

from trainers import oro
from trainers.run.checkpoint import checkpoints
from trainers.run.resumed import HARMLESS, NEXT_ROUND, OF_A_ROUND, REFUSED, TAKES_EFFECT, changes
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig

LORA = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("config_class", [OROConfig, RWRConfig, PSFTConfig])
def test_every_setting_is_decided_once(config_class):
    for field in dataclasses.fields(config_class):
        places = [field.name in part for part in (HARMLESS, TAKES_EFFECT, REFUSED)]
        assert sum(places) == 1, f"{field.name}: decide in trainers/run/resumed.py what a change on resume does"
    assert OF_A_ROUND | NEXT_ROUND <= TAKES_EFFECT | HARMLESS


def test_the_optimizer_s_settings_are_those_of_the_config(toy_config, brightness, monkeypatch, capsys):
    changed = {"learning_rate": 1e-5, "adam_beta1": 0.5, "adam_beta2": 0.6, "adam_epsilon": 1e-3, "weight_decay": 0.25}
    oro.train(toy_config(max_steps=1), recipe=brightness())
    seen, honest = [], torch.optim.AdamW.step

    def step(optimizer, *arguments, **named):
        seen.append({name: optimizer.param_groups[0][name] for name in ("lr", "betas", "eps", "weight_decay")})
        return honest(optimizer, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    config = toy_config(max_steps=2, resume_from_checkpoint="auto", **changed)
    metrics = oro.train(config, recipe=brightness())
    assert seen == [{"lr": 1e-5, "betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.25}]
    assert metrics["learning_rate"] == 1e-5
    assert "changed: learning_rate: 0.001 -> 1e-05" in capsys.readouterr().out


def test_a_logged_learning_rate_is_that_of_its_step(toy_config, brightness):
    config = toy_config(max_steps=3, lr_scheduler_type="linear", learning_rate=3e-3)
    oro.train(config, recipe=brightness())
    lines = [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([3e-3, 2e-3, 1e-3])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora_alpha": 8.0}, "lora_alpha cannot change on resume, it would scale what was learned: expected 16.0"),
        ({"lora_r": 2}, "lora_r cannot change on resume, .* expected 4 .* got 2"),
        ({"max_steps": 1}, "max_steps 1 is less than the 2 steps"),
    ],
)
def test_what_cannot_take_effect_is_refused_and_nothing_is_written(toy_config, brightness, changed, message):
    config = toy_config(max_steps=2)
    oro.train(config, recipe=brightness())
    written = (Path(config.output_dir) / "config.yaml").read_text()
    with pytest.raises(ValueError, match=message):
        oro.train(toy_config(**{"max_steps": 3, "resume_from_checkpoint": "auto"} | changed), recipe=brightness())
    assert (Path(config.output_dir) / "config.yaml").read_text() == written


@pytest.mark.parametrize(
    ("changed", "step", "reason"),
    [
        ({"inner_steps": 4}, 8, "rounds are counted by it"),
        ({"num_generations": 4}, 8, "clips are numbered by it"),
        ({"weighting": "signed"}, 8, "carry the other weights"),
        ({"seed": 1}, 9, "the clips of the present round were made with it"),
        ({"seed": 1}, 8, ""),
        ({"temperature": 1.0}, 9, ""),
    ],
)
def test_kept_clips_are_never_learned_from_as_others(changed, step, reason):
    before = dataclasses.asdict(RWRConfig())
    after = dataclasses.asdict(RWRConfig(**changed))  # pyright: ignore
    if reason:
        with pytest.raises(ValueError, match=reason):
            changes(Path("checkpoint-8"), {"config": before, "step": step}, after)
    else:
        lines = changes(Path("checkpoint-8"), {"config": before, "step": step}, after)
        assert len(lines) == 1 and lines[0].endswith("(from the next round on)") == (step == 9)


def test_a_checkpoint_holds_what_was_evaluated_and_what_is_trained_further(toy_config, brightness):
    config = toy_config(max_steps=2, ema_decay=0.9, learning_rate=1e-2)
    oro.train(config, recipe=brightness())
    folder = checkpoints(config.output_dir)[-1]
    stock, raw, final = load_file(folder / LORA), load_file(folder / "raw" / LORA), lora_of(config)
    assert all(torch.equal(stock[name], final[name]) for name in final)
    assert any(not torch.equal(stock[name], raw[name]) for name in final)
    assert os.path.getsize(folder / "training_state.pt") > 0

"""What a launch configuration asks for is what happens, or one line says why not."""

import pytest

from trainers.run.processes.launch import settle_deepspeed, settle_launch

OWN = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5}


def settled(bf16=False, **environment):
    found = {f"ACCELERATE_{name}": value for name, value in environment.items()}
    settle_launch(bf16=bf16, **OWN, environment=found)
    return found


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("asked", ["no", "bf16", "fp16", "fp8", "BF16"])
def test_precision_is_the_trainers_or_one_line_says_what_to_set(asked, bf16):
    if asked == "no" or (asked.lower() == "bf16" and bf16):
        assert settled(bf16, MIXED_PRECISION=asked) == {"ACCELERATE_MIXED_PRECISION": "no"}
    else:
        with pytest.raises(ValueError, match=r"mixed_precision.*launch configuration.*bf16: true"):
            settled(bf16, MIXED_PRECISION=asked)


@pytest.mark.parametrize("switch", ["FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_other_ways_to_shard_are_refused_and_zero3_named(switch):
    with pytest.raises(ValueError, match=r"zero3.yaml"):
        settled(**{f"USE_{switch}": "true"})
    assert settled(**{f"USE_{switch}": "false"})


def test_compilation_belongs_to_the_trainer():
    with pytest.raises(ValueError, match="torch_compile"):
        settled(DYNAMO_BACKEND="INDUCTOR")
    assert settled(DYNAMO_BACKEND="NO")


@pytest.mark.parametrize("asked", ["1", "2", "auto"])
def test_accumulation_that_agrees_acts_once(asked):
    assert settled(GRADIENT_ACCUMULATION_STEPS=asked) == {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}


def test_accumulation_and_clipping_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps is 4 .* is 2 in the trainer's"):
        settled(GRADIENT_ACCUMULATION_STEPS="4")
    with pytest.raises(ValueError, match=r"gradient_clipping is 1 .* max_grad_norm is 0.5"):
        settled(GRADIENT_CLIPPING="1.0")
    assert settled(GRADIENT_CLIPPING="0.5") and settled(GRADIENT_CLIPPING="auto") and settled(GRADIENT_CLIPPING="none")


def deepspeed(**settings):
    settle_deepspeed(settings, bf16=False, accumulation=2, max_grad_norm=0.5)
    return settings


def test_a_deepspeed_file_is_held_to_the_same():
    settings = {"bf16": {"enabled": True}}
    settle_deepspeed(settings, bf16=True, accumulation=2, max_grad_norm=0.5)
    assert settings == {"bf16": {"enabled": False}}
    deepspeed(fp16={"enabled": "auto"}, gradient_accumulation_steps="auto", gradient_clipping="auto")
    for settings in ({"bf16": {"enabled": True}}, {"fp16": {"enabled": True}}, {"amp": {"enabled": True}}):
        with pytest.raises(ValueError, match="mixed_precision"):
            settle_deepspeed(settings, bf16=False, accumulation=2, max_grad_norm=0.5)
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps is 8"):
        deepspeed(gradient_accumulation_steps=8)
    with pytest.raises(ValueError, match="section optimizer"):
        deepspeed(optimizer={"type": "AdamW"})

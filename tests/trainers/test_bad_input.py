"""Whatever a user can get wrong is one line that says what to do, before the first step."""

import shutil
import sys

import pytest
import torch

from trainers import oro
from trainers.oro import train
from trainers.run import checkpoint, process
from trainers.settings.options import exit_with_one_line, parse_config
from trainers.settings.oro import OROConfig


def parse(tmp_path, text, *flags):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return parse_config(OROConfig, ["--config", str(path), *flags])


def test_yaml_and_flags_meet(tmp_path):
    config = parse(
        tmp_path, "learning_rate: 1e-4\nreport_to: [none]\nmax_steps: 3", "--max_steps", "7", "--no_image_conditioning"
    )
    assert (config.learning_rate, config.report_to, config.max_steps) == (1e-4, ["none"], 7)
    assert not config.image_conditioning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "unknown key learning_rat: did you mean learning_rate?"),
        ("seed: 1\nseed: 2", "line 2: found duplicate key"),
        ("lora_r: 1.5", "lora_r must be a valid integer.*got 1.5"),
        ("grad_steps: ful", "grad_steps must be .*got 'ful': did you mean full?"),
        ("report_to: [wandbb]", "report_to must name .*did you mean wandb?"),
        ("fps: 0", "fps must be greater than 0, got 0"),
        ("learning_rate: .nan", "learning_rate must be"),
        ("reference_sigma_range: [0.5]", "reference_sigma_range must be two noise levels"),
        ("grad_steps_k: 9", "grad_steps_k must be at most num_inference_steps 8, got 9"),
        ("max_steps: [", "line 1"),
        ("- 3", "must hold `key: value` lines"),
    ],
)
def test_yaml_mistakes(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learing_rate", "1"], "unknown option --learing_rate: did you mean learning_rate?"),
        (["--grad_steps", "lst"], "invalid choice.*did you mean last?"),
        (["--lora_r", "1.5"], "invalid int value: '1.5'"),
        (["--config", "nowhere.yaml"], "config file nowhere.yaml does not exist"),
        (["--config"], "--config needs the path"),
    ],
)
def test_flag_mistakes(flags, message):
    with pytest.raises(ValueError, match=message):
        parse_config(OROConfig, flags)


def test_help_documents_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(OROConfig, ["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in OROConfig.__dataclass_fields__.items():
        assert f"--{name}" in text
        assert len(field.metadata["help"]) > 10


def test_a_mistake_is_one_line_and_exit_status_2(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["oro.py", "--lora_r", "0"])
    with pytest.raises(SystemExit) as stop:
        exit_with_one_line(oro.main)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: lora_r must be greater than 0")
    assert error.count("\n") == 1


def refuses(config, message, **parts):
    with pytest.raises(ValueError, match=message) as caught:
        train(config, **parts)
    assert "\n" not in str(caught.value).strip()


def test_places_that_are_wrong(toy_config, brightness, tmp_path):
    recipe = brightness()
    refuses(toy_config(model_name_or_path=str(tmp_path / "no")), "does not exist", recipe=recipe)
    refuses(toy_config(dataset=str(tmp_path / "no")), "dataset must be `drops` or a folder", recipe=recipe)
    refuses(toy_config(split="tran"), "expected Parquet files", recipe=recipe)
    refuses(toy_config(kinds=["drp"]), "no scene of kind drp: did you mean drop?", recipe=recipe)
    refuses(toy_config(recipe=str(tmp_path / "no.yaml")), "no.yaml")
    refuses(toy_config(resume_from_checkpoint=str(tmp_path)), "must be `auto` or a checkpoint folder", recipe=recipe)


def test_wrong_resolution(toy_config, brightness):
    refuses(toy_config(height=40), "height must be a multiple of 32 px.*got 40: try 32", recipe=brightness())
    refuses(toy_config(num_frames=8), "num_frames must be 1 \\+ a multiple of 2, got 8", recipe=brightness())


def test_denoising_needs_data_as_long_as_the_clips(toy_config, brightness):
    refuses(
        toy_config(num_frames=33, denoising_weight=1.0), "num_frames 33 is more than the 9 frames", recipe=brightness()
    )


def test_corrupt_weights(toy_config, toy_world, brightness, tmp_path):
    shutil.copytree(toy_world / "model", tmp_path / "model")
    weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refuses(toy_config(model_name_or_path=str(tmp_path / "model")), "cannot be read", recipe=brightness())


def test_rewards_that_cannot_be_used(toy_config, brightness):
    refuses(toy_config(), "no gradient at the pixels", recipe=brightness(lambda reward_B, frames: reward_B.detach()))
    infinite = brightness(lambda reward_B, frames: reward_B / 0)
    refuses(toy_config(), "reward .* must be finite", recipe=infinite)
    refuses(toy_config(), "total must be finite", recipe=brightness(lambda reward_B, frames: reward_B * float("nan")))
    rooted = brightness(lambda reward_B, frames: reward_B + (frames * 0).sum(dim=(1, 2, 3, 4)).sqrt())
    refuses(toy_config(), "gradient at the pixels is not finite", recipe=rooted)


def test_output_dir_that_holds_something(toy_config, brightness, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    refuses(toy_config(), "exists and is not empty: set overwrite_output_dir", recipe=brightness())
    refuses(toy_config(overwrite_output_dir=True), "was not written by a trainer", recipe=brightness())
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_too_little_disk(toy_config, brightness, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    refuses(toy_config(), "too little disk for output_dir.*lower save_total_limit", recipe=brightness())


def test_missing_tracker(toy_config, brightness, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refuses(toy_config(report_to=["wandb"]), "wandb, which is not installed: pip install wandb", recipe=brightness())


def test_damaged_checkpoints_are_not_resumed_from(toy_config, brightness):
    config = toy_config(max_steps=1)
    train(config, recipe=brightness())
    again = {"max_steps": 2, "resume_from_checkpoint": "auto"}
    refuses(toy_config(lora_r=2, **again), "holds another LoRA", recipe=brightness())
    path = checkpoint.checkpoints(config.output_dir)[-1] / "training_state.pt"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 255
    path.write_bytes(body)
    refuses(toy_config(**again), "is damaged: training_state.pt", recipe=brightness())


def test_random_state_round_trips():
    state = process.get_rng()
    first = torch.rand(3)
    process.set_rng(state)
    assert torch.equal(torch.rand(3), first)

"""ORO on a toy world: it learns, resumes bit for bit, controls stand still, and what comes out loads in the stock."""

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import LTXImageToVideoPipeline
from run_reading import lora_of

from trainers.models import lora_parameters
from trainers.models.ltx import LTXModel
from trainers.oro import train


def metrics_of(config):
    return [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]


def test_brightness_goes_up_and_the_files_are_there(toy_config, brightness):
    config = toy_config(
        max_steps=6, learning_rate=5e-2, reference_weight=0.0, eval_steps=6, eval_scenes=2, ema_decay=0.5
    )
    train(config, recipe=brightness())
    folder = Path(config.output_dir)
    evaluations = [line["eval/reward"] for line in metrics_of(config) if "eval/reward" in line]
    assert evaluations[-1] > evaluations[0] + 0.002  # the same scenes and noise; a random model moves little
    expected = ["README.md", "config.yaml", "metrics.jsonl", "reward_curve.png", "checkpoint-6"]
    assert all((folder / name).exists() for name in expected)
    assert (folder / "eval" / "step_0" / "clips.mp4").stat().st_size > 0
    LTXImageToVideoPipeline.from_pretrained(config.model_name_or_path).load_lora_weights(folder)


def test_resume_is_exact(toy_config, brightness, tmp_path):
    options = {
        "ema_decay": 0.9,
        "denoising_weight": 0.5,
        "grad_steps": "random",
        "grad_steps_k": 2,
        "learning_rate": 1e-2,
    }
    whole = toy_config(max_steps=4, output_dir=str(tmp_path / "whole"), **options)
    train(whole, recipe=brightness())
    part = {"output_dir": str(tmp_path / "part"), **options}
    train(toy_config(max_steps=2, **part), recipe=brightness())
    torch.manual_seed(123)  # what happened in between must not matter
    train(toy_config(max_steps=4, resume_from_checkpoint="auto", **part), recipe=brightness())
    expected, actual = lora_of(whole), lora_of(toy_config(**part))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    one, other = (
        torch.load(tmp_path / name / "checkpoint-4" / "training_state.pt", weights_only=True)
        for name in ("whole", "part")
    )
    assert all(torch.equal(one["ema"][name], other["ema"][name]) for name in one["ema"])
    assert [line["step"] for line in metrics_of(toy_config(**part))] == [1, 2, 3, 4]
    assert metrics_of(toy_config(**part))[-1]["reward"] == metrics_of(whole)[-1]["reward"]


def test_with_no_reward_a_fresh_adapter_stays_at_the_base(toy_config, brightness):
    """The distance to the reference is zero at zero LoRA, and so is its gradient."""
    config = toy_config(reward_weight=0.0, reference_weight=10.0)
    metrics = train(config, recipe=brightness())
    assert metrics["grad_norm"] == 0
    assert all((weight == 0).all() for name, weight in lora_of(config).items() if "lora_B" in name)


def test_unmeasurable_clips_still_make_a_step(toy_config, brightness):
    metrics = train(toy_config(max_steps=1), recipe=brightness(blind=[0, 1]))
    assert metrics["measurable"] == 0
    assert metrics["reward"] == -1
    assert metrics["grad_norm"] == 0
    assert "rewards/brightness/mean" not in metrics


def test_one_clip_without_a_finite_gradient_is_left_out_and_named(toy_config, brightness, capsys):
    def rooted(reward_B, frames_BTCHW):  # d sqrt(x) / dx at x = 0 times 0 is NaN
        return reward_B + torch.stack([(frames_BTCHW[0] * 0).sum().sqrt(), reward_B[0] * 0])

    metrics = train(toy_config(max_steps=1), recipe=brightness(rooted))
    assert metrics["dropped_gradients"] == 1
    assert metrics["grad_norm"] > 0
    said = re.findall(r"warning: the pixel gradient of (.*) is not finite on process 0", capsys.readouterr().err)
    assert len(said) == 1
    assert re.fullmatch(r"train-\d", said[0])


def test_accumulation_equals_the_large_batch(toy_config, brightness, tmp_path):
    options = {"max_steps": 1, "reference_weight": 0.0, "max_pixel_grad_ratio": 1e9}
    large = toy_config(per_device_train_batch_size=4, output_dir=str(tmp_path / "a"), **options)
    small = toy_config(gradient_accumulation_steps=2, output_dir=str(tmp_path / "b"), **options)
    norms = [train(config, recipe=brightness())["grad_norm"] for config in (large, small)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_text_to_video_trains_too(toy_config, brightness):
    metrics = train(toy_config(max_steps=1, image_conditioning=False, guidance_scale=2.0), recipe=brightness())
    assert metrics["grad_norm"] > 0


@pytest.mark.parametrize("grad_steps", ["last", "early", "one_step"])
def test_every_choice_of_steps_gives_a_gradient(toy_config, brightness, grad_steps):
    config = toy_config(max_steps=1, grad_steps=grad_steps, reference_sigma_range=[0.0, 1.0])
    assert train(config, recipe=brightness())["grad_norm"] > 0


def test_dry_run_prints_the_plan_and_writes_nothing(toy_config, brightness, capsys):
    config = toy_config(dry_run=True, adapter_sigma_range=[0.5, 1.0])
    train(config, recipe=brightness())
    plan = capsys.readouterr().out
    assert "2 of 2 clips" in plan
    assert "0.333 yes      off" in plan
    assert not Path(config.output_dir).exists()


def test_a_lora_can_be_started_from(toy_config, brightness, tmp_path):
    first = toy_config(max_steps=1, output_dir=str(tmp_path / "first"))
    train(first, recipe=brightness())
    model = LTXModel.load(first.model_name_or_path)
    train(toy_config(max_steps=1, lora_path=first.output_dir, learning_rate=1e-30), recipe=brightness(), model=model)
    expected = {name.replace("transformer.", "", 1): weight for name, weight in lora_of(first).items()}
    actual = {name.replace(".default", ""): weight for name, weight in lora_parameters(model.transformer).items()}
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)

"""Every trainer runs on every family from one YAML that differs in the model's lines alone."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.wan import pipeline_wan_i2v
from families import ONE_EACH, stock_pipeline

from trainers import oro, psft, rwr
from trainers.settings.options import parse_config
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig

pytestmark = pytest.mark.slow

MODEL = """
model_name_or_path: {model}
image_conditioning: {image}
"""
REST = """
dataset: {clips}
output_dir: {run}
num_inference_steps: 2
per_device_train_batch_size: 2
lora_r: 4
learning_rate: 0.01
max_steps: 2
report_to: [none]
disable_tqdm: true
"""
TRAINERS = {
    "oro": (oro.train, OROConfig, "decode_checkpointing: true\ndenoising_weight: 0.5\n"),
    "rwr": (rwr.train, RWRConfig, "num_generations: 2\nprompts_per_round: 1\ninner_steps: 1\nsampling_batch_size: 2\n"),
    "psft": (psft.train, PSFTConfig, ""),
}


@pytest.mark.parametrize("family", ONE_EACH, ids=str)
def test_two_steps_of_every_trainer(family, toy_world, tmp_path, brightness, monkeypatch):
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", None, raising=False)  # no trainer needs it
    family.make(folder=tmp_path / "model")
    model = MODEL.format(model=tmp_path / "model", image=str(family.image).lower())
    for name, (train, config_class, own) in TRAINERS.items():
        run = tmp_path / name
        yaml = tmp_path / f"{name}.yaml"
        yaml.write_text(model + REST.format(clips=toy_world / "clips", run=run) + own)
        config = parse_config(config_class, ["--config", str(yaml)])
        options = {} if name == "psft" else {"recipe": brightness()}
        train(config, **options)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert all(line["grad_norm"] > 0 for line in lines)
        stock = stock_pipeline(family, family.make())
        stock.load_lora_weights(Path(run), adapter_name="one")
        moved = [w for key, w in stock.transformer.named_parameters() if "lora_B" in key]
        assert moved
        assert any(torch.any(weight != 0) for weight in moved)

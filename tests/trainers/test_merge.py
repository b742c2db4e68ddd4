"""A merged pipeline samples what the LoRA on its base does."""

import pytest
import torch
from families import BY_NAME, condition_of, seeds

from trainers.learning.rollout import sample
from trainers.merge import MergeConfig, merge
from trainers.models import load_video_model, lora_parameters


def test_a_merged_pipeline_samples_as_the_lora_does(tmp_path):
    family = BY_NAME["ltx-i2v"]
    family.make(folder=tmp_path / "base")
    model = load_video_model(tmp_path / "base")
    base = sample(model, condition_of(family, model, generators=seeds()), seeds(), num_steps=2)
    model.add_lora(r=2, alpha=6)
    for weight in lora_parameters(model.transformer).values():
        weight.data.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    model.save_lora(tmp_path / "lora")
    expected = sample(model, condition_of(family, model, generators=seeds()), seeds(), num_steps=2)
    config = MergeConfig(
        model_name_or_path=str(tmp_path / "base"), lora_path=str(tmp_path / "lora"), output_dir=str(tmp_path / "merged")
    )
    merge(config)
    plain = load_video_model(tmp_path / "merged")
    assert not lora_parameters(plain.transformer)
    actual = sample(plain, condition_of(family, plain, generators=seeds()), seeds(), num_steps=2)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    assert (expected - base).abs().max() > 1e-3
    with pytest.raises(ValueError, match="exists already: give a new folder"):
        merge(config)

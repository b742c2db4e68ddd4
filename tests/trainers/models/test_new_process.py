"""A saved LoRA gives the same pixels in the stock pipeline of another process, which imports no adapter."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import ONE_EACH, PROMPTS, SIZE, condition_of, images, seeds, stock_pipeline

from trainers.learning.rollout import sample
from trainers.models import load_video_model, lora_parameters

pytestmark = pytest.mark.slow

NUM_STEPS = 2
STOCK = """
import sys, types
from pathlib import Path
import diffusers, PIL.Image, torch
from diffusers.pipelines.wan import pipeline_wan_i2v
pipeline_wan_i2v.ftfy = types.SimpleNamespace(fix_text=str)
for job in torch.load(sys.argv[1]):
    folder = Path(job["folder"])
    pipeline = getattr(diffusers, job["pipeline"]).from_pretrained(folder / "model", **job["components"])
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(folder / "lora", adapter_name="one")
    if (folder / "lora" / "pytorch_lora_weights_2.safetensors").exists():
        options = {"weight_name": "pytorch_lora_weights_2.safetensors", "load_into_transformer_2": True}
        pipeline.load_lora_weights(folder / "lora", adapter_name="one", **options)
    clips = []
    for prompt, seed, image in zip(job["prompts"], (5, 6), job["images"]):
        options = dict(job["options"])
        if job["image"]:
            options["image"] = PIL.Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        done = pipeline(prompt=[prompt], generator=[torch.Generator().manual_seed(seed)], output_type="pt", **options)
        clips.append(done.frames)
    torch.save(torch.cat(clips), folder / "stock.pt")
assert not any(name.startswith("trainers") for name in sys.modules)
"""


def test_every_saved_lora_gives_the_same_pixels_in_a_new_process(tmp_path):
    jobs, expected = [], {}
    for family in ONE_EACH:
        folder = tmp_path / family.name
        stock = stock_pipeline(family, family.make(folder=folder / "model"))
        model = load_video_model(folder / "model")
        plain = sample(model, condition_of(family, model, generators=seeds()), seeds(), num_steps=NUM_STEPS)
        model.add_lora(r=2, alpha=6)
        generator = torch.Generator().manual_seed(0)
        for weight in lora_parameters(model.transformer).values():
            weight.data.normal_(std=0.2, generator=generator)
        model.save_lora(folder / "lora")
        generators = seeds()
        condition = condition_of(family, model, generators=generators)
        expected[family.name] = sample(model, condition, generators, num_steps=NUM_STEPS)
        assert (expected[family.name] - plain).abs().max() > 1e-3
        extra = 4 if family.name == "hunyuan-latent_concat" else 0  # the stock pipeline drops its first four frames
        size = {
            "num_frames": SIZE["num_frames"] + extra,
            "height": SIZE["height_px"],
            "width": SIZE["width_px"],
            "num_inference_steps": NUM_STEPS,
            "guidance_scale": 1.0,
        }
        jobs.append(
            {
                "folder": str(folder),
                "pipeline": type(stock).__name__,
                "components": {"expand_timesteps": True, "image_encoder": None, "image_processor": None}
                if "ti2v-image" in family.name
                else {},
                "prompts": PROMPTS,
                "images": images(),
                "image": family.image,
                "options": family.options | size,
            }
        )
    torch.save(jobs, tmp_path / "jobs.pt")
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(tmp_path / "jobs.pt")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, frames in expected.items():
        actual = torch.load(Path(tmp_path) / name / "stock.pt")
        torch.testing.assert_close(actual, frames, atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}")

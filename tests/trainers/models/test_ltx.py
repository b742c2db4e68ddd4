"""Sampling through the adapter equals the stock pipelines; LoRA round trips through the stock loader."""

import pytest
import torch
from diffusers import LTXImageToVideoPipeline, LTXPipeline

from trainers.models import load_video_model, lora_parameters, lora_scaled
from trainers.models.ltx import LTXModel
from trainers.models.tiny.ltx import tiny_ltx

SIZE = {"num_frames": 9, "height_px": 32, "width_px": 32}
PROMPTS = ["a red ball falls", "a blue box slides onto tiles"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny_ltx")
    tiny_ltx(path)
    return path


def randomise_lora(model: LTXModel, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in lora_parameters(model.transformer).values():
        weight.data.normal_(std=0.2, generator=generator)


@torch.no_grad()
def sample(model: LTXModel, generators, *, steps=3, guidance=1.0, images=None, prompts=PROMPTS, fps=16.0, scale=1.0):
    condition = model.condition(
        prompts, fps=fps, **SIZE, first_frames_BCHW=images, guidance_scale=guidance, generators=generators
    )
    latents = model.initial_latents(condition, generators)
    schedule = model.schedule(steps, condition)
    for i in range(schedule.num_steps):
        sigma_B = schedule.sigmas[i].expand(len(prompts))
        latents = model.step(
            latents, model.predict(latents, sigma_B, condition, adapter_scale=scale), schedule, i, condition
        )
    return model.decode(latents, condition).clamp(0, 1)


def stock(pipeline, generators, *, steps=3, guidance=1.0, prompts=PROMPTS, fps=16.0, **image):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt=prompts,
        num_frames=9,
        height=32,
        width=32,
        num_inference_steps=steps,
        guidance_scale=guidance,
        frame_rate=fps,
        negative_prompt="",
        generator=generators,
        output_type="pt",
        **image,
    ).frames


def seeds():
    return [torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("many_generators", [True, False])
def test_text_to_video_equals_the_stock_pipeline(folder, guidance, many_generators):
    draw = seeds if many_generators else lambda: torch.Generator().manual_seed(7)
    expected = stock(LTXPipeline.from_pretrained(folder), draw(), guidance=guidance)
    actual = sample(LTXModel.load(folder), draw(), guidance=guidance)
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("many_generators", [True, False])
def test_image_to_video_equals_the_stock_pipeline(folder, guidance, many_generators):
    draw = seeds if many_generators else lambda: torch.Generator().manual_seed(7)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = stock(LTXImageToVideoPipeline.from_pretrained(folder), draw(), guidance=guidance, image=images)
    actual = sample(LTXModel.load(folder), draw(), guidance=guidance, images=images)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_dynamic_shift_and_frame_rate_follow_the_stock_pipeline(folder):
    pipeline = LTXPipeline.from_pretrained(folder)
    pipeline.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, use_dynamic_shifting=True, shift_terminal=0.1
    )
    expected = stock(pipeline, seeds(), fps=24.0)
    torch.testing.assert_close(sample(LTXModel(pipeline), seeds(), fps=24.0), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(sample(LTXModel(pipeline), seeds(), fps=8.0), expected, atol=1e-3)


def test_clips_of_different_frame_rates_share_a_batch(folder):
    model = LTXModel.load(folder)
    together = sample(model, seeds(), fps=torch.tensor([8.0, 24.0]))
    alone = sample(model, seeds()[1:], fps=24.0, prompts=PROMPTS[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


def test_the_prompt_changes_the_sample(folder):
    model = LTXModel.load(folder)
    one = sample(model, seeds(), prompts=[PROMPTS[0]] * 2)
    other = sample(model, seeds(), prompts=[PROMPTS[1]] * 2)
    assert (one - other).abs().max() > 1e-3


def test_lora_round_trips_through_the_stock_loader(folder, tmp_path):
    model = LTXModel.load(folder)
    model.add_lora(r=2, alpha=6)  # alpha differs from r: the scale must survive the file
    randomise_lora(model)
    expected = sample(model, seeds())
    model.save_lora(tmp_path)

    pipeline = LTXPipeline.from_pretrained(folder)
    base = stock(pipeline, seeds())
    pipeline.load_lora_weights(tmp_path)
    torch.testing.assert_close(stock(pipeline, seeds()), expected, atol=1e-4, rtol=0)
    assert (expected - base).abs().max() > 1e-2

    again = LTXModel.load(folder)
    again.load_lora(tmp_path, trainable=True)
    torch.testing.assert_close(sample(again, seeds()), expected, atol=1e-5, rtol=0)
    assert all(weight.requires_grad for weight in lora_parameters(again.transformer).values())


def test_scale_zero_is_the_base_model_and_keeps_gradients(folder):
    model = LTXModel.load(folder)
    base = sample(model, seeds())
    model.add_lora(r=2, alpha=2)
    randomise_lora(model)
    torch.testing.assert_close(sample(model, seeds(), scale=0.0), base, atol=1e-6, rtol=0)

    condition = model.condition(PROMPTS, fps=16.0, **SIZE)
    latents = model.initial_latents(condition, seeds())
    sigma_B = torch.full((2,), 0.7)
    with torch.no_grad():
        off = model.predict(latents, sigma_B, condition, adapter_scale=0.0)
    on = model.predict(latents, sigma_B, condition)
    ((on - off) ** 2).sum().backward()
    gradients = [weight.grad for weight in lora_parameters(model.transformer).values()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_scale_is_restored_after_an_error(folder):
    model = LTXModel.load(folder)
    model.add_lora(r=2, alpha=4)
    with pytest.raises(RuntimeError), lora_scaled(model.transformer, 0.0):
        raise RuntimeError
    layer = model.transformer.transformer_blocks[0].attn1.to_q
    assert layer.scaling == {"default": 2.0}


def test_noise_target_and_clean_latent_agree(folder):
    model = LTXModel.load(folder)
    clean, noise = torch.randn(2, 20, 8), torch.randn(2, 20, 8)
    sigma_B = torch.tensor([0.3, 0.9])
    noisy = model.add_noise(clean, noise, sigma_B)
    torch.testing.assert_close(model.predicted_clean(noisy, model.training_target(clean, noise), sigma_B), clean)


def test_bf16_base_keeps_fp32_lora(folder):
    model = LTXModel.load(folder, torch_dtype=torch.bfloat16, vae_dtype=torch.float32)
    model.add_lora(r=2, alpha=2)
    assert {weight.dtype for weight in lora_parameters(model.transformer).values()} == {torch.float32}
    assert torch.isfinite(sample(model, seeds())).all()


@pytest.mark.parametrize(
    ("size", "message"),
    [((8, 32, 32), "num_frames.*try 9"), ((9, 40, 32), "height.*try 32"), ((9, 32, 0), "width.*try 32")],
)
def test_wrong_sizes_name_the_nearest_valid_one(folder, size, message):
    with pytest.raises(ValueError, match=message):
        LTXModel.load(folder).check_size(*size)


def test_loading_says_what_is_wrong(folder, tmp_path):
    assert isinstance(load_video_model(folder), LTXModel)
    with pytest.raises(ValueError, match="does not exist"):
        load_video_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        load_video_model(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match=r"is a FluxPipeline; supported are .*LTX"):
        load_video_model(tmp_path)


def test_corrupt_weights_are_named(tmp_path):
    tiny_ltx(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_video_model(tmp_path)


def test_lora_of_another_model_is_refused(folder, tmp_path):
    other = LTXModel(tiny_ltx(width=36))
    other.add_lora(r=2, alpha=2)
    other.save_lora(tmp_path)
    with pytest.raises(ValueError, match="does not fit this model"):
        LTXModel.load(folder).load_lora(tmp_path)
    with pytest.raises(ValueError, match="lora_target_modules"):
        LTXModel.load(folder).add_lora(r=2, alpha=2, targets=["no_such_layer"])

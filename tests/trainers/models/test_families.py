"""What every adapter promises: the stock pipeline's samples, exact gradients, LoRAs for stock, clear refusals."""

import dataclasses
import pathlib
import pickle
import types

import pytest
import torch
from diffusers.pipelines.wan import pipeline_wan_i2v
from families import ALL, NUM_STEPS, ONE_EACH, SIZE, condition_of, keep_float64, seeds, stock_pipeline, stock_sample

from trainers.learning.decode import decode_first
from trainers.learning.losses import denoising_loss
from trainers.learning.rollout import rollout, sample
from trainers.models import load_video_model, lora_parameters
from trainers.models.tiny.ltx import tiny_ltx

BRIEF = [
    one for one in ONE_EACH if one.name in ("ltx-i2v", "wan-a14b", "wan-ti2v-image", "cogvideox-i2v_1.5", "hunyuan-t2v")
]
EACH = [pytest.param(one, marks=[] if one in BRIEF else pytest.mark.slow, id=one.name) for one in ONE_EACH]
FULL = tuple(range(NUM_STEPS))


@pytest.fixture(autouse=True)
def _ftfy(monkeypatch):
    """The stock image pipeline of Wan cannot do without ftfy, which changes nothing in these prompts."""
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", types.SimpleNamespace(fix_text=str), raising=False)


@pytest.fixture
def doubled(monkeypatch):
    keep_float64(monkeypatch)


def randomise_lora(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in lora_parameters(model.transformer).values():
        weight.data.normal_(std=0.2, generator=generator)


def with_lora(family, *, dtype=torch.float32):
    pipeline = family.make()
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.to(dtype)
    model = family.adapter(pipeline)
    model.add_lora(r=2, alpha=6)  # alpha differs from r: the scale must survive a file
    randomise_lora(model)
    return model


def sampled(family, model, *, guidance=1.0):
    generators = seeds()
    condition = condition_of(family, model, guidance=guidance, generators=generators)
    return sample(model, condition, generators, num_steps=NUM_STEPS)


def smooth_reward(frames_BTCHW):
    ramp = torch.linspace(0, 3, frames_BTCHW[0].numel(), dtype=frames_BTCHW.dtype).view_as(frames_BTCHW[0])
    return torch.sin(3 * frames_BTCHW + ramp).mean()


def play(model, condition, *, decode_checkpointing=False, **options):
    start = model.initial_latents(condition, seeds())
    done = rollout(model, condition, model.schedule(NUM_STEPS, condition), start, **options)
    return smooth_reward(model.decode(done.latents, condition, checkpointing=decode_checkpointing))


def lora_gradient(model, value):
    weights = list(lora_parameters(model.transformer).values())
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(value, weights)])


@torch.no_grad()
def finite_difference(model, function, direction, step=1e-5):
    weights = list(lora_parameters(model.transformer).values())
    pieces = direction.split([weight.numel() for weight in weights])

    def moved(by):
        for weight, piece in zip(weights, pieces, strict=True):
            weight += by * piece.view_as(weight)
        return function()

    above, below = moved(step), moved(-2 * step)
    moved(step)
    return (above - below) / (2 * step)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("family", ALL, ids=str)
def test_samples_equal_the_stock_pipeline(family, guidance):
    if guidance > 1 and not family.guided:
        with pytest.raises(ValueError, match="told no guidance, got guidance_scale 3: set it to 1"):
            sampled(family, family.adapter(family.make()), guidance=guidance)
        return
    expected = stock_sample(family, family.make(), guidance=guidance)
    actual = sampled(family, family.adapter(family.make()), guidance=guidance)
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", EACH)
def test_guidance_the_prompt_and_the_first_frame_change_the_sample(family):
    model = family.adapter(family.make())
    one = sampled(family, model)
    if family.guided:
        assert (one - sampled(family, model, guidance=3.0)).abs().max() > 1e-4
    generators = seeds()
    condition = condition_of(family, model, generators=generators)
    swapped = dataclasses.replace(condition, prompt_BLD=condition.prompt_BLD.flip(0))
    assert (sample(model, swapped, generators, num_steps=NUM_STEPS) - one).abs().max() > 1e-6
    if family.image:
        generators = seeds()
        condition = condition_of(family, model, generators=generators)
        swapped = dataclasses.replace(condition, first_latents=condition.first_latents.flip(0))
        assert (sample(model, swapped, generators, num_steps=NUM_STEPS) - one).abs().max() > 1e-4


@pytest.mark.parametrize("family", [one for one in ONE_EACH if one.pinned], ids=str)
def test_the_pinned_frame_stays_and_gets_no_gradient(family):
    model = with_lora(family)
    condition = condition_of(family, model)
    start = model.initial_latents(condition, seeds())
    done = rollout(model, condition, model.schedule(NUM_STEPS, condition), start, grad_steps=FULL).latents
    pinned = (1 - model.free_mask(condition)).expand_as(done)
    assert 0 < pinned.mean() < 1
    assert torch.equal(done * pinned, start * pinned)
    weights = list(lora_parameters(model.transformer).values())
    gradients = torch.autograd.grad((done * pinned).sum(), weights, retain_graph=True)
    assert all(gradient.abs().max() == 0 for gradient in gradients)
    assert lora_gradient(model, done.square().sum()).norm() > 0


@pytest.mark.parametrize("family", EACH)
def test_lora_gradients_equal_central_differences(family, doubled):
    model = with_lora(family, dtype=torch.float64)
    for guidance in (1.0, 2.0)[: 1 + family.guided]:
        condition = condition_of(family, model, guidance=guidance)
        gradient = lora_gradient(model, play(model, condition, grad_steps=FULL))
        drawn = torch.randn(len(gradient), generator=torch.Generator().manual_seed(2), dtype=gradient.dtype)
        for direction in (gradient / gradient.norm(), drawn / drawn.norm()):
            expected = finite_difference(model, lambda: play(model, condition), direction)  # noqa: B023
            torch.testing.assert_close(gradient @ direction, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("family", EACH)
def test_a_checkpointed_decode_is_exact(family):
    """One to seventeen chunks or tiles: pixels and gradients are those of the decode that keeps its whole graph."""
    model = family.adapter(family.make())
    for num_frames in (1, 9, 65 if "wan-t2v" in family.name else 33):
        condition = dataclasses.replace(condition_of(family, model), num_frames=num_frames)
        latents = torch.randn(
            model.initial_latents(dataclasses.replace(condition, first_latents=None), seeds()).shape,
            generator=torch.Generator().manual_seed(0),
        ).requires_grad_()
        whole, again = (model.decode(latents, condition, checkpointing=one) for one in (False, True))
        assert whole.shape == (2, num_frames, 3, 32, 32)
        torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-5)
        expected, actual = (torch.autograd.grad(smooth_reward(one), latents)[0] for one in (whole, again))
        assert expected.abs().max() > 0
        torch.testing.assert_close(actual, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("family", EACH)
def test_the_first_frames_of_a_clip_are_those_of_the_whole(family):
    """The same pixels; a causal decoder evaluates as many pieces as it needs for them."""
    model = family.adapter(family.make())
    condition = dataclasses.replace(condition_of(family, model), num_frames=33)
    noise = model.initial_latents(dataclasses.replace(condition, first_latents=None), seeds())
    latents = noise.detach().requires_grad_()
    whole = model.decode(latents, condition)
    calls = []
    model.vae.decoder.register_forward_pre_hook(lambda *args: calls.append(1))
    pieces = {}
    for num_frames in (33, 12, 5):
        calls.clear()
        first = decode_first(model, latents, condition, num_frames)
        assert first.shape[1] == num_frames
        torch.testing.assert_close(first, whole[:, :num_frames], atol=1e-5, rtol=1e-5)
        pieces[num_frames] = len(calls)
    causal = "wan" in family.name or "cogvideox" in family.name
    assert (pieces[5] < pieces[12] < pieces[33]) if causal else len(set(pieces.values())) == 1
    expected = torch.autograd.grad(smooth_reward(whole[:, :12]), latents)[0]
    actual = torch.autograd.grad(
        smooth_reward(decode_first(model, latents, condition, 12, checkpointing=True)), latents
    )[0]
    torch.testing.assert_close(actual, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize(
    "family", [one for one in BRIEF if one.name in ("ltx-i2v", "hunyuan-t2v", "wan-a14b")], ids=str
)
def test_tiles_are_decoded_as_the_stock_does_or_refused(family):
    """Evaluated again tile by tile: the same pixels and gradients, near those of the whole."""
    model = family.adapter(family.make())
    if not model.decodes_tiles:
        with pytest.raises(ValueError, match="decode_tile_px is for LTX-Video and HunyuanVideo, got 64: set it to 0"):
            model.decode_in_tiles(64)
        return
    side = 4 * model.vae.spatial_compression_ratio
    with pytest.raises(ValueError, match=rf"multiple of {side} px, got {side + 2}: try {side}"):
        model.decode_in_tiles(side + 2)
    condition = dataclasses.replace(condition_of(family, model), height_px=2 * side, width_px=2 * side)
    noise = model.initial_latents(dataclasses.replace(condition, first_latents=None), seeds())
    latents = noise.detach().requires_grad_()
    whole = model.decode(latents, condition)
    model.decode_in_tiles(side)
    kept, again = (model.decode(latents, condition, checkpointing=one) for one in (False, True))
    torch.testing.assert_close(again, kept, atol=1e-5, rtol=1e-5)
    assert 1e-6 < (kept - whole).abs().mean() < whole.std()
    expected, actual = (torch.autograd.grad(smooth_reward(one), latents)[0] for one in (kept, again))
    torch.testing.assert_close(actual, expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5)
    assert not model.vae.use_tiling  # encoding stays whole


@pytest.mark.parametrize("family", EACH)
def test_checkpointed_blocks_are_exact_also_where_the_adapter_is_off(family):
    """Steps outside the adapter's range carry gradient as well: evaluated again, they must find it off."""
    model = with_lora(family)
    condition = condition_of(family, model)
    options = {"grad_steps": FULL, "adapter_sigma_range": (0.93, 1.0)}
    expected = lora_gradient(model, play(model, condition, **options))
    without = lora_gradient(model, play(model, condition, grad_steps=FULL))
    assert not torch.allclose(expected, without, rtol=1e-2, atol=1e-3 * without.abs().max().item())
    model.checkpoint_blocks()
    actual = lora_gradient(model, play(model, condition, **options))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    "family", [BRIEF[0], *[pytest.param(one, marks=pytest.mark.slow) for one in BRIEF[1:]]], ids=str
)
def test_compiled_blocks_change_nothing(family):
    """Also where the adapter is off in some steps and blocks are evaluated again."""
    options = {"grad_steps": FULL, "adapter_sigma_range": (0.93, 1.0)}
    samples, gradients = [], []
    for compiled in (False, True):
        model = with_lora(family)
        model.checkpoint_blocks()
        if compiled:
            model.compile_blocks(backend="eager")
        samples.append(sampled(family, model))
        gradients.append(lora_gradient(model, play(model, condition_of(family, model), **options)))
    torch.testing.assert_close(samples[1], samples[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5 * gradients[0].abs().max().item())


def test_encoders_wait_elsewhere(monkeypatch):
    model = BRIEF[0].adapter(BRIEF[0].make())
    model.offload_text = True
    places = []
    monkeypatch.setattr(model.pipeline.text_encoder, "to", lambda *args: places.append(str(args[0])))
    model.to("cpu")
    assert places[-1] == "cpu"
    places.clear()
    monkeypatch.setattr(type(model), "device", "the network's")
    with torch.no_grad(), model._encoders_at_hand():
        assert places == ["the network's"]
    assert places == ["the network's", "cpu"]


@pytest.mark.parametrize("family", EACH)
def test_a_lora_round_trips_through_the_stock_loader(family, tmp_path):
    model = with_lora(family)
    expected = sampled(family, model)
    model.save_lora(tmp_path)
    base = family.make()
    plain = stock_sample(family, base, guidance=1.0)
    stock = stock_pipeline(family, base)
    stock.load_lora_weights(tmp_path, adapter_name="one")
    if "a14b" in family.name:
        second = "pytorch_lora_weights_2.safetensors"
        stock.load_lora_weights(tmp_path, weight_name=second, adapter_name="one", load_into_transformer_2=True)
    torch.testing.assert_close(stock_sample(family, stock, guidance=1.0), expected, atol=1e-4, rtol=0)
    assert (expected - plain).abs().max() > 1e-3

    again = family.adapter(family.make())
    again.load_lora(tmp_path, trainable=True)
    torch.testing.assert_close(sampled(family, again), expected, atol=1e-5, rtol=0)
    assert all(weight.requires_grad for weight in lora_parameters(again.transformer).values())
    again.merge_lora()
    assert not lora_parameters(again.transformer)
    torch.testing.assert_close(sampled(family, again), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", EACH)
def test_the_loss_of_a_perfect_prediction_is_zero(family, monkeypatch):
    model = family.adapter(family.make())
    condition = condition_of(family, model)
    clean = model.pin(
        model.encode_clip(torch.rand(2, 9, 3, 32, 32, generator=torch.Generator().manual_seed(0))), condition
    )

    def perfect(latents, sigma_B, condition, adapter_scale=1.0):
        return (latents - clean) / sigma_B.view(-1, *[1] * (clean.ndim - 1))

    monkeypatch.setattr(model, "predict", perfect)
    options = {"sigma_range": (0.2, 0.9), "generators": seeds()}
    assert denoising_loss(model, clean, condition, **options) == pytest.approx(0, abs=1e-9)
    monkeypatch.setattr(model, "predict", lambda *args, **options: 0 * clean)
    assert denoising_loss(model, clean, condition, **options) > 0.1


@pytest.mark.parametrize("family", [one for one in BRIEF if one.adapter.has_negative_branch], ids=str)
def test_a_detached_unguided_branch_gets_no_gradient(family):
    """With the unguided prediction held constant at its value, the graph is that of the told branch alone."""
    model = with_lora(family)
    condition = condition_of(family, model, guidance=3.0)
    detached = dataclasses.replace(condition, detach_negative=True)
    latents, sigma_B = model.initial_latents(condition, seeds()), torch.tensor([0.9, 0.3])
    weight = torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))
    values = [model.predict(latents, sigma_B, one) for one in (condition, detached)]
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-4)
    told = model.predict(latents, sigma_B, dataclasses.replace(condition, negative_BLD=None))
    expected = 3 * lora_gradient(model, (weight * told).sum())
    actual = lora_gradient(model, (weight * values[1]).sum())
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert not torch.allclose(lora_gradient(model, (weight * values[0]).sum()), actual, rtol=1e-2)


@pytest.mark.parametrize("family", BRIEF, ids=str)
def test_as_many_evaluations_carry_graph_as_were_asked_for(family, monkeypatch):
    model = with_lora(family)
    condition = condition_of(family, model)
    carried = []
    evaluate = model._evaluate

    def counted(latents, sigma_B, condition):
        carried.append(torch.is_grad_enabled())
        return evaluate(latents, sigma_B, condition)

    monkeypatch.setattr(model, "_evaluate", counted)
    for steps in ((), (3,), (0, 2), FULL):
        carried.clear()
        play(model, condition, grad_steps=steps)
        assert [i for i, one in enumerate(carried) if one] == list(steps)


@pytest.mark.parametrize("family", BRIEF, ids=str)
def test_a_bf16_base_keeps_fp32_loras(family, tmp_path):
    family.make(folder=tmp_path)
    model = load_video_model(tmp_path, torch_dtype=torch.bfloat16, vae_dtype=torch.float32)
    model.add_lora(r=2, alpha=2)
    assert {weight.dtype for weight in lora_parameters(model.transformer).values()} == {torch.float32}
    assert torch.isfinite(sampled(family, model)).all()


@pytest.mark.parametrize("family", EACH)
def test_the_family_is_read_off_the_folder(family, tmp_path):
    family.make(folder=tmp_path)
    assert type(load_video_model(tmp_path)) is family.adapter


@pytest.mark.parametrize("family", EACH)
def test_refusals_say_what_to_do(family, tmp_path):
    model = family.adapter(family.make())
    for changed, message in (
        ({"num_frames": 8}, "num_frames must be 1 .*, got 8: try 9"),
        ({"height_px": 40}, "height must be a multiple of .*, got 40: try (32|48)"),
        ({"width_px": 0}, "width must be .*, got 0: try (16|32)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.check_size(**(SIZE | changed))
    if not family.pinned and "ti2v" not in family.name and "ltx" not in family.name:
        unfit = None if family.image else torch.rand(2, 3, 32, 32)
        with pytest.raises(ValueError, match=r"set image_conditioning to (true|false)"):
            model.condition(["", ""], fps=16.0, **SIZE, first_frames_BCHW=unfit)
    with pytest.raises(ValueError, match="lora_target_modules"):
        family.adapter(family.make()).add_lora(r=2, alpha=2, targets=["no_such_layer"])
    stranger = type(BRIEF[0].adapter(tiny_ltx(width=36)))(tiny_ltx(width=36))
    stranger.add_lora(r=2, alpha=2)
    stranger.save_lora(tmp_path)
    with pytest.raises(ValueError, match="LoRA"):
        model.load_lora(tmp_path)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("ran"),))


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors"])
def test_a_lora_is_never_unpickled(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    pathlib.Path(name).write_bytes(pickle.dumps(Code()))
    model = BRIEF[0].adapter(BRIEF[0].make())
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=r"LoRA .* cannot be read"):
            model.load_lora(path)
    assert not pathlib.Path("ran").exists()


def test_a_negative_prompt_is_refused_where_no_branch_reads_it():
    family = next(one for one in ONE_EACH if one.name == "hunyuan-t2v")
    model = family.adapter(family.make())
    with pytest.raises(ValueError, match="has no unguided branch, got negative_prompt 'ugly': leave it empty"):
        model.condition(["a"], fps=16.0, **SIZE, negative_prompt="ugly")


def test_an_unsupported_family_names_the_supported(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match=r"is a FluxPipeline; supported are CogVideoX.*Hunyuan.*LTX.*Wan"):
        load_video_model(tmp_path)

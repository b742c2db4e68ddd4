"""LoRA gradients through rollout and decode: against finite differences, frozen prefixes, cuts and checkpoints."""

import dataclasses

import pytest
import torch
from families import keep_float64

from trainers.learning.decode import carry_back
from trainers.learning.losses import denoising_loss, reference_distance
from trainers.learning.rollout import choose_grad_steps, rollout
from trainers.models import lora_parameters
from trainers.models.ltx import LTXModel
from trainers.models.tiny.ltx import tiny_ltx

STEPS = 4


@pytest.fixture
def model(monkeypatch):
    """A tiny random LTX in float64."""
    keep_float64(monkeypatch)
    pipeline = tiny_ltx()
    for module in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        module.to(torch.float64)
    model = LTXModel(pipeline)
    model.add_lora(r=2, alpha=4, targets=["to_q", "to_v", "ff.net.2"])
    generator = torch.Generator().manual_seed(3)
    for weight in lora_parameters(model.transformer).values():
        weight.data.normal_(std=0.3, generator=generator)
    return model


@pytest.fixture
def condition(model):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model.condition(
        ["a red ball", "a blue box"], fps=16.0, num_frames=9, height_px=32, width_px=32, first_frames_BCHW=images
    )


def start(model, condition):
    return model.initial_latents(condition, [torch.Generator().manual_seed(i) for i in range(condition.batch_size)])


def smooth_reward(frames_BTCHW):
    """A wave over the pixels: smooth, and different everywhere."""
    ramp = torch.linspace(0, 3, frames_BTCHW[0].numel(), dtype=frames_BTCHW.dtype).view_as(frames_BTCHW[0])
    return torch.sin(3 * frames_BTCHW + ramp).mean()


def play(model, condition, **options):
    done = rollout(model, condition, model.schedule(STEPS, condition), start(model, condition), **options)
    return smooth_reward(model.decode(done.latents, condition))


def lora_gradient(model, value):
    weights = list(lora_parameters(model.transformer).values())
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(value, weights)])


def finite_difference(model, function, direction, step=1e-4):
    weights = list(lora_parameters(model.transformer).values())
    pieces = direction.split([weight.numel() for weight in weights])

    @torch.no_grad()
    def moved(by):
        for weight, piece in zip(weights, pieces, strict=True):
            weight += by * piece.view_as(weight)
        value = function()
        for weight, piece in zip(weights, pieces, strict=True):
            weight -= by * piece.view_as(weight)
        return value

    return (moved(step) - moved(-step)) / (2 * step)


FULL = tuple(range(STEPS))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_full_gradient_equals_central_differences(model, condition, guidance):
    if guidance > 1:
        length = condition.prompt_BLD.shape[1]
        negative = [part[:, :length] for part in model.encode_prompt(["", ""])]
        condition = dataclasses.replace(
            condition, guidance_scale=guidance, negative_BLD=negative[0], negative_mask_BL=negative[1]
        )
    gradient = lora_gradient(model, play(model, condition, grad_steps=FULL))
    directions = [gradient / gradient.norm(), torch.randn(len(gradient), generator=torch.Generator().manual_seed(2))]
    for direction in directions:
        direction = direction.double()
        expected = finite_difference(model, lambda: play(model, condition), direction)
        torch.testing.assert_close(gradient @ direction, expected.double(), rtol=1e-5, atol=1e-9)


def test_last_steps_equal_a_rollout_with_its_prefix_frozen(model, condition):
    """Freeze the latents that enter the last two steps: sampling on from them has the truncated gradient."""
    truncated = lora_gradient(model, play(model, condition, grad_steps=(2, 3)))
    schedule = model.schedule(STEPS, condition)
    with torch.no_grad():
        frozen = rollout(model, condition, schedule, start(model, condition)).visited[2]
    rest = dataclasses.replace(schedule, sigmas=schedule.sigmas[2:], timesteps_S=schedule.timesteps_S[2:])

    def tail(**options):
        done = rollout(model, condition, rest, frozen, **options)
        return smooth_reward(model.decode(done.latents, condition))

    torch.testing.assert_close(truncated, lora_gradient(model, tail(grad_steps=(0, 1))))
    direction = truncated / truncated.norm()
    expected = finite_difference(model, tail, direction)
    torch.testing.assert_close(truncated @ direction, expected.double(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("mode", ["last", "early", "random"])
@pytest.mark.parametrize("k", range(1, STEPS + 1))
def test_exactly_k_forwards_carry_graph_and_all_of_them_are_full_backpropagation(
    model, condition, monkeypatch, mode, k
):
    carried, evaluate = [], model._evaluate

    def counted(latents, *args):
        value = evaluate(latents, *args)
        carried.append(value.requires_grad)
        return value

    monkeypatch.setattr(model, "_evaluate", counted)
    steps = choose_grad_steps(mode, STEPS, k, torch.Generator().manual_seed(0))
    value = play(model, condition, grad_steps=steps, checkpointing=False)
    assert sum(carried) == k
    assert len(carried) == STEPS
    if k < STEPS:
        return
    latents, schedule = start(model, condition), model.schedule(STEPS, condition)
    for i in range(STEPS):
        prediction = model.predict(latents, schedule.sigmas[i].expand(2), condition)
        latents = model.step(latents, prediction, schedule, i, condition)
    plain = lora_gradient(model, smooth_reward(model.decode(latents, condition)))
    torch.testing.assert_close(lora_gradient(model, value), plain, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("steps", [(0,), (0, 1), (1, 3)])
def test_steps_without_graph_add_constants(model, condition, steps):
    """With the other steps' predictions frozen at their values, finite differences see the same gradient."""
    gradient = lora_gradient(model, play(model, condition, grad_steps=steps))
    schedule, noise = model.schedule(STEPS, condition), start(model, condition)
    sigma = [schedule.sigmas[i].expand(2) for i in range(STEPS)]
    with torch.no_grad():
        visited = rollout(model, condition, schedule, noise).visited
        constant = [model.predict(visited[i], sigma[i], condition) for i in range(STEPS)]

    def replay():
        latents = noise
        for i in range(STEPS):
            prediction = model.predict(latents, sigma[i], condition) if i in steps else constant[i]
            latents = model.step(latents, prediction, schedule, i, condition)
        return smooth_reward(model.decode(latents, condition))

    direction = gradient / gradient.norm()
    expected = finite_difference(model, replay, direction)
    torch.testing.assert_close(gradient @ direction, expected.double(), rtol=1e-5, atol=1e-9)


def test_detached_inputs_sum_each_steps_own_addition(model, condition):
    gradient = lora_gradient(model, play(model, condition, grad_steps=FULL, detach_input=True))
    alone = [lora_gradient(model, play(model, condition, grad_steps=(i,))) for i in range(STEPS)]
    torch.testing.assert_close(gradient, torch.stack(alone).sum(0), rtol=1e-7, atol=1e-12)
    full = lora_gradient(model, play(model, condition, grad_steps=FULL))
    assert (gradient - full).norm() > 1e-3 * full.norm()


def test_one_step_decodes_the_predicted_clean_clip(model, condition):
    schedule, noise = model.schedule(STEPS, condition), start(model, condition)
    done = rollout(model, condition, schedule, noise, grad_steps=(1,), one_step=True)
    sigma_B = schedule.sigmas[1].expand(2)
    prediction = model.predict(done.visited[1], sigma_B, condition)
    expected = model.pin(model.predicted_clean(done.visited[1], prediction, sigma_B), condition)
    torch.testing.assert_close(done.latents, expected)
    assert len(done.visited) == 2
    assert done.latents.requires_grad


@pytest.mark.parametrize("options", [{}, {"detach_input": True}, {"adapter_sigma_range": (0.6, 1.0)}])
def test_checkpointing_changes_nothing(model, condition, options):
    kept = lora_gradient(model, play(model, condition, grad_steps=FULL, checkpointing=False, **options))
    again = lora_gradient(model, play(model, condition, grad_steps=FULL, checkpointing=True, **options))
    torch.testing.assert_close(again, kept, rtol=0, atol=0)


def test_cutting_at_the_latents_equals_the_uncut_graph(model, condition):
    uncut = lora_gradient(model, play(model, condition, grad_steps=FULL))
    done = rollout(model, condition, model.schedule(STEPS, condition), start(model, condition), grad_steps=FULL)
    leaf = done.latents.detach().requires_grad_()
    frames = model.decode(leaf, condition)
    shown = frames.detach().requires_grad_()
    (pixel_gradient,) = torch.autograd.grad(smooth_reward(shown), shown)
    cut = lora_gradient(model, (done.latents * carry_back(frames, leaf, pixel_gradient)).sum())
    torch.testing.assert_close(cut, uncut, rtol=1e-7, atol=1e-12)


def test_adapter_range_turns_the_adapter_off_outside(model, condition):
    """sigma is 1, .75, .5, .25: active from .7 up, the LoRA acts and learns in the first two steps alone."""
    schedule, noise = model.schedule(STEPS, condition), start(model, condition)
    done = rollout(model, condition, schedule, noise, adapter_sigma_range=(0.7, 1.0))
    latents = noise
    with torch.no_grad():
        for i, scale in enumerate((1.0, 1.0, 0.0, 0.0)):
            prediction = model.predict(latents, schedule.sigmas[i].expand(2), condition, adapter_scale=scale)
            latents = model.step(latents, prediction, schedule, i, condition)
    torch.testing.assert_close(done.latents, latents)
    silent = play(model, condition, grad_steps=(2, 3), adapter_sigma_range=(0.7, 1.0))
    assert lora_gradient(model, silent).abs().max() == 0
    assert lora_gradient(model, play(model, condition, grad_steps=(0,), adapter_sigma_range=(0.7, 1.0))).norm() > 0


def test_the_pinned_frame_stays_and_gets_no_gradient(model, condition):
    done = rollout(model, condition, model.schedule(STEPS, condition), start(model, condition), grad_steps=FULL)
    assert torch.equal(done.latents[:, :4], condition.first_latents)
    weights = list(lora_parameters(model.transformer).values())
    pinned = torch.autograd.grad(done.latents[:, :4].sum() + 0 * done.latents.sum(), weights)
    assert all(gradient.abs().max() == 0 for gradient in pinned)


def test_reference_distance_differentiates_only_the_adapter_on_prediction(model, condition):
    latents, sigma_B = start(model, condition), torch.full((2,), 0.5)
    gradient = lora_gradient(model, reference_distance(model, latents, sigma_B, condition))
    direction = gradient / gradient.norm()
    expected = finite_difference(model, lambda: reference_distance(model, latents, sigma_B, condition), direction)
    torch.testing.assert_close(gradient @ direction, expected.double(), rtol=1e-5, atol=1e-9)
    for name, weight in lora_parameters(model.transformer).items():
        if "lora_B" in name:
            weight.data.zero_()
    assert reference_distance(model, latents, sigma_B, condition) == 0


def test_denoising_loss_of_a_perfect_prediction_is_zero(model, condition, monkeypatch):
    clean = model.encode_clip(torch.rand(2, 9, 3, 32, 32, dtype=torch.float64))
    clean = model.pin(clean, condition)

    def perfect(latents, sigma_B, condition, adapter_scale=1.0):
        return (latents - clean) / sigma_B[:, None, None]  # x_sigma - x_0 = sigma (noise - x_0)

    monkeypatch.setattr(model, "predict", perfect)
    draw = [torch.Generator().manual_seed(i) for i in range(2)]
    loss = denoising_loss(model, clean, condition, sigma_range=(0.2, 0.9), generators=draw)
    torch.testing.assert_close(loss, torch.zeros((), dtype=torch.float64), atol=1e-10, rtol=0)


def test_grad_steps_are_counted():
    assert choose_grad_steps("full", 8) == (0, 1, 2, 3, 4, 5, 6, 7)
    assert choose_grad_steps("last", 8, 2) == (6, 7)
    assert choose_grad_steps("early", 8, 3) == (0, 1, 2)
    assert choose_grad_steps("last", 2, 5) == (0, 1)
    draws = {choose_grad_steps("random", 8, 3, torch.Generator().manual_seed(i)) for i in range(20)}
    assert len(draws) > 5
    assert all(len(set(draw)) == 3 for draw in draws)
    with pytest.raises(ValueError, match="grad_steps must be one of"):
        choose_grad_steps("fulll", 8)
    with pytest.raises(ValueError, match="at least 1"):
        choose_grad_steps("last", 8, 0)

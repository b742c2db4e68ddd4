"""Encoded prompts: the same as ever, and no more of them held than the bound says."""

import pytest
import torch
from families import BY_NAME, ONE_EACH

from trainers.models.prompts import PromptCache

SIZE = {"fps": 16.0, "num_frames": 9, "height_px": 32, "width_px": 32}
FAMILIES = [BY_NAME[name] for name in ("ltx-t2v", "wan-t2v", "cogvideox-t2v", "hunyuan-t2v")]


def held(model):
    return sum(part.untyped_storage().nbytes() for text in model._prompt_cache.values() for part in text)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_what_is_held_of_prompts_does_not_grow_with_their_number(family):
    model = family.adapter(family.make())
    model.condition(["a first one"], **SIZE)
    one = held(model)
    for first in range(0, 300, 3):  # in batches, whose parts must not hold one another
        model.condition([f"prompt number {first + i}" for i in range(3)], **SIZE)
    assert held(model) <= 64 * one


@pytest.mark.parametrize("family", [family for family in ONE_EACH if family in FAMILIES], ids=str)
def test_a_prompt_that_was_forgotten_is_encoded_alike_again(family):
    model = family.adapter(family.make())
    before = model.encode_prompt(["a red ball falls"])
    for number in range(100):
        model.encode_prompt([f"prompt number {number}"])
    assert "a red ball falls" not in list(model._prompt_cache)
    after = model.encode_prompt(["a red ball falls"])
    assert all((one == other).all() for one, other in zip(before, after, strict=True))


def test_the_negative_prompt_stays():
    model = BY_NAME["wan-t2v"].adapter(BY_NAME["wan-t2v"].make())
    asked = []
    encode = model._encode_texts
    model._encode_texts = lambda texts: asked.extend(texts) or encode(texts)
    for number in range(100):
        model.condition([f"prompt number {number}"], guidance_scale=2.0, negative_prompt="blurred", **SIZE)
    assert asked.count("blurred") == 1


def test_the_bound_is_in_bytes_too():
    cache = PromptCache(prompts=64, size_bytes=4 * 1000)
    for number in range(20):
        (text,) = cache.get([f"{number}"], lambda texts: (torch.ones(len(texts), 300),))
        assert text[0].shape == (300,)
    assert cache.held_bytes == 3 * 1200 and list(cache) == ["17", "18", "19"]


def test_a_batch_of_more_prompts_than_are_kept_is_whole():
    cache = PromptCache(prompts=2)
    texts = [str(number) for number in range(5)]
    parts = cache.get(texts, lambda new: (torch.tensor([[float(text)] for text in new]),))
    assert [part.item() for (part,) in parts] == [0, 1, 2, 3, 4] and len(cache) == 2


def test_beside_an_offloaded_encoder_the_prompts_wait_with_it(monkeypatch):
    model = BY_NAME["wan-t2v"].adapter(BY_NAME["wan-t2v"].make())
    model.offload_text = True
    moved = []
    kept = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self.shape) or kept(self))
    model.encode_prompt(["a red ball falls"])
    assert moved

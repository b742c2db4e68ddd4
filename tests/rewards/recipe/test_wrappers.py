"""Reward functions in the manner of TRL, and async ones."""

import asyncio
import functools

import pytest
import torch
from discs import free_fall, make_world

from reward_physics.observation import Observation
from rewards.recipe.combine import Term, combine
from rewards.recipe.wrappers import own_parameters, takes_observation, to_scores, wrapped


def observe():
    world = make_world(free_fall(batch=3, frames=6))
    return Observation(world.video, world.instruments(), grad=False)


def lengths(prompts, completions, height_m, gain=1.0, **columns):
    assert [clip.shape for clip in completions] == [(6, 3, 64, 64)] * 3
    return [None if not prompt else gain * height for prompt, height in zip(prompts, height_m, strict=True)]


COLUMNS = {"caption": ["a", "", "ccc"], "height_m": [1.0, 2.0, 3.0]}


def judge(reward, **more):
    return combine(observe(), [Term(name="it", reward=wrapped(reward), **more)], COLUMNS, unmeasurable=-1.0)


def test_a_trl_style_reward_with_none():
    result = judge(lengths, parameters={"gain": 2.0})
    assert result.total_B.tolist() == [2.0, -1.0, 6.0]
    assert result.reasons[1] == "reward it could not be measured"


def test_only_the_columns_that_it_names():
    def fps_alone(completions, fps):
        return fps

    assert judge(fps_alone).total_B.tolist() == [16.0] * 3


def test_async_rewards_of_both_kinds_also_inside_a_running_loop():
    async def later(prompts, completions, **columns):
        await asyncio.sleep(0)
        return lengths(prompts, completions, **columns)

    async def own(observation, *, gain=1.0):
        await asyncio.sleep(0)
        return gain * torch.ones(observation.batch_size)

    async def in_a_loop():
        return judge(later)

    assert judge(later).total_B.tolist() == [1.0, -1.0, 3.0]
    assert asyncio.run(in_a_loop()).total_B.tolist() == [1.0, -1.0, 3.0]
    assert judge(own, parameters={"gain": 4.0}).total_B.tolist() == [4.0] * 3


def test_they_carry_no_gradient_and_a_plain_reward_stays_itself():
    def plain(observation):
        return torch.zeros(observation.batch_size)

    assert wrapped(plain) is plain
    assert not Term(name="it", reward=wrapped(lengths)).differentiable
    world = make_world(free_fall(frames=6))
    observation = Observation(
        world.video.with_frames(world.video.frames_BTCHW.clone().requires_grad_()), world.instruments(), grad=True
    )
    with pytest.raises(ValueError, match="reward it says that it is not differentiable"):
        combine(observation, [Term(name="it", reward=wrapped(lengths))], COLUMNS)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], r"shape \(3,\), got \(2,\)"),
        ([1.0, "2", 3.0], "number or None for clip 1, got str"),
        ([1.0, True, 3.0], "number or None for clip 1, got bool"),
        ("abc", "expected a list"),
        (3.0, "expected a list"),
        ([1.0, float("inf"), 0.0], "got inf for clip 1"),
    ],
)
def test_bad_lists_name_the_reward(returned, message):
    with pytest.raises(ValueError, match=f"reward it .*{message}"):
        judge(lambda prompts, completions: returned)


def test_a_trl_style_reward_that_raises_is_named():
    async def broken(prompts, completions):
        raise KeyError("colour")

    with pytest.raises(ValueError, match="reward it failed: KeyError: 'colour'"):
        judge(broken)


def test_what_counts_as_a_reward():
    assert takes_observation(lengths) and takes_observation(functools.partial(lengths, gain=2.0))
    assert takes_observation(lambda observation: None) and not takes_observation(lambda clip: None)
    assert not takes_observation(print) and not takes_observation(dict) and not takes_observation(lambda: None)
    assert own_parameters(lambda prompts, completions, gain=1.0: None) == ["gain"]
    assert own_parameters(lengths) is None


def test_scores_from_a_list():
    scores = to_scores([1, None, -0.5], torch.device("cpu"))
    assert scores.dtype == torch.float32 and scores[1].isnan() and scores[[0, 2]].tolist() == [1.0, -0.5]

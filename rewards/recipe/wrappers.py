"""Reward functions of other kinds, brought to `(observation, **columns) -> Tensor[B]`.

Three kinds are taken as they are: a function of an observation, a function in the manner of TRL,

    (prompts, completions, **columns) -> list[float | None]

and either of them as an `async def`. A list becomes a tensor, None becomes NaN, "cannot be measured". The last two
kinds carry no gradient.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reward_physics.observation import Observation

_GIVEN = ("observation", "prompts", "completions")


def is_list_style(reward: Callable[..., Any]) -> bool:
    """True where it asks for `completions`, as TRL's reward functions do."""
    return "completions" in inspect.signature(_called(reward)).parameters


def is_async(reward: Callable[..., Any]) -> bool:
    """True where calling it gives a coroutine."""
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None))  # noqa: B004


def takes_observation(reward: Callable[..., Any]) -> bool:
    """True where its first parameter is `observation`, or where it is in the manner of TRL."""
    try:
        names = list(inspect.signature(_called(reward)).parameters)
    except (TypeError, ValueError):
        return False
    if inspect.isclass(reward):
        names = names[1:]
    return "completions" in names or names[:1] == ["observation"]


def own_parameters(reward: Callable[..., Any]) -> list[str] | None:
    """The names that a recipe's `parameters` may give; None where it takes any."""
    signature = inspect.signature(reward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values()):
        return None
    return [name for name in signature if name not in _GIVEN]


def wrapped(reward: Callable[..., Any]) -> Callable[..., Any]:
    """The reward itself where it is a plain one, otherwise wrapped."""
    if is_list_style(reward) or is_async(reward):
        return Wrapped(reward)
    return reward


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """A TRL-style or async reward as one of an observation.

    Args:
        reward: the function.
    """

    reward: Callable[..., Any]
    differentiable = False

    def __call__(self, observation: Observation, **columns: Any) -> Tensor:
        """The scores (B,), float32, NaN for None.

        A TRL-style function gets `prompts` (the column `caption`, or `prompts` where there is one), `completions` (a
        list of clips T, 3, H, W in [0, 1]), and of the columns, and `fps`, what it has room for.

        Raises:
            ValueError: not one number or None per clip.
        """
        video = observation.video
        first: tuple[Any, ...] = (observation,)
        if is_list_style(self.reward):
            first = ()
            prompts = columns.pop("prompts", columns.get("caption", [""] * video.batch_size))
            given = {"completions": list(video.frames_BTCHW.detach()), "prompts": list(prompts)}
            columns = {"fps": video.fps_B.tolist()} | columns | given
        names = inspect.signature(self.reward).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in names.values()):
            columns = {name: value for name, value in columns.items() if name in names}
        scores = self.reward(*first, **columns)
        if inspect.isawaitable(scores):
            scores = _finished(scores)
        return scores if isinstance(scores, Tensor) else to_scores(scores, video.device)


def to_scores(scores: Any, device: torch.device) -> Tensor:
    """A list of numbers and None as float32 scores with NaN.

    Raises:
        ValueError: no list, or something else in it.
    """
    if not isinstance(scores, Sequence) or isinstance(scores, str | bytes):
        raise ValueError(f"expected a list with one number or None a clip, got {type(scores).__name__}")
    for place, score in enumerate(scores):
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise ValueError(f"expected a number or None for clip {place}, got {type(score).__name__}")
    return torch.tensor([float("nan") if score is None else float(score) for score in scores], device=device)


def _called(reward: Callable[..., Any]) -> Callable[..., Any]:
    return reward.__call__ if inspect.isclass(reward) else reward


def _finished(scores: Awaitable[Any]) -> Any:
    """The awaited scores, in a thread of their own where a loop (a notebook's) is running already."""

    async def wait() -> Any:
        return await scores

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, wait()).result()

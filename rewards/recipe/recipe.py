"""A recipe: the YAML file that says which instruments look at a clip and which rewards judge what they saw."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from rewards.recipe.combine import RewardResult, Term, combine, total_of
from rewards.recipe.config import NamedReward, RecipeConfig, RewardConfig
from rewards.recipe.file import read_recipe
from rewards.recipe.load import load_reward
from rewards.recipe.wrappers import own_parameters, wrapped


class Recipe:
    """Instruments and rewards, loaded and ready to judge.

    Args:
        config: what the file said.
        instruments: estimators and settings.
        base: folder that relative files of rewards start from.
    """

    def __init__(self, config: RecipeConfig, instruments: Instruments, *, base: Path | None = None) -> None:
        self.config, self.instruments = config, instruments
        self.terms = _terms(config.rewards, base)
        self.gates = _terms(config.gates, base)
        self.held_out = _terms(config.held_out, base)

    def check_differentiable(self) -> None:
        """Raise ValueError where a trained reward or a gate says that it has no gradient."""
        for term in [*self.terms, *self.gates]:
            if not term.differentiable:
                raise ValueError(
                    f"reward {term.name} says that it is not differentiable and cannot be trained on by its gradient: "
                    "move it to held_out, or use it for weighted regression, selection or scoring"
                )

    def to(self, device: torch.device | str) -> Recipe:
        """Move the estimators; returns the recipe itself."""
        for estimator in (self.instruments.flow, self.instruments.depth, self.instruments.probe):
            if isinstance(estimator, torch.nn.Module):
                estimator.to(device)
        return self

    def observe(self, video: Video, grad: bool) -> Observation:
        """Look at clips with this recipe's instruments."""
        return Observation(video, self.instruments, grad=grad)

    def score(self, video: Video, columns: Mapping[str, Any] | None = None, grad: bool = False) -> RewardResult:
        """Judge a batch of clips.

        Args:
            video: the clips.
            columns: columns of the data set for the rewards that take them.
            grad: make the total differentiable to the clips' pixels.
        """
        if grad:
            self.check_differentiable()
        self.to(video.device)
        return self.score_observation(self.observe(video, grad), columns)

    def score_observation(self, observation: Observation, columns: Mapping[str, Any] | None = None) -> RewardResult:
        """Judge what was measured already, by instruments of this recipe's kind."""
        with torch.set_grad_enabled(observation.grad):
            return combine(
                observation,
                self.terms,
                columns or {},
                held_out=self.held_out,
                gates=self.gates,
                **self._worth,
            )

    def total(self, values: Mapping[str, Tensor], visibility_B: Tensor) -> tuple[Tensor, Tensor]:
        """What a batch is worth whose terms (those of a `RewardResult`) are known: totals and measurability, (B,)."""
        return total_of(
            self.terms,
            {term.name: values[term.name] for term in self.terms},
            {gate.name: values[f"gates/{gate.name}"] for gate in self.gates},
            visibility=lambda: visibility_B,
            **self._worth,
        )

    @property
    def _worth(self) -> dict[str, Any]:
        config = self.config
        return {
            "unmeasurable": config.unmeasurable,
            "visibility_weight": config.visibility_weight,
            "aggregation": config.aggregation,
        }


def load_recipe(path: str | Path, *, for_gradient: bool = False) -> Recipe:
    """Read a recipe and load what it names.

    Args:
        path: YAML file.
        for_gradient: refuse rewards that have no gradient.

    Raises:
        ValueError: anything wrong with the file, one line that says where and what to do.
    """
    config, base = read_recipe(path), Path(path).resolve().parent
    try:
        recipe = Recipe(config, config.instruments.build(base), base=base)
        if for_gradient:
            recipe.check_differentiable()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def _terms(configs: Sequence[NamedReward], base: Path | None) -> list[Term]:
    terms: list[Term] = []
    for config in configs:
        reward: Any = load_reward(config.name, base=base)
        parameters: Mapping[str, Any] = config.parameters
        _check_parameters(config.name, reward, parameters)
        if inspect.isclass(reward):
            reward, parameters = _made(config.name, reward, parameters), {}
        label, taken = config.label or config.name.rpartition(":")[2], {term.name for term in terms}
        label = next(name for name in (label, *(f"{label}_{n}" for n in range(2, 1000))) if name not in taken)
        weighed = {"weight": config.weight, "scale": config.scale} if isinstance(config, RewardConfig) else {}
        terms.append(Term(name=label, reward=wrapped(reward), parameters=parameters, **weighed))
    return terms


def _made(name: str, reward: type, parameters: Mapping[str, Any]) -> Any:
    """An instance of a dataclass with the recipe's parameters."""
    fields = [field for field in dataclasses.fields(reward) if field.init]
    none = dataclasses.MISSING
    for field in fields:
        if field.default is none and field.default_factory is none and field.name not in parameters:
            raise ValueError(f"reward {name} needs the parameter {field.name}: give it under parameters")
    try:
        return reward(**parameters)
    except Exception as error:
        raise ValueError(f"reward {name} cannot be made: {' '.join(str(error).split())}") from error


def _check_parameters(name: str, reward: Any, parameters: Mapping[str, Any]) -> None:
    """Parameters that the callable does not take are a mistake now, not at the first step."""
    known = own_parameters(reward)
    if known is None:
        return
    for key in parameters:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise ValueError(f"reward {name} has no parameter {key}: {hint}")

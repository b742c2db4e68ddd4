"""A recipe: the YAML file that says which instruments look at a clip and which rewards judge what they saw."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch
from pydantic import Field
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from reward_physics.masks import NAMES as MASKS
from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from rewards.combine import RewardResult, Term, combine
from rewards.load import load_reward

_LARGEST_FILE = 1 << 20
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class InstrumentsConfig(_Strict):
    """What the clips are measured with; see `reward_physics.observation.Instruments`.

    `flow` and `depth` are names for `load_flow` and `load_depth`, or null; `depth: known` takes the object's
    distance in the first frame from the data.
    """

    flow: Name | None = "embedded"
    depth: Name | None = "embedded"
    mask: str = "segmenter"
    flow_updates: int = Field(default=6, ge=1, le=64)
    flow_stride: int = Field(default=1, ge=1)
    autocast: bool = False
    first_frame_distance: bool = False
    depth_gradient: bool = False
    depth_bias: Finite = Field(default=0.02, ge=0)
    line_of_sight_speed_m_s: Finite = Field(default=0.2, ge=0)
    floor_height_m: Finite | None = None
    centroid_noise_px: Finite = Field(default=0.1, gt=0)
    flow_noise_px: Finite = Field(default=0.2, gt=0)
    min_frames: int = Field(default=5, ge=4)

    @pydantic.field_validator("mask")
    @classmethod
    def _known_mask(cls, value: str) -> str:
        if value not in MASKS:
            near = difflib.get_close_matches(value, MASKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(MASKS)}"
            raise ValueError(f"unknown mask {value!r}: {hint}")
        return value

    def build(self) -> Instruments:
        """Load the estimators."""
        from reward_physics.depth import load_depth
        from reward_physics.flow import load_flow

        settings = self.model_dump(exclude={"flow", "depth", "flow_updates", "autocast"})
        known = self.depth == "known"
        flow = None if self.flow is None else load_flow(self.flow, updates=self.flow_updates, autocast=self.autocast)
        depth = None if self.depth is None or known else load_depth(self.depth, autocast=self.autocast)
        return Instruments(flow=flow, depth=depth, known_distance=known, **settings)


class RewardConfig(_Strict):
    """One reward: its name (see `rewards.load`), its weight in the total and its keyword arguments."""

    name: Name
    weight: Finite = 1.0
    parameters: dict[str, Any] = Field(default_factory=dict)


class RecipeConfig(_Strict):
    """The whole file."""

    instruments: InstrumentsConfig = InstrumentsConfig()
    rewards: list[RewardConfig] = Field(min_length=1)
    unmeasurable: Literal["worst"] | Finite = "worst"
    visibility_weight: Finite = Field(default=0.1, ge=0)
    held_out: list[RewardConfig] = Field(default_factory=list)

    @pydantic.field_validator("unmeasurable", mode="before")
    @classmethod
    def _worst_or_number(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value != "worst" and not number:
            raise ValueError(f"must be `worst` or a finite number, got {str(value)[:60]!r}")
        return value


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
        self.held_out = _terms(config.held_out, base)

    def check_differentiable(self) -> None:
        """Raise ValueError where a trained reward says that it has no gradient."""
        for term in self.terms:
            if not term.differentiable:
                raise ValueError(
                    f"reward {term.name} says that it is not differentiable and cannot be trained on by its gradient: "
                    "move it to held_out, or use it for weighted regression, selection or scoring"
                )

    def to(self, device: torch.device | str) -> Recipe:
        """Move the estimators; returns the recipe itself."""
        for estimator in (self.instruments.flow, self.instruments.depth):
            if isinstance(estimator, torch.nn.Module):
                estimator.to(device)
        return self

    def observe(self, video: Video, grad: bool) -> Observation:
        """Look at clips with this recipe's instruments."""
        return Observation(video, self.instruments, grad=grad)

    def judge(self, video: Video, columns: Mapping[str, Any] | None = None, grad: bool = False) -> RewardResult:
        """Judge a batch of clips.

        Args:
            video: the clips.
            columns: columns of the data set for the rewards that take them.
            grad: make the total differentiable to the clips' pixels.
        """
        if grad:
            self.check_differentiable()
        self.to(video.frames_BTCHW.device)
        with torch.set_grad_enabled(grad):
            return combine(
                self.observe(video, grad),
                self.terms,
                columns or {},
                unmeasurable=self.config.unmeasurable,
                visibility_weight=self.config.visibility_weight,
                held_out=self.held_out,
            )


def load_recipe(path: str | Path, *, for_gradient: bool = False) -> Recipe:
    """Read a recipe and load what it names.

    Args:
        path: YAML file.
        for_gradient: refuse rewards that have no gradient.

    Raises:
        ValueError: anything wrong with the file, one line that says where and what to do.
    """
    config = read_recipe(path)
    try:
        recipe = Recipe(config, config.instruments.build(), base=Path(path).resolve().parent)
        if for_gradient:
            recipe.check_differentiable()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def read_recipe(path: str | Path) -> RecipeConfig:
    """Read and validate a recipe without loading anything it names. Raises ValueError with the line of the mistake."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such recipe: name a YAML file such as configs/recipes/gravity.yaml")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path}: a recipe is at most 1 MB")
    try:
        text = path.read_text(encoding="utf-8")
        node = _yaml().compose(text)
        data = _yaml().load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f" line {mark.line + 1}:"
        said = " ".join((error.problem or error.context or "cannot be read").split("\n")[0].split())
        raise ValueError(f"{path}:{line} {said}") from error
    except (YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a recipe is a mapping with `rewards:`, got {type(data).__name__}")
    try:
        return RecipeConfig.model_validate(data)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: {_explain(error, node)}") from error


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _explain(error: pydantic.ValidationError, node: Any) -> str:
    """The first mistake in one line: line number, key, what is wrong, and the nearest name for an unknown key."""
    first = error.errors()[0]
    # Pydantic names the members of a union in the place: they are no keys of the file.
    union = re.compile(r"literal|constrained|float")
    place = tuple(part for part in first["loc"] if not (isinstance(part, str) and union.match(part)))
    line = _line_of(node, place)
    where = ".".join(str(part) for part in place) or "recipe"
    if first["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"line {line}: unknown key {where}: {hint}"
    said = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f", got {str(first['input'])[:60]!r}"
    return f"line {line}: {where}: {said}{got}"


def _keys_at(place: tuple[Any, ...]) -> list[str]:
    if place[:1] == ("instruments",):
        return list(InstrumentsConfig.model_fields)
    if place[:1] in (("rewards",), ("held_out",)):
        return list(RewardConfig.model_fields)
    return list(RecipeConfig.model_fields)


def _line_of(node: Any, place: tuple[Any, ...]) -> int:
    """Line (from 1) of the deepest node on the way to `place` that the file has."""
    line = node.start_mark.line
    for part in place:
        if isinstance(node, MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _terms(configs: list[RewardConfig], base: Path | None) -> list[Term]:
    terms: list[Term] = []
    for config in configs:
        reward: Any = load_reward(config.name, base=base)
        parameters: Mapping[str, Any] = config.parameters
        _check_parameters(config.name, reward, parameters)
        if inspect.isclass(reward):
            reward, parameters = reward(**parameters), {}
        label, taken = config.name.rpartition(":")[2], {term.name for term in terms}
        label = next(name for name in (label, *(f"{label}_{n}" for n in range(2, 1000))) if name not in taken)
        terms.append(Term(name=label, reward=reward, weight=config.weight, parameters=parameters))
    return terms


def _check_parameters(name: str, reward: Any, parameters: Mapping[str, Any]) -> None:
    """Parameters that the callable does not take are a mistake now, not at the first step."""
    signature = inspect.signature(reward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values()):
        return
    known = list(signature) if inspect.isclass(reward) else list(signature)[1:]
    for key in parameters:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise ValueError(f"reward {name} has no parameter {key}: {hint}")

"""A recipe in words: what is measured, which rewards judge it, what each needs, and what the unmeasurable is worth."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_physics.camera import Camera
from reward_physics.estimators.depth import Depth
from reward_physics.objects.finder import THE_OBJECT
from reward_physics.objects.finders import FINDERS
from reward_physics.observation import Instruments, Observation
from reward_physics.video import Video
from rewards.recipe.combine import Term
from rewards.recipe.config import RecipeConfig
from rewards.recipe.file import read_recipe
from rewards.recipe.recipe import Recipe
from rewards.recipe.wrappers import Wrapped, own_parameters

_MEASUREMENTS = {"flow_BSHW2": "flow", "depth": "depth", "mask_BTHW": "the object's mask"}


def explain(path: str | Path) -> str:
    """What a recipe does; loads its rewards, and not its networks.

    Raises:
        ValueError: anything wrong with the recipe, one line.
    """
    config, base = read_recipe(path), Path(path).resolve().parent
    try:
        config.instruments.check_weights(base)
        recipe = Recipe(config, _stand_ins(config), base=base)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    lines = [f"{path}", "", "Instruments", *_instruments(config), ""]
    for title, terms in (("Rewards", recipe.terms), ("Gates", recipe.gates), ("Held out", recipe.held_out)):
        if terms:
            lines += [title, *(line for term in terms for line in _reward(term, title, config)), ""]
    return "\n".join([*lines, "Total", *_total(config)]) + "\n"


def _instruments(config: RecipeConfig) -> list[str]:
    instruments, finder = config.instruments, FINDERS[config.instruments.mask]
    depth = {None: "none: nothing is known in metres", "known": "the object's own, in the first frame, from the data"}
    flow = f"{instruments.flow}, {instruments.flow_updates} updates, stride {instruments.flow_stride}"
    return [
        f"  flow: {'none' if instruments.flow is None else flow}",
        f"  depth: {depth.get(instruments.depth, instruments.depth)}",
        f"  mask: {finder.name}, {finder.description}",
        f"  needs {THE_OBJECT} in the first frame: {'yes' if finder.needs_first_mask else 'no'}",
    ]


def _reward(term: Term, title: str, config: RecipeConfig) -> list[str]:
    reward = term.reward.reward if isinstance(term.reward, Wrapped) else term.reward
    first = (inspect.getdoc(reward) or "no docstring").splitlines()[0].rstrip(":,")
    weight = "" if title == "Gates" else f", weight {term.weight:g}" + (f", scale {term.scale:g}" if term.scale else "")
    gradient = "" if term.differentiable else " (no gradient: not for ORO's loss)"
    lines = [f"  {term.name}{weight}{gradient}", f"    {first}"]
    settings = {name: parameter.default for name, parameter in inspect.signature(reward).parameters.items()}
    for name in own_parameters(reward) or []:
        if name in term.parameters:
            lines.append(f"    {name} = {term.parameters[name]!r}")
        elif settings[name] is not inspect.Parameter.empty:
            lines.append(f"    {name} = {settings[name]!r} (default)")
    # A dataclass has its parameters inside.
    if dataclasses.is_dataclass(reward):
        lines += [f"    {field.name} = {getattr(reward, field.name)!r}" for field in dataclasses.fields(reward)]
    return [*lines, *(f"    {line}" for line in needs(term, config))]


def needs(term: Term, config: RecipeConfig) -> list[str]:
    """What a reward looks at, found by calling it once on a blank clip with idle instruments."""
    if not term.differentiable:
        return ["needs: the frames (it was not tried out)"]
    columns = [
        name
        for name, parameter in inspect.signature(term.reward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and name != "observation" and name not in term.parameters
    ]  # fmt: skip
    if columns:
        return [f"needs: the column{'s' * (len(columns) > 1)} {', '.join(columns)} of the data"]
    instruments = _stand_ins(config)
    observation = Observation(_blank(camera=True), instruments, grad=False)
    blind = Observation(_blank(camera=False), instruments, grad=False)
    with torch.no_grad():
        try:
            term(observation, {})
            tried = ""
        except ValueError as error:
            tried = f" (on a blank clip it said: {' '.join(str(error).split())[:120]})"
        try:
            term(blind, {})
            metres = False
        except ValueError as error:
            metres = "refused" in str(error)
    read = [words for name, words in _MEASUREMENTS.items() if observation.__dict__.get(name) is not None]
    wants = [*(["metres: a camera and metric depth"] if metres else []), *(read or ["the frames alone"])]
    return [f"needs: {', '.join(wants)}{tried}"]


def _total(config: RecipeConfig) -> list[str]:
    how = {
        "sum": "the weighted sum",
        "normalised_sum": "the weighted sum, each reward over its scale or its spread in the batch",
        "product": "the product, each reward to the power of its weight",
    }
    lines = [f"  {how[config.aggregation]}"]
    if config.gates:
        lines.append("  each gate multiplies what a clip is worth above the price of an unmeasurable one")
    price = "as much as the worst of its batch" if config.unmeasurable == "worst" else f"{config.unmeasurable:g}"
    pull = f", less up to {config.visibility_weight:g} for being out of sight" if config.visibility_weight else ""
    return [*lines, f"  a clip that cannot be measured is worth {price}{pull}"]


def _stand_ins(config: RecipeConfig) -> Instruments:
    """Instruments of the recipe's kind that see nothing and cost nothing."""
    settings = config.instruments.model_dump(exclude={"flow", "depth", "flow_updates", "autocast"})
    known = config.instruments.depth == "known"
    return Instruments(
        flow=None if config.instruments.flow is None else _no_motion,
        depth=None if config.instruments.depth is None or known else _flat,
        known_distance=known,
        **settings,
    )


def _no_motion(frames_BTCHW: Tensor, *, stride: int = 1) -> Tensor:
    batch, frames, _, height, width = frames_BTCHW.shape
    return frames_BTCHW.new_zeros(batch, frames - stride, height, width, 2)


def _flat(frames_BTCHW: Tensor, camera: Any = None) -> Depth:
    flat = torch.ones_like(frames_BTCHW[:, :, 0])
    return Depth(depth_BTHW=4 * flat, metric=True, mask_logits_BTHW=20 * frames_BTCHW[:, :, 0] - 10)


def _blank(*, camera: bool) -> Video:
    """A grey clip with a bright square that stands still."""
    frames = torch.full((1, 12, 3, 32, 32), 0.2)
    frames[..., 12:20, 12:20] = 0.9
    return Video(
        frames_BTCHW=frames,
        fps_B=torch.tensor([16.0]),
        camera=_camera(32) if camera else None,
        first_mask_BHW=(frames[:, 0, 0] > 0.5).float(),
        object_depth_m_B=torch.tensor([4.0]),
    )


def _camera(side_px: int) -> Camera:
    return Camera.looking(
        height_px=side_px,
        width_px=side_px,
        fov_y_deg=45.0,
        pitch_down_deg=0.0,
        position_m=(0.0, 0.0, 1.0),
        batch_size=1,
    )

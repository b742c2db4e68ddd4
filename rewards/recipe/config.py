"""What a recipe file may say: the keys, their types and their ranges."""

from __future__ import annotations

import difflib
import math
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from reward_physics.objects.finders import FINDERS
from reward_physics.observation import Instruments
from rewards.recipe.combine import Aggregation
from rewards.recipe.load import known_rewards

SCHEMA = Path(__file__).resolve().parents[2] / "configs" / "recipes" / "recipe.schema.json"
"""The JSON Schema that editors read."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class InstrumentsConfig(_Strict):
    """What the clips are measured with; see `reward_physics.observation.Instruments`.

    `flow` and `depth` are names for `load_flow` and `load_depth`, or null; a path is looked for beside the recipe, then
    from the working directory. `depth: known` takes the object's distance in the first frame from the data.
    """

    flow: Name | None = "embedded"
    depth: Name | None = "embedded"
    mask: Annotated[str, Field(json_schema_extra={"enum": list(FINDERS)})] = "segmenter"
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
        if value not in FINDERS:
            near = difflib.get_close_matches(value, FINDERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(FINDERS)}"
            raise ValueError(f"unknown mask {value!r}: {hint}")
        return value

    def build(self, base: Path | None = None) -> Instruments:
        """Load the estimators; paths of weights are looked for in `base`, the recipe's folder, first."""
        from reward_physics.estimators.flow import load_flow
        from reward_physics.estimators.load import load_depth

        settings = self.model_dump(exclude={"flow", "depth", "flow_updates", "autocast"})
        known = self.depth == "known"
        common: dict[str, Any] = {"autocast": self.autocast, "base": base}
        flow = None if self.flow is None else load_flow(self.flow, updates=self.flow_updates, **common)
        depth = None if self.depth is None or known else load_depth(self.depth, **common)
        return Instruments(flow=flow, depth=depth, known_distance=known, **settings)

    def check_weights(self, base: Path | None = None) -> None:
        """Raise ValueError where the weights that `build` would read do not exist; loads nothing."""
        from reward_physics.estimators.flow import find_flow
        from reward_physics.estimators.load import find_depth

        if self.flow is not None:
            find_flow(self.flow, base)
        if self.depth not in (None, "known"):
            find_depth(str(self.depth), base)


class NamedReward(_Strict):
    """A reward by name (see `rewards.recipe.load`), its keyword arguments, and the name it has in logs."""

    name: Name = Field(description="`gravity`, `file.py:function` or `package.module:function`")
    parameters: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the reward")
    label: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=60)] | None = Field(
        default=None, description="its name in logs and messages; by default the function's"
    )


class RewardConfig(NamedReward):
    """A reward to train on or to report, its weight in the total, and the difference of it that counts as 1."""

    weight: Finite = Field(default=1.0, description="factor in the total")
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="a difference of this reward that counts as 1; by default 1, or the spread over the batch under "
        "normalised_sum",
    )


class GateConfig(NamedReward):
    """A reward in [0, 1] that multiplies what a clip is worth above the price of an unmeasurable one."""


class RecipeConfig(_Strict):
    """A recipe: which instruments look at a clip, and which rewards judge what they saw."""

    instruments: InstrumentsConfig = InstrumentsConfig()
    rewards: list[RewardConfig] = Field(min_length=1, description="rewards that are trained on")
    gates: list[GateConfig] = Field(default_factory=list, description="rewards in [0, 1] that multiply")
    aggregation: Aggregation = Field(default="sum", description="how several rewards become one")
    unmeasurable: Literal["worst"] | Finite = Field(default="worst", description="worth of an unmeasurable clip")
    visibility_weight: Finite = Field(default=0.1, ge=0, description="pull of unmeasurable clips back into sight")
    held_out: list[RewardConfig] = Field(default_factory=list, description="reported and never trained on")

    @pydantic.field_validator("unmeasurable", mode="before")
    @classmethod
    def _worst_or_number(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        if value != "worst" and not number:
            raise ValueError(f"must be `worst` or a finite number, got {reprlib.repr(value)[:60]}")
        return value

    @pydantic.model_validator(mode="after")
    def _weights_of_a_product(self) -> RecipeConfig:
        wrong = [reward.name for reward in self.rewards if reward.weight <= 0]
        if self.aggregation == "product" and wrong:
            raise ValueError(f"aggregation product needs weights > 0, reward {wrong[0]} has another: it is an exponent")
        return self


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, with the shipped rewards' names as examples for an editor's completion."""
    schema = RecipeConfig.model_json_schema()
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "reward-physics recipe"}
    for definition in ("RewardConfig", "GateConfig"):
        schema["$defs"][definition]["properties"]["name"]["examples"] = known_rewards()
    return schema

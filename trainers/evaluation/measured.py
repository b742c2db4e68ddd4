"""Arms with everything that the instruments measured on their clips."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor

from reward_physics.figures.distributions import pairwise_rms
from trainers.evaluation.arms import Arm
from trainers.settings.options import Positive, Rate, option, strict
from trainers.settings.sampling import SamplingConfig

FROM_A_FRAME = ("configs/recipes/gravity.yaml", "configs/recipes/judge_scene.yaml")
FROM_TEXT = "configs/recipes/text_to_video.yaml"
"""The recipes that judge where none is named: the reward's and the judge's."""


@strict
class EvaluationConfig(SamplingConfig):
    """Evaluate video models on held-out scenes of a world."""

    model_name_or_path: str = option("data/drops/model", "diffusers pipeline: a folder or a hub name")
    lora_path: str | None = option(None, "LoRA to evaluate beside the base; short for the arms base and lora=PATH")
    arm: list[str] = option(
        [], "what to compare: truth, autoencoder, base, NAME=PATH of a LoRA, of a run or of sampled clips"
    )
    world: str = option("drops", "world of the scenes: drops, or package.module:Class")
    split: str = option("heldout", "split of the scenes")
    dataset: str | None = option(None, "folder of splits; by default the shipped clips")
    scenes: Positive = option(64, "scenes of the split, from its beginning")
    at_rest: bool = option(False, "keep only scenes whose object is at rest in the first frame")
    seeds: list[int] = option([0], "seeds of the noise; every scene is made with each")
    recipe: str | None = option(
        None, f"recipe whose instruments gave the reward; by default {FROM_A_FRAME[0]}, of text alone {FROM_TEXT}"
    )
    judge: str | None = option(
        None, f"recipe whose instruments judge; by default {FROM_A_FRAME[1]}, of text alone {FROM_TEXT}"
    )
    tolerance: Rate = option(0.15, "relative error of g that still counts as right")
    batch_size: Positive = option(8, "clips made and measured at a time")
    output_dir: str = option("outputs/evaluation", "folder of the figures, the report and the clips")
    overwrite_output_dir: bool = option(False, "throw away clips in output_dir that were made with other settings")


@dataclass(frozen=True, kw_only=True)
class MeasuredArm:
    """An arm with everything measured on its clips, scene by scene, seed by seed."""

    arm: Arm
    rows: list[dict[str, Any]]
    seeds: list[int]
    frames: list[Tensor]
    readings: list[dict[str, Any]]
    """What each instrument read of each clip, of the kind that the world's report reads."""
    figures: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All arms of an evaluation and its JSON form."""

    arms: list[MeasuredArm]
    record: dict[str, Any]

    def g(self, name: str, instrument: str = "judge") -> Tensor:
        """g of every clip of an arm, m/s^2, scaled where 9.81 is not right; NaN where it could not be measured."""
        return torch.tensor([clip[instrument]["g_scaled_m_s2"] for clip in self.arm(name).figures])

    def arm(self, name: str) -> MeasuredArm:
        """The arm of this name."""
        return next(measured for measured in self.arms if measured.arm.name == name)


def diversity(measured: MeasuredArm) -> float:
    """How much the clips of one scene differ from seed to seed: mean over scenes of the pixels' pairwise distance."""
    seeds = len(set(measured.seeds))
    if seeds < 2:
        return math.nan
    scenes = [torch.stack(measured.frames[i : i + seeds]) for i in range(0, len(measured.frames), seeds)]
    return sum(pairwise_rms(frames_STCHW) for frames_STCHW in scenes) / len(scenes)


def plain(value: Any) -> Any:
    """JSON values: what is not finite becomes null, tuples lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

"""Arms with everything that the instruments measured on their clips."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from data.drops.truth import TrueScene
from data.rows import collate, reward_columns, to_video
from reward_physics.figures.distributions import pairwise_rms
from reward_physics.figures.metrics import STANDARD_G_M_S2
from trainers.clips.making import default_device
from trainers.evaluation.arms import Arm
from trainers.evaluation.figures import comparison, summary
from trainers.evaluation.readings import Reading, clip_figures, read
from trainers.learning.scoring import Judge, score
from trainers.settings.options import Positive, Rate, option, strict

INSTRUMENTS = ("reward", "judge")


@strict
class EvaluationConfig:
    """Evaluate video models on held-out scenes of drops."""

    model: str = option("data/drops/model", "diffusers pipeline: a folder or a hub name")
    lora: str | None = option(None, "LoRA to evaluate beside the base; short for the arms base and lora=PATH")
    arm: list[str] = option(
        [], "what to compare: truth, autoencoder, base, NAME=PATH of a LoRA, of a run or of sampled clips"
    )
    split: str = option("heldout", "split of the scenes")
    dataset: str | None = option(None, "folder of splits; by default the shipped clips")
    scenes: Positive = option(64, "scenes of the split, from its beginning")
    at_rest: bool = option(False, "keep only scenes whose object is at rest in the first frame")
    seeds: list[int] = option([0], "seeds of the noise; every scene is made with each")
    recipe: str = option("configs/recipes/gravity.yaml", "recipe whose instruments gave the reward")
    judge: str = option("configs/recipes/judge_scene.yaml", "recipe whose instruments judge")
    tolerance: Rate = option(0.15, "relative error of g that still counts as right")
    num_inference_steps: Positive = option(8, "denoising steps; a LoRA with its run's config.yaml takes that run's")
    guidance_scale: Annotated[float, Field(ge=1)] = option(1.0, "classifier-free guidance; 1 is none")
    batch_size: Positive = option(8, "clips made and measured at a time")
    output_dir: str = option("outputs/evaluation", "folder of the figures, the report and the clips")
    overwrite: bool = option(False, "throw away clips in output_dir that were made with other settings")


@dataclass(frozen=True, kw_only=True)
class MeasuredArm:
    """An arm with everything measured on its clips, scene by scene, seed by seed."""

    arm: Arm
    rows: list[dict[str, Any]]
    seeds: list[int]
    frames: list[Tensor]
    readings: list[dict[str, Reading]]
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


def measure(
    arm: Arm,
    rows: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    frames: list[Tensor],
    instruments: Mapping[str, Judge],
    scenes: Mapping[str, TrueScene],
    *,
    batch_size: int,
) -> MeasuredArm:
    """Every instrument's reading of every clip, and the figures they give."""
    each = [row for row in rows for _ in seeds]
    readings: list[dict[str, Reading]] = []
    figures: list[dict[str, Any]] = []
    with tqdm(total=len(each), desc=f"{arm.name}: measuring", unit="clip") as bar:
        for start in range(0, len(each), batch_size):
            some, pixels = each[start : start + batch_size], frames[start : start + batch_size]
            batch = collate(some)
            video = to_video(batch).with_frames(torch.stack(pixels)).to(default_device())
            by_name = {}
            for name, recipe in instruments.items():
                _, observation = score(recipe, video, reward_columns(batch))
                by_name[name] = read(observation)
            for clip, row in enumerate(some):
                readings.append({name: all_clips[clip] for name, all_clips in by_name.items()})
                g_m_s2 = float(row["g_m_s2"]) if arm.is_true else STANDARD_G_M_S2
                found = clip_figures(pixels[clip], readings[-1], scenes[str(row["id"])], g_m_s2=g_m_s2)
                about = {"scene": str(row["id"]), "caption": str(row["caption"]), "at_rest": bool(row["at_rest"])}
                figures.append(about | found)
                bar.update()
    return MeasuredArm(
        arm=arm, rows=each, seeds=[*seeds] * len(rows), frames=frames, readings=readings, figures=figures
    )


def record_of(config: EvaluationConfig, arms: Sequence[MeasuredArm]) -> dict[str, Any]:
    """The evaluation as JSON: settings, summary and clips of each arm, each arm against the first generated one."""
    generated = [measured for measured in arms if not measured.arm.is_true]
    return {
        "settings": asdict(config),  # pyright: ignore[reportArgumentType]
        "arms": {
            measured.arm.name: {
                "source": asdict(measured.arm),
                "summary": summary(measured.figures, tolerance=config.tolerance) | {"diversity": diversity(measured)},
                "clips": measured.figures,
            }
            for measured in arms
        },
        "against": generated[0].arm.name if generated else None,
        "comparisons": {
            measured.arm.name: comparison(generated[0].figures, measured.figures) for measured in generated[1:]
        },
    }


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

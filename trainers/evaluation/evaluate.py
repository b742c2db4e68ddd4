"""Held-out evaluation of models on the same scenes and noise, by the reward's instruments and by a judge's.

    python -m trainers.evaluation --lora outputs/oro_drops --at_rest --scenes 64 --output_dir outputs/evaluation
    python -m trainers.evaluation --arm truth autoencoder base last=outputs/last full=outputs/full --at_rest

Leaves evaluation.json (every figure of every clip), table.md, details.md and report.html with videos side by side.
Clips are kept under output_dir/arms, so a run that was stopped goes on where it was.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from data.rows import collate, reward_columns, to_video
from data.scenes import Scene
from reward_physics.distributions import pairwise_rms
from reward_physics.metrics import STANDARD_G_M_S2
from trainers.arms import Arm, Clips, parse_arms
from trainers.clips.folder import write_text
from trainers.clips.making import default_device, rows_of_split
from trainers.details import details_table
from trainers.learning.scoring import Judge, score
from trainers.readings import Reading, TrueScene, clip_figures, read
from trainers.settings.options import Positive, Rate, exit_with_one_line, option, parse_config, strict
from trainers.summary import comparison, markdown_table, summary

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


def evaluate(
    config: EvaluationConfig,
    *,
    instruments: Mapping[str, Judge] | None = None,
    known: Sequence[MeasuredArm] = (),
) -> Evaluation:
    """Make the clips that are missing, measure all, write the figures and the report.

    Args:
        instruments: recipes by the name of their column, the judge last; by default those that the config names.
        known: arms measured before on the same scenes and seeds, taken as they are.
    """
    texts = list(config.arm) or ["base"] + ([f"lora={config.lora}"] if config.lora else [])
    if config.arm and config.lora:
        raise ValueError("give either arm or lora: an arm NAME=PATH names a LoRA too")
    arms = parse_arms(texts, num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale)
    instruments = instruments or load_instruments(config)
    rows = rows_of_split(config.split, scenes=config.scenes, at_rest=config.at_rest, root=config.dataset)
    scenes = {str(row["id"]): TrueScene(Scene.from_json(str(row["scene"]))) for row in rows}
    clips = Clips(
        config.model, Path(config.output_dir) / "arms", batch_size=config.batch_size, overwrite=config.overwrite
    )
    measured = []
    before = {other.arm: other for other in known}
    for arm in arms:
        if arm in before:
            measured.append(before[arm])
            continue
        frames = clips.of(arm, rows, config.seeds)
        measured.append(measure(arm, rows, config.seeds, frames, instruments, scenes, batch_size=config.batch_size))
    evaluation = Evaluation(arms=measured, record=record_of(config, measured))
    write(config, evaluation)
    return evaluation


def load_instruments(config: EvaluationConfig) -> dict[str, Judge]:
    """The two recipes by the name of their column."""
    from rewards.recipe import load_recipe

    return {"reward": load_recipe(config.recipe), "judge": load_recipe(config.judge)}


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


def write(config: EvaluationConfig, evaluation: Evaluation) -> None:
    """evaluation.json, table.md, details.md, the pictures and report.html."""
    from trainers.evaluation_page import write_page

    folder = Path(config.output_dir)
    write_text(folder / "evaluation.json", json.dumps(plain(evaluation.record), indent=1) + "\n")
    write_text(folder / "table.md", markdown_table(evaluation.record) + "\n")
    write_text(folder / "details.md", details_table(evaluation.record) + "\n")
    write_page(folder, evaluation, tolerance=config.tolerance)


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


def gather_repeated(arguments: Sequence[str], flag: str) -> list[str]:
    """`--arm a --arm b` as `--arm a b`, which is what the parser takes."""
    values: list[str] = []
    others: list[str] = []
    target = others
    for argument in arguments:
        if argument.startswith("--"):
            target = values if argument == flag else others
            if argument == flag:
                continue
            if argument.startswith(f"{flag}="):
                values.append(argument.removeprefix(f"{flag}="))
                continue
        target.append(argument)
    return [*others, flag, *values] if values else others


def main() -> None:
    """The command."""
    config = parse_config(EvaluationConfig, gather_repeated(sys.argv[1:], "--arm"))
    evaluation = evaluate(config)
    print(f"{markdown_table(evaluation.record)}\n\n{details_table(evaluation.record)}")
    print(f"report: {Path(config.output_dir) / 'report.html'}")


if __name__ == "__main__":
    exit_with_one_line(main)

"""Arms of clips -> their figures, tables and report."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.rows import collate, reward_columns, to_video
from rewards.recipe.file import read_recipe
from trainers.clips.folder import write_text
from trainers.clips.making import default_device, rows_of_split
from trainers.evaluation.arms import Arm, Clips, parse_arms
from trainers.evaluation.measured import (
    FROM_A_FRAME,
    FROM_TEXT,
    Evaluation,
    EvaluationConfig,
    MeasuredArm,
    diversity,
    plain,
)
from trainers.evaluation.reports import report_of
from trainers.evaluation.scores import Scores
from trainers.evaluation.tables import details_table, markdown_table
from trainers.learning.of_text import check_without_scene, columns_of_text, without_scene
from trainers.learning.scoring import Scored, Scorer, joined, priced_together, score
from trainers.settings.sampling import Sampling


def evaluate(
    config: EvaluationConfig,
    *,
    instruments: Mapping[str, Scorer] | None = None,
    known: Sequence[MeasuredArm] = (),
) -> Evaluation:
    """Make the clips that are missing, measure all, write the figures and the report.

    Args:
        instruments: recipes by the name of their column, the judge last; by default those that the config names.
        known: arms measured before on the same scenes and seeds, taken as they are.
    """
    texts = list(config.arm) or ["base"] + ([f"lora={config.lora_path}"] if config.lora_path else [])
    if config.arm and config.lora_path:
        raise ValueError("give either arm or lora_path: an arm NAME=PATH names a LoRA too")
    for name in (config.recipe, config.judge):
        if name is not None and instruments is None:
            read_recipe(name)
    arms = parse_arms(texts, config, on_gpu=default_device() == "cuda")
    rows = rows_of_split(
        config.split, scenes=config.scenes, at_rest=config.at_rest, root=config.dataset, world=config.world
    )
    clips = Clips(
        config.model_name_or_path,
        Path(config.output_dir) / "arms",
        batch_size=config.batch_size,
        overwrite=config.overwrite_output_dir,
    )
    sampling = replace(arms[0].sampling, image_conditioning=clips.gives_first_frames(arms))
    arms = [replace(arm, sampling=sampling) for arm in arms]
    config = settled(config, sampling)
    instruments = instruments or load_instruments(config)
    report = report_of(config.world, image_conditioning=sampling.image_conditioning)
    measured = []
    before = {measured_arm.arm: measured_arm for measured_arm in known}
    for arm in arms:
        if arm in before:
            measured.append(before[arm])
            continue
        frames = clips.of(arm, rows, config.seeds)
        measured.append(measure_arm(arm, rows, config.seeds, frames, instruments, report, batch_size=config.batch_size))
    evaluation = Evaluation(arms=measured, record=record_of(config, measured))
    write(config, evaluation)
    return evaluation


def measure_arm(
    arm: Arm,
    rows: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    frames: list[Tensor],
    instruments: Mapping[str, Scorer],
    report: Scores,
    *,
    batch_size: int,
) -> MeasuredArm:
    """Every instrument's reading and score of every clip, and the figures they give.

    Args:
        report: of the world that the rows are of.
    """
    each = [row for row in rows for _ in seeds]
    readings: list[dict[str, Any]] = []
    figures: list[dict[str, Any]] = []
    parts: dict[str, list[Scored]] = {name: [] for name in instruments}
    with tqdm(total=len(each), desc=f"{arm.name}: measuring", unit="clip") as bar:
        for start in range(0, len(each), batch_size):
            batch_rows, pixels = each[start : start + batch_size], frames[start : start + batch_size]
            batch = collate(batch_rows)
            video = to_video(batch).with_frames(torch.stack(pixels)).to(default_device())
            columns = reward_columns(batch)
            if arm.sampling.image_conditioning is False:
                video, columns = without_scene(video), columns_of_text(columns)
            seen = {}
            for name, recipe in instruments.items():
                scored, observation = score(recipe, video, columns)
                parts[name].append(scored)
                seen[name] = report.read(observation, video)
            for clip, row in enumerate(batch_rows):
                readings.append({name: of_clips[clip] for name, of_clips in seen.items()})
                figures.append(about(row) | report.clip(pixels[clip], readings[-1], row, is_true=arm.is_true))
                bar.update()
    for name, recipe in instruments.items():  # a price or a spread is that of the arm, whatever the batches were
        scored = priced_together(recipe, joined(parts[name]))
        for clip, clip_figures in enumerate(figures):
            clip_figures[name] |= score_of(scored, clip)
    return MeasuredArm(
        arm=arm, rows=each, seeds=[*seeds] * len(rows), frames=frames, readings=readings, figures=figures
    )


def score_of(scored: Scored, clip: int) -> dict[str, Any]:
    """What a judge's recipe made of one clip: its total, whether its rewards were measured, and why not."""
    reason = scored.reasons[clip]
    return {
        "score": float(scored.reward_B[clip]),
        "scored": bool(scored.measurable_B[clip]),
        "score_reason": None if reason is None else str(reason),
    }


def about(row: Mapping[str, Any]) -> dict[str, Any]:
    """Which scene a clip is of."""
    known = {"scene": str(row["id"]), "caption": str(row["caption"])}
    return known | ({"at_rest": bool(row["at_rest"])} if "at_rest" in row else {})


def record_of(config: EvaluationConfig, arms: Sequence[MeasuredArm]) -> dict[str, Any]:
    """The evaluation as JSON: settings, summary and clips of each arm, each arm against the first generated one."""
    report = report_of(config.world, image_conditioning=config.image_conditioning)
    generated = [measured for measured in arms if not measured.arm.is_true]
    return {
        "settings": asdict(config),  # pyright: ignore[reportArgumentType]
        "arms": {
            measured.arm.name: {
                "source": asdict(measured.arm),
                "summary": report.summary(measured.figures, tolerance=config.tolerance)
                | {"diversity": diversity(measured)},
                "clips": measured.figures,
            }
            for measured in arms
        },
        "against": generated[0].arm.name if generated else None,
        "comparisons": {
            measured.arm.name: report.comparison(generated[0].figures, measured.figures) for measured in generated[1:]
        },
    }


def settled(config: EvaluationConfig, sampling: Sampling) -> EvaluationConfig:
    """The settings with what was decided in place of what was left open: the sampler and the recipes."""
    usual = (FROM_TEXT, FROM_TEXT) if sampling.image_conditioning is False else FROM_A_FRAME
    recipes = {"recipe": config.recipe or usual[0], "judge": config.judge or usual[1]}
    return replace(config, **asdict(sampling), **recipes)  # pyright: ignore[reportArgumentType]


def load_instruments(config: EvaluationConfig) -> dict[str, Scorer]:
    """The two recipes by the name of their column.

    Raises:
        ValueError: one that cannot be read, or that needs a scene which clips of text alone do not share.
    """
    from rewards.recipe.recipe import load_recipe

    recipes = {"reward": config.recipe or FROM_A_FRAME[0], "judge": config.judge or FROM_A_FRAME[1]}
    instruments: dict[str, Scorer] = {name: load_recipe(path) for name, path in recipes.items()}
    for name, path in recipes.items():
        if config.image_conditioning is False:
            check_without_scene(instruments[name], f"recipe {path}")
    return instruments


def write(config: EvaluationConfig, evaluation: Evaluation) -> None:
    """evaluation.json, table.md, details.md, the pictures and report.html."""
    from trainers.evaluation.page import write_page

    folder = Path(config.output_dir)
    write_text(folder / "evaluation.json", json.dumps(plain(evaluation.record), indent=1) + "\n")
    write_text(folder / "table.md", markdown_table(evaluation.record) + "\n")
    write_text(folder / "details.md", details_table(evaluation.record) + "\n")
    write_page(folder, evaluation, tolerance=config.tolerance)

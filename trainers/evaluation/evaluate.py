"""Arms of clips -> their figures, tables and report."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.drops.scenes import Scene
from data.drops.truth import TrueScene
from trainers.clips.folder import write_text
from trainers.clips.making import rows_of_split
from trainers.evaluation.arms import Clips, parse_arms
from trainers.evaluation.measured import Evaluation, EvaluationConfig, MeasuredArm, measure, plain, record_of
from trainers.evaluation.tables import details_table, markdown_table
from trainers.learning.scoring import Judge


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
    from rewards.recipe.recipe import load_recipe

    return {"reward": load_recipe(config.recipe), "judge": load_recipe(config.judge)}


def write(config: EvaluationConfig, evaluation: Evaluation) -> None:
    """evaluation.json, table.md, details.md, the pictures and report.html."""
    from trainers.evaluation.page import write_page

    folder = Path(config.output_dir)
    write_text(folder / "evaluation.json", json.dumps(plain(evaluation.record), indent=1) + "\n")
    write_text(folder / "table.md", markdown_table(evaluation.record) + "\n")
    write_text(folder / "details.md", details_table(evaluation.record) + "\n")
    write_page(folder, evaluation, tolerance=config.tolerance)

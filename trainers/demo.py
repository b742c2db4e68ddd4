"""The toolkit's main job on the embedded world, in minutes on two cores: teach the small video model how things fall.

    python -m trainers.demo

Measures the base model on held-out scenes, trains a LoRA by ORO, measures again on the same scenes and noise, and
prints g before and after with the paired difference and its 95 % interval, and whether that is more than chance.
Exit status 1 where it is not; `--require_change false` ends with 0 all the same.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import transformers

from data.worlds import world_of
from reward_physics.drawing import charts
from reward_physics.drawing.scenes import Strip, video_grid
from reward_physics.files.io import write_video
from trainers.clips.folder import fingerprint, write_text
from trainers.evaluation.evaluate import evaluate, load_instruments
from trainers.evaluation.figures import describe
from trainers.evaluation.measured import Evaluation, EvaluationConfig
from trainers.evaluation.reports import report_of
from trainers.evaluation.scores import Headline
from trainers.evaluation.tables import markdown_table, report_of_record
from trainers.learning.scoring import Scorer
from trainers.run.model_card import add_held_out
from trainers.run.tracking import read_metrics
from trainers.settings.options import Count, Positive, exit_with_one_line, option, parse_config, strict
from trainers.settings.oro import OROConfig
from trainers.settings.sampling import NAMES as SAMPLER

BEFORE, AFTER = "base", "trained"
SHOWN = 4


@strict
class DemoConfig:
    """Teach the embedded video model how things fall, and show it."""

    output_dir: str = option("outputs/demo", "folder of everything that the demo leaves")
    training: str = option("configs/oro_demo.yaml", "YAML file of the training's settings")
    max_steps: Positive | None = option(None, "optimizer steps; by default those of the settings")
    world: str = option("drops", "world of the held-out scenes: drops, or package.module:Class")
    scenes: Positive = option(64, "held-out scenes, at rest in the first frame")
    seed: Count = option(0, "seed of the noise that the held-out clips start from")
    recipe: str | None = option(None, "recipe that is trained on; by default that of the settings")
    judge: str = option("configs/recipes/judge_scene.yaml", "recipe that judges")
    overwrite_output_dir: bool = option(False, "start over, even where an earlier run can be gone on with")
    require_change: bool = option(True, "exit with status 1 where g has not come nearer to the truth beyond chance")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the demo found, by the judge."""

    headline: Headline

    @property
    def success(self) -> bool:
        """Whether the figure has changed by more than chance and has come nearer to the truth."""
        return self.headline.difference.excludes(0.0) and self.headline.error_difference.estimate < 0

    def lines(self) -> list[str]:
        """The outcome in words."""
        shown = self.headline
        lines = [
            f"held-out {shown.name} before  {shown.before:5.2f}{shown.unit} (median, by the judge)",
            f"held-out {shown.name} after   {shown.after:5.2f}{shown.unit}",
            f"paired difference  {describe(shown.difference, shown.unit)}, median",
            f"                   {describe(shown.mean_difference, shown.unit)}, mean",
        ]
        if self.success:
            return [*lines, shown.better]
        if not shown.difference.excludes(0.0):
            return [*lines, "the interval includes zero: train longer (--max_steps) or look at more scenes (--scenes)"]
        return [*lines, shown.worse]


def demonstrate(
    config: DemoConfig,
    *,
    train: Callable[[OROConfig], Any] | None = None,
    instruments: Mapping[str, Scorer] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Outcome:
    """The whole demo; `train`, `instruments` and `changes` of the evaluation replace what the config names."""
    started = time.perf_counter()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    folder = Path(config.output_dir)
    training = training_config(config)
    prepare(config, training)
    print(f"the demo writes to {folder}; {training.max_steps} steps, {config.scenes} held-out scenes")
    instruments = instruments or load_instruments(evaluation_config(config, training, [BEFORE], changes))

    report = report_of(config.world, image_conditioning=training.image_conditioning)

    print("\n1/3  the base model on held-out scenes")
    settings = evaluation_config(config, training, [BEFORE], changes)
    before = evaluate(settings, instruments=instruments)
    print(f"     {report.in_a_word(before.arm(BEFORE).figures)} by the judge ({_minutes(started)})")

    print("\n2/3  training by ORO")
    train_once(training, train)
    print(f"     LoRA in {training.output_dir} ({_minutes(started)})")

    print("\n3/3  the trained model on the same scenes and noise")
    arms = [BEFORE, f"{AFTER}={training.output_dir}"]
    settings = evaluation_config(config, training, arms, changes)
    both = evaluate(settings, instruments=instruments, known=before.arms)
    leave_pictures(folder, training, both)
    outcome = Outcome(headline=report.headline(both, BEFORE, AFTER))
    write_text(folder / "table.md", markdown_table(both.record) + "\n")
    shutil.copyfile(folder / "before_after.gif", Path(training.output_dir) / "before_after.gif")
    add_held_out(training.output_dir, markdown_table(both.record), picture="before_after.gif")
    print(f"\n{markdown_table(both.record)}\n")
    print("\n".join(outcome.lines()))
    print_files(folder, started)
    return outcome


def print_files(folder: Path, started: float) -> None:
    """Name what the demo left, and how long it took."""
    left = {
        "videos": "before_after.mp4",
        "pictures": "trajectories.png, g_by_arm.png, strip.png, reward_curve.png",
        "report": "evaluation/report.html",
        "LoRA": "oro/pytorch_lora_weights.safetensors",
    }
    print(f"\nin {folder}, after {_minutes(started)}:")
    print("\n".join(f"  {name:9} {files}" for name, files in left.items()))


def training_config(config: DemoConfig) -> OROConfig:
    """The settings of the training: the YAML file, with the demo's own folder and number of steps."""
    arguments = ["--config", config.training, "--output_dir", str(Path(config.output_dir) / "oro")]
    if config.recipe is not None:
        arguments += ["--recipe", config.recipe]
    if config.max_steps is not None:
        arguments += ["--max_steps", str(config.max_steps)]
    return parse_config(OROConfig, [*arguments, "--resume_from_checkpoint", "auto"])


def evaluation_config(
    config: DemoConfig, training: OROConfig, arms: list[str], changes: Mapping[str, Any] | None
) -> EvaluationConfig:
    """Held-out evaluation with the training's model and sampler."""
    settings = {
        "model_name_or_path": training.model_name_or_path,
        "arm": arms,
        "world": config.world,
        "scenes": config.scenes,
        "at_rest": "at_rest" in world_of(config.world).columns,
        "seeds": [config.seed],
        "recipe": training.recipe,
        "judge": config.judge,
        **{name: getattr(training, name) for name in SAMPLER},
        "output_dir": str(Path(config.output_dir) / "evaluation"),
        "overwrite_output_dir": True,
    }
    return EvaluationConfig(**(settings | dict(changes or {})))


def prepare(config: DemoConfig, training: OROConfig) -> None:
    """Make the folder; what an earlier demo with other settings trained is thrown away, the same settings go on.

    Raises:
        ValueError: the folder holds something that no demo wrote.
    """
    folder = Path(config.output_dir)
    record = folder / "demo.json"
    settings = {
        "training": Path(config.training).read_text(),
        "max_steps": training.max_steps,
        "recipe": Path(training.recipe).read_text() if Path(training.recipe).is_file() else training.recipe,
        "model": fingerprint(training.model_name_or_path),
    }
    if folder.exists() and any(folder.iterdir()) and not record.exists():
        raise ValueError(f"{folder} exists and holds something other than a demo: choose another output_dir")
    before = json.loads(record.read_text()) if record.exists() else settings
    if before != settings or config.overwrite_output_dir:
        print(f"starting over in {folder}")
        shutil.rmtree(training.output_dir, ignore_errors=True)
    write_text(record, json.dumps(settings, indent=2) + "\n")


def train_once(training: OROConfig, train: Callable[[OROConfig], Any] | None) -> None:
    """Train, or go on from the last checkpoint; a finished LoRA is kept."""
    if (Path(training.output_dir) / "pytorch_lora_weights.safetensors").exists():
        print("     finished before: --overwrite_output_dir trains again")
        return
    if train is None:
        from trainers.oro import train
    train(training)


def leave_pictures(folder: Path, training: OROConfig, evaluation: Evaluation) -> None:
    """Before and after as a video, the falls, the film strip, the reward curve, in the demo's own folder."""
    colours = charts.arm_colours([BEFORE, AFTER])
    report = report_of_record(evaluation.record)
    indices = report.typical(evaluation.arm(AFTER), count=SHOWN)
    rows = []
    for name in (BEFORE, AFTER):
        measured = evaluation.arm(name)
        rows.append(
            [
                Strip(
                    label=name,
                    frames_TCHW=measured.frames[index],
                    note=report.note(measured.figures[index]),
                    colour=colours[name],
                )
                for index in indices
            ]
        )
    grid = video_grid(rows)
    fps = float(evaluation.arm(BEFORE).rows[0]["fps"])
    for suffix in ("mp4", "gif"):
        write_video(folder / f"before_after.{suffix}", grid, fps=fps, min_side_px=0)
    for name, source in (("trajectories", "trajectories"), ("strip", "strip_0"), ("g_by_arm", "g_by_arm")):
        if (folder / "evaluation" / f"{source}.png").exists():  # a judge that reads no g leaves fewer
            shutil.copyfile(folder / "evaluation" / f"{source}.png", folder / f"{name}.png")
    draw_reward_curve(Path(training.output_dir) / "metrics.jsonl", folder / "reward_curve.png")


def draw_reward_curve(metrics: Path, path: Path) -> None:
    """Reward, what the reward says of g's error, and the measurable share over the steps."""
    lines = read_metrics(metrics) if metrics.exists() else []
    panels = {}
    for title, name in (("reward", "reward"), ("measurable share", "measurable"), ("gradient norm", "grad_norm")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            panels[title] = {title: tuple(zip(*points, strict=True))}
    if panels:
        charts.curves(path, panels, smooth=max(1, len(lines) // 12))


def _minutes(started: float) -> str:
    seconds = round(time.perf_counter() - started)
    return f"{seconds // 60} min {seconds % 60:02d} s"


def main() -> None:
    """The command."""
    config = parse_config(DemoConfig)
    outcome = demonstrate(config)
    sys.exit(1 if config.require_change and not outcome.success else 0)


if __name__ == "__main__":
    exit_with_one_line(main)

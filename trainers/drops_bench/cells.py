"""The cells of drops-bench: what each runs, what it needs first, about how long it takes on one CPU core."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ORO, RWR, PSFT = "configs/oro_drops.yaml", "configs/rwr_drops.yaml", "configs/psft_drops.yaml"
RECIPE, JUDGE = "configs/recipes/gravity_positions.yaml", "configs/recipes/judge_scene.yaml"
STEPS = {"oro": 60, "rwr": 40, "psft": 800}
"""Optimizer steps of one training, each about 20 minutes of one core: the same budget of time."""

MINUTES = {"oro": 22, "rwr": 22, "psft": 20, "evaluate": 3, "data": 10}
TRUE_CLIPS = {"train": 1 / 2, "practice": 1 / 3, "tall": 1 / 6}
"""Splits whose scenes supervised fine-tuning sees under true gravity, and their shares."""

FREE = ("--reference_weight", "0", "--denoising_weight", "0")
SMALL = ("--max_steps", "1", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "1")
QUICK = {
    "oro": SMALL,
    "psft": SMALL,
    "rwr": (*SMALL, "--num_generations", "2", "--prompts_per_round", "1"),
}

ABLATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rwr_uniform": ("rwr", ("--weighting", "uniform")),
    "rwr_positive": ("rwr", ("--weighting", "reward", "--target_ess", "0.25", "--absolute_scale", "0")),
    "rwr_best": ("rwr", ("--weighting", "reward", "--top_k", "1", "--absolute_scale", "0")),
    "rwr_cold": ("rwr", ("--weighting", "reward", "--target_ess", "0.1", "--absolute_scale", "0")),
    "rwr_hot": ("rwr", ("--weighting", "reward", "--target_ess", "0.6", "--absolute_scale", "0")),
    "rwr_n4": ("rwr", ("--num_generations", "4", "--prompts_per_round", "32")),
    "oro_last": ("oro", ("--grad_steps", "last")),
    "oro_early": ("oro", ("--adapter_sigma_range", "0.86", "1", "--denoising_weight", "0")),
    "oro_free": ("oro", FREE),
    "oro_control": ("oro", ("--reward_weight", "0")),
    "psft_physics": ("psft", ("--physics_weight", "1")),
}
"""One seed each: name, method, flags beyond those of the core table."""

MATCHES = ("flow_match", "depth_match", "segmentation_match")
"""Recipes that compare with the true clip, and so are given clips that fall at 9.81 m/s^2; a cell each where it is."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One command of the queue.

    Args:
        needs: names of the cells that must be done before.
        minutes: about, on one core.
        arm: the arm of the table whose figures it leaves, empty for other cells.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    minutes: float = 1.0
    arm: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides the cells.

    Args:
        folder: of the whole experiment.
        seeds: of the core table.
        stage: `core`, or `all` with the ablations.
        quick: one step and two scenes a cell, to see the queue run.
        true_clips: folder of splits and name of the split that supervised fine-tuning learns from; None writes it.
        changes: further flags of every training by a method.
    """

    folder: Path
    seeds: Sequence[int]
    stage: str
    quick: bool
    scenes: int
    split: str
    clips: int
    model: str
    true_clips: tuple[str, str] | None
    changes: Mapping[str, tuple[str, ...]]


def cells_of(plan: Plan) -> list[Cell]:
    """Every cell in the order of the queue: data, base, seed by seed the core arms, then the ablations."""
    cells = [] if plan.true_clips else [data_cell(plan, split, share) for split, share in TRUE_CLIPS.items()]
    cells.append(evaluate_cell(plan, "base", "base"))
    for seed in plan.seeds:
        for method in ("psft", "oro", "rwr"):  # others wait for the first
            cells += arm_cells(plan, method, method, seed, ())
        for method in ("oro", "rwr"):
            cells += arm_cells(plan, f"psft+{method}", method, seed, (), start=f"psft-{seed}")
    if plan.stage == "all":
        recipes = {name: Path("configs/recipes") / f"{name}.yaml" for name in MATCHES}
        matches = {name: str(path) for name, path in recipes.items() if path.exists()}
        ablations = ABLATIONS | {f"oro_{name}": ("oro", ("--recipe", recipe)) for name, recipe in matches.items()}
        for name, (method, flags) in ablations.items():
            cells += arm_cells(plan, name, method, plan.seeds[0], flags, true=name.removeprefix("oro_") in matches)
    return cells


def data_cell(plan: Plan, split: str, share: float) -> Cell:
    """Clips of the scenes of a split under true gravity."""
    clips = 2 if plan.quick else max(1, round(share * plan.clips))
    flags = ("--split", split, "--g_m_s2", "9.81", "--light", "--clips", str(clips))
    command = (sys.executable, "-m", "data.write", *flags, "--output_dir", str(plan.folder / "data"))
    return Cell(name=f"data-{split}", command=command, minutes=0.2 if plan.quick else MINUTES["data"] * share)


def arm_cells(
    plan: Plan,
    arm: str,
    method: str,
    seed: int,
    flags: tuple[str, ...],
    *,
    start: str | None = None,
    true: bool = False,
) -> list[Cell]:
    """The training of one arm with one seed, and its evaluation.

    Args:
        start: the cell whose LoRA it starts from.
        true: whether it is given clips that fall at 9.81 m/s^2, as PSFT always is.
    """
    name = f"{arm}-{seed}"
    needs = (start,) if start else ()
    config = {"oro": ORO, "rwr": RWR, "psft": PSFT}[method]
    steps = ("--max_steps", str(STEPS[method]), "--warmup_steps", "10")
    own = ("--output_dir", str(plan.folder / name), "--seed", str(seed), "--model_name_or_path", plan.model)
    run = ("--resume_from_checkpoint", "auto", "--save_steps", "20", "--eval_steps", "0", "--report_to", "none")
    if true or method == "psft":
        written = "+".join(f"{split}-g9.81" for split in TRUE_CLIPS)
        dataset, split = plan.true_clips or (str(plan.folder / "data"), written)
        own += ("--dataset", dataset, "--split", split)
        needs += () if plan.true_clips else tuple(f"data-{split}" for split in TRUE_CLIPS)
    if start:
        own += ("--lora_path", str(plan.folder / start))
    size = QUICK[method] if plan.quick else ()
    flags = (*plan.changes.get(method, ()), *flags, *size)
    command = (sys.executable, f"trainers/{method}.py", "--config", config, *steps, *own, *run, *flags)
    minutes = 0.2 if plan.quick else MINUTES[method]
    train = Cell(name=name, command=command, needs=needs, minutes=minutes)
    return [train, evaluate_cell(plan, arm, f"{name}={plan.folder / name}", needs=(name,), seed=seed)]


def evaluate_cell(plan: Plan, arm: str, source: str, *, needs: tuple[str, ...] = (), seed: int | None = None) -> Cell:
    """The evaluation of one arm on held-out scenes; all arms share scenes and noise."""
    name = f"evaluate-{arm}" if seed is None else f"evaluate-{arm}-{seed}"
    scenes = ("--split", plan.split, "--scenes", str(2 if plan.quick else plan.scenes), "--at_rest")
    judges = ("--recipe", RECIPE, "--judge", JUDGE, "--model_name_or_path", plan.model)
    command = (sys.executable, "-m", "trainers.evaluation", "--arm", source, *scenes, *judges)
    command += ("--output_dir", str(plan.folder / name))
    return Cell(name=name, command=command, needs=needs, minutes=0.2 if plan.quick else MINUTES["evaluate"], arm=arm)

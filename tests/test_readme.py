"""Every command of the README and of the guides runs, and their example files are what they say they are.

A command runs in a scratch folder that sees the checkout through links, so that what it writes stays there. Python and
YAML blocks whose first line is a comment with a file name are written beside it first. `SHORTER` holds the shorter form
of a command that takes too long. `WITHIN` names the command whose shorter form runs this one too. `ELSEWHERE` names the
test that runs the command.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MINUTES = 5

ONE_STEP = (
    "--max_steps 1 --per_device_train_batch_size 1 --gradient_accumulation_steps 1 --eval_steps 0 --report_to none"
)
TRAIN = "accelerate launch trainers/oro.py --config configs/oro_drops.yaml"
MONITOR = "python -m trainers.monitor outputs/oro_drops --watch 10"
DRY_RUN = "python trainers/oro.py --config configs/oro_drops.yaml --dry_run"
HOVER = "python trainers/oro.py --config configs/oro_drops.yaml --recipe hover.yaml --dry_run"
SAMPLE = "python -m trainers.sample --split heldout --scenes 8 --lora_path outputs/oro_drops --output_dir outputs/clips"
EVALUATE = (
    "python -m trainers.evaluation --lora_path outputs/oro_drops --recipe configs/recipes/gravity_positions.yaml "
    "--at_rest --output_dir outputs/evaluation"
)
MERGE = (
    "python -m trainers.merge --model_name_or_path data/drops/model --lora_path outputs/oro_drops "
    "--output_dir outputs/merged"
)
PICTURE = "python benchmarks/moving_picture.py"
FLOW_SPEED = "python benchmarks/flow_speed.py"
ARMS = "benchmarks/arms.sh"
COMMIT = (
    "python -m trainers.commitment --model_name_or_path data/drops/model --at_rest true --output_dir outputs/commitment"
)
CHECK = "python -m trainers.check_gravity --split heldout"
CHECK_DECODED = f"{CHECK} --through_autoencoder"
ESTIMATORS = "python -m trainers.pretrain.check_estimators"
WRITE = "python -m data.write --split train --clips 4000 --output_dir data/rendered"
TRUE_CLIPS = [
    f"python -m data.write --split {split} --g_m_s2 9.81 --clips {clips}"
    for split, clips in (("train", 600), ("practice", 400), ("tall", 200))
]
ATTACKED_CLIPS = "python -m data.write --split validation --g_m_s2 9.81 --clips 64 --light"
RED_TEAM = "python -m trainers.redteam --split validation-g9.81 --dataset data/rendered --output_dir outputs/redteam"
RWR = "accelerate launch trainers/rwr.py --config configs/rwr_drops.yaml"
RWR_SAMPLE = (
    "python -m trainers.sample --split train --scenes 64 --at_rest --seeds 0 1 2 3 4 5 6 7 --output_dir outputs/samples"
)
RWR_SCORE = "python -m trainers.score_clips --clips outputs/samples --recipe configs/recipes/gravity_positions.yaml"
RWR_OFFLINE = (
    "python trainers/rwr.py --config configs/rwr_drops.yaml --scored outputs/samples --weighting reward "
    "--target_ess 0.25 --output_dir outputs/rwr_offline"
)
PSFT = "accelerate launch trainers/psft.py --config configs/psft_drops.yaml"
BENCH = "python -m trainers.drops_bench"
PLAN = "python -m trainers.memory_plan --size wan2.1-1.3b --num_frames 33 --height 384 --width 512 --memory_gib 24"
PLAN_OF_RUN = "accelerate launch trainers/oro.py --config configs/oro_wan_24gb.yaml --dry_run"
ZERO_2 = (
    "accelerate launch --config_file configs/accelerate/zero2.yaml --num_processes 4 trainers/oro.py "
    "--config configs/oro_drops.yaml"
)
ONE_SAMPLE = RWR_SAMPLE.replace("--scenes 64", "--scenes 1").replace("0 1 2 3 4 5 6 7", "0 1")


def few_clips(line: str) -> str:
    """A command that renders clips, for one clip; the checkout's data folder is linked, so it writes elsewhere."""
    asked = re.sub(r"--clips \d+", "--clips 1", line.partition(" --output_dir")[0])
    return f"{asked} --workers 1 --output_dir outputs/rendered"


SHORTER = {
    # Makes the environment and trains for minutes: .ci/run has a stage for it.
    "make demo": "make --dry-run demo",
    # The environment is the one that runs this test.
    ". .venv/bin/activate": "true",
    # Hours: one step of one clip, then the command that watches it.
    TRAIN: f"{TRAIN} {ONE_STEP} && {MONITOR.replace(' --watch 10', '')}",
    RWR: f"{RWR} --dry_run --num_inference_steps 1",
    PSFT: f"{PSFT} --dataset drops --split train {ONE_STEP}",
    RWR_OFFLINE: f"{ONE_SAMPLE} && {RWR_SCORE} && {RWR_OFFLINE} {ONE_STEP}",
    # The step itself, which is quicker than the plan.
    HOVER: HOVER.replace("--dry_run", f"{ONE_STEP} --output_dir outputs/hover"),
    ARMS: f"STEPS=1 SCENES=2 {ARMS}",
    COMMIT: f"{COMMIT} --scenes 2 --completions 1 --sigmas 1.0 0.5",
    # Half a day.
    BENCH: f"{BENCH} --quick --dry_run",
    # What a training would have left is not there.
    SAMPLE: SAMPLE.replace("--scenes 8 --lora_path outputs/oro_drops", "--scenes 1"),
    EVALUATE: "python -m trainers.evaluation --arm truth base --scenes 2 --at_rest --output_dir outputs/evaluation",
    MERGE: MERGE.replace("outputs/oro_drops", "docs/results/oro_drops_lora"),
    # Minutes: a few clips instead of all, and smaller ones.
    PICTURE: f"{PICTURE} --scenes 1 --output outputs/picture.webp",
    CHECK: f"{CHECK} --scenes 4",
    CHECK_DECODED: f"{CHECK_DECODED} --scenes 1",
    ESTIMATORS: f"{ESTIMATORS} --scenes 2 --estimators embedded --testdata nowhere",
    PLAN: "python -m trainers.memory_plan --size ltx-2b --num_frames 9 --height 64 --width 64 --num_inference_steps 1",
    RED_TEAM: (
        f"{RED_TEAM.replace('-g9.81 --dataset data/rendered', '')} --of_kind drop=1 --attack freeze "
        "--recipe configs/recipes/gravity_positions.yaml"
    ),
    FLOW_SPEED: f"{FLOW_SPEED} --clips 1 --clips_for_g 1 --repeats 1 --output outputs/flow_speed.md",
    **{line: few_clips(line) for line in (WRITE, ATTACKED_CLIPS, *TRUE_CLIPS)},
}
"""Commands that take too long for a test, and what runs in their place."""

WITHIN = {MONITOR: TRAIN, RWR_SAMPLE: RWR_OFFLINE, RWR_SCORE: RWR_OFFLINE, f"{BENCH} --dry_run": BENCH}
"""Commands that run as a part of another one's shorter form."""

ELSEWHERE = {
    ZERO_2: "tests/distributed/test_ranks.py",
    PLAN_OF_RUN: "tests/trainers/memory_plan/test_plan.py",
    "python benchmarks/measuring_grid.py": "tests/benchmarks/test_measuring.py",
    "python benchmarks/measuring_intervals.py": "tests/benchmarks/test_measuring.py",
    "python benchmarks/scaling.py --output outputs/scaling.md": "tests/benchmarks/test_scaling.py",
    "python benchmarks/scaling.py --project --step_seconds 60": "tests/benchmarks/test_scaling.py",
}
"""Commands that a test of their own runs."""

SLOW = {
    EVALUATE,
    PICTURE,
    ARMS,
    COMMIT,
    RWR_OFFLINE,
    MERGE,
    RED_TEAM,
    # Quick ones that differ from these in a flag: TRAIN, CHECK_DECODED, TRUE_CLIPS[0].
    DRY_RUN,
    RWR,
    CHECK,
    WRITE,
    ATTACKED_CLIPS,
    *TRUE_CLIPS[1:],
    FLOW_SPEED,
}
RENDERED = {WRITE, ATTACKED_CLIPS, *TRUE_CLIPS}


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README and the guides in one language."""
    text = "\n".join(page.read_text() for page in PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The shell commands, continued lines joined, comments left out, each once."""
    lines = [line.split("  #")[0] for line in "".join(blocks("bash")).replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip() and line.lstrip()[0] != "#"))


def marks(command: str) -> list[pytest.MarkDecorator]:
    """The markers of a command."""
    slow = [pytest.mark.slow] if command in SLOW else []
    return [*slow, pytest.mark.render] if command in RENDERED else slow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A scratch folder with links to what is in the checkout, and the example files of the pages."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in sorted({line.split("/")[0] for line in tracked.splitlines()}):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in [*blocks("python"), *blocks("yaml")]:
        if name := re.match(r"# (\w+\.(?:py|yaml))\n", block):
            (tmp_path / name[1]).write_text(block)
    return tmp_path


@pytest.mark.timeout(60 * MINUTES + 30)
@pytest.mark.parametrize(
    "command", [pytest.param(line, marks=marks(line)) for line in commands() if line not in {*WITHIN, *ELSEWHERE}]
)
def test_command_runs(command: str, checkout: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SHORTER.get(command, command)],
        cwd=checkout,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
    )
    assert run.returncode == 0, f"`{command}` ended with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"


def test_the_two_commands_stand_in_the_readme() -> None:
    assert commands()[0] == "make demo"
    assert TRAIN in commands()


def test_exceptions_are_commands_of_the_pages() -> None:
    """A command that changed in a page must not keep an exception made for the old one."""
    assert {*SHORTER, *WITHIN, *WITHIN.values(), *ELSEWHERE, *SLOW, *RENDERED} <= set(commands())


def test_the_parts_of_a_shorter_form_are_in_it() -> None:
    for part, whole in WITHIN.items():
        module = re.search(r"-m (\S+)", part)
        assert module and module[1] in SHORTER[whole]


def test_the_tests_elsewhere_exist() -> None:
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).exists()] == []


def test_own_reward_is_ten_lines() -> None:
    (example,) = [block for block in blocks("python") if block.startswith("# my_rewards.py")]
    assert len([line for line in example.splitlines()[1:] if line.strip()]) <= 10

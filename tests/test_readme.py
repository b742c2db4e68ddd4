"""Every command of the README runs, and its example files are what it says they are.

A command runs in a scratch folder that sees the checkout through links, so that what it writes stays there. Python and
YAML blocks whose first line is a comment with a file name are written beside it first.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MINUTES = 5

TRAIN = "accelerate launch trainers/oro.py --config configs/oro_drops.yaml"
SAMPLE = "python -m trainers.sample --split heldout --scenes 8 --lora outputs/oro_drops --output_dir outputs/clips"
EVALUATE = (
    "python -m trainers.evaluation --lora outputs/oro_drops --recipe configs/recipes/gravity_positions.yaml --at_rest "
    "--output_dir outputs/evaluation"
)
ARMS = "benchmarks/arms.sh"
CHECK = "python -m trainers.check_gravity --split heldout"
ESTIMATORS = "python -m trainers.pretrain.check_estimators"
COMMIT = (
    "python -m trainers.commitment --model_name_or_path data/drops/model --at_rest true --output_dir outputs/commitment"
)
WRITE = "python -m data.write --split train --clips 4000 --output_dir data/rendered"

MONITOR = "python -m trainers.monitor outputs/oro_drops --watch 10"

RWR = "accelerate launch trainers/rwr.py --config configs/rwr_drops.yaml"
RWR_SAMPLE = (
    "python -m trainers.sample --split train --scenes 64 --at_rest --seeds 0 1 2 3 4 5 6 7 --output_dir outputs/samples"
)
RWR_SCORE = "python -m trainers.score_clips --clips outputs/samples --recipe configs/recipes/gravity_positions.yaml"
RWR_OFFLINE = (
    "python trainers/rwr.py --config configs/rwr_drops.yaml --scored outputs/samples --weighting reward "
    "--target_ess 0.25 --output_dir outputs/rwr_offline"
)
TRUE_CLIPS = [
    f"python -m data.write --split {split} --g_m_s2 9.81 --clips {clips}"
    for split, clips in (("train", 600), ("practice", 400), ("tall", 200))
]
PSFT = "accelerate launch trainers/psft.py --config configs/psft_drops.yaml"
BENCH = "python -m trainers.drops_bench"
PLAN = "python -m trainers.memory_plan --size wan2.1-1.3b --num_frames 33 --height 384 --width 512 --memory_gib 24"
ONE_STEP = "--max_steps 1 --per_device_train_batch_size 2 --eval_steps 0 --report_to none"
ONE_SAMPLE = RWR_SAMPLE.replace("--scenes 64", "--scenes 1").replace("0 1 2 3 4 5 6 7", "0 1")

SHORTER = {
    # Makes the environment and trains for minutes: .ci/run has a stage for it.
    "make demo": "make --dry-run demo",
    # The environment is the one that runs this test.
    ". .venv/bin/activate": "true",
    # Hours: build everything, print the plan and stop.
    TRAIN: f"{TRAIN} --dry_run",
    # What the run above would have left is not there.
    MONITOR: (
        "python trainers/oro.py --config configs/oro_demo.yaml --max_steps 1 --per_device_train_batch_size 1 "
        "--report_to none --output_dir outputs/oro_drops && python -m trainers.monitor outputs/oro_drops"
    ),
    SAMPLE: "python -m trainers.sample --split heldout --scenes 1 --output_dir outputs/clips",
    EVALUATE: "python -m trainers.evaluation --arm truth base --scenes 2 --at_rest --output_dir outputs/evaluation",
    ARMS: f"STEPS=1 SCENES=2 {ARMS}",
    COMMIT: f"{COMMIT} --scenes 2 --completions 1 --sigmas 1.0 0.5",
    # Minutes: a few clips instead of all.
    CHECK: f"{CHECK} --clips 4",
    f"{CHECK} --through_autoencoder": f"{CHECK} --through_autoencoder --clips 4",
    ESTIMATORS: f"{ESTIMATORS} --max_clips 2 --estimators embedded --testdata nowhere",
    RWR: f"{RWR} --dry_run",
    RWR_SAMPLE: ONE_SAMPLE,
    # What the commands before would have left is not there.
    RWR_SCORE: f"{ONE_SAMPLE} && {RWR_SCORE}",
    RWR_OFFLINE: f"{ONE_SAMPLE} && {RWR_SCORE} && {RWR_OFFLINE} {ONE_STEP}",
    PSFT: f"{PSFT} --dataset drops --split train --dry_run",
    # Minutes: smaller clips.
    PLAN: "python -m trainers.memory_plan --size ltx-2b --num_frames 9 --height 64 --width 64 --num_inference_steps 1",
    # Half a day.
    BENCH: f"{BENCH} --quick --dry_run",
    # The checkout's data folder is linked: write elsewhere.
    **{line: f"{line.rpartition(' ')[0]} 2 --workers 1 --output_dir outputs/rendered" for line in TRUE_CLIPS},
    WRITE: "python -m data.write --split train --clips 2 --workers 1 --output_dir outputs/rendered",
}
"""Commands of the README that take too long for a test, and what runs in their place."""

MARKS = {
    EVALUATE: pytest.mark.slow,
    ARMS: pytest.mark.slow,
    COMMIT: pytest.mark.slow,
    WRITE: pytest.mark.render,
    **dict.fromkeys(TRUE_CLIPS, pytest.mark.render),
    RWR_SCORE: pytest.mark.slow,
    RWR_OFFLINE: pytest.mark.slow,
}
"""Markers of commands, as written in the README."""


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The shell commands of the README, continued lines joined, comments left out."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip() and line.lstrip()[0] != "#"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A scratch folder with links to what is in the checkout, and the README's example files."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in sorted({line.split("/")[0] for line in tracked.splitlines()}):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in [*blocks("python"), *blocks("yaml")]:
        if name := re.match(r"# (\w+\.(?:py|yaml))\n", block):
            (tmp_path / name[1]).write_text(block)
    return tmp_path


@pytest.mark.timeout(60 * MINUTES + 30)
@pytest.mark.parametrize(
    "command", [pytest.param(line, marks=[MARKS[line]] if line in MARKS else []) for line in commands()]
)
def test_command_runs(command: str, checkout: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SHORTER.get(command, command)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
    )
    assert run.returncode == 0, f"`{command}` ended with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"


def test_the_two_commands_stand_in_the_readme() -> None:
    assert commands()[0] == "make demo"
    assert TRAIN in commands()


def test_exceptions_are_commands_of_the_readme() -> None:
    """A command that changed in the README must not keep an exception made for the old one."""
    assert {*SHORTER, *MARKS} <= set(commands())


def test_own_reward_is_ten_lines() -> None:
    (example,) = [block for block in blocks("python") if block.startswith("# my_rewards.py")]
    assert len([line for line in example.splitlines()[1:] if line.strip()]) <= 10


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

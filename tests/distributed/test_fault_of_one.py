"""What goes wrong on one of two processes ends both within a minute, with its message; a resumed run goes on."""

import subprocess
import time

import pytest
from launches import ALONE, OWN, command, experiment, launch

from trainers.run.checkpoint import checkpoints


def end_of(world, name, fault, *, zero=0, trainer="oro"):
    """What a run said that a fault has ended, and seconds from the fault to its end."""
    changes = {"max_steps": 4, "save_steps": 1, "reward_timeout_s": 5.0}
    line = command(world, [experiment(world, name, trainer, fault=fault, **changes)], zero)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ALONE)
    lines, at = [], 0.0
    for said in process.stdout:
        lines.append(said)
        at = time.monotonic() if "FAULT" in said else at
    assert process.wait() != 0, "".join(lines)[-3000:]
    assert at
    return "".join(lines), time.monotonic() - at


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "error: the reward's server is gone (process 1, clips train-"),
        ("garbage", "error: reward brightness must be finite, or NaN where it cannot be measured, got inf for clip 1"),
        ("hang", "error: the reward took longer than 5 s on process 1"),
        ("memory", "error: out of memory: no 20 GiB left: lower per_device_train_batch_size"),
        ("disk", "error: the checkpoint of step 2 cannot be written to"),
    ],
)
def test_a_fault_of_one_process_ends_all_within_a_minute(world, fault, message):
    said, seconds = end_of(world, f"fault_{fault}", fault)
    assert message in said
    assert seconds < 60
    assert [path.name for path in checkpoints(world / f"fault_{fault}")] == ["checkpoint-1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_under_deepspeed_a_loss_that_is_not_finite_ends_all(world):
    pytest.importorskip("deepspeed")
    said, seconds = end_of(world, "fault_nan", "nan", zero=2)
    assert "warning: the loss of train-" in said
    assert "error: the gradient was not finite in 1 steps in a row, the last of them 2" in said
    assert seconds < 60
    assert [path.name for path in checkpoints(world / "fault_nan")] == ["checkpoint-1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_told_to_stop_both_save_and_a_second_run_goes_on(world):
    said, seconds = end_of(world, "fault_term", "term")
    assert "stopped by SIGTERM after step 2: go on with --resume_from_checkpoint auto" in said
    assert seconds < 60
    assert [path.name for path in checkpoints(world / "fault_term")][-1] == "checkpoint-2"
    whole = experiment(world, "peace", "oro", save_steps=1)
    resumed = experiment(world, "fault_term", "oro", save_steps=1, resume_from_checkpoint="auto")
    found, _ = launch(world, [whole, resumed])
    assert found["fault_term"][0]["hashes"] == found["peace"][0]["hashes"][2:]
    assert set(OWN) == {"oro", "rwr", "psft"}

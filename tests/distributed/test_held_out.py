"""Held-out scenes are judged by all processes together: the figures of one, and no wait that gives up."""

import pytest
from launches import alone, experiment, launch

from trainers.run.tracking import read_metrics

EVALUATED = {"max_steps": 1, "eval_steps": 1, "eval_scenes": 3, "per_device_train_batch_size": 1}


def figures(world, name):
    """The evaluations of a run, before its first step and after it."""
    lines = read_metrics(world / name / "metrics.jsonl")
    return [{key: line[key] for key in line if key.startswith("eval/")} for line in lines if "eval/reward" in line]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [0, 3])
def test_two_processes_have_the_figures_of_one_and_wait_for_the_one_that_writes(world, zero):
    """Three scenes are no equal shares. Process 0 writes for longer than a collective of the training waits."""
    if zero:
        pytest.importorskip("deepspeed")
    alone(world, [experiment(world, f"judged_{zero}_alone", "oro", **EVALUATED)])
    tag = f"judged_{zero}"
    launch(world, [experiment(world, tag, "oro", fault="slow_writing", **EVALUATED)], zero)
    together, one = figures(world, tag), figures(world, f"{tag}_alone")
    assert len(one) == 2 and together[0] == pytest.approx(one[0], abs=1e-6)
    assert set(together[0]) == set(one[0]) and "eval/reward/low" in one[0]
    assert sorted(path.name for path in (world / tag / "eval" / "step_1").iterdir()) == sorted(
        path.name for path in (world / f"{tag}_alone" / "eval" / "step_1").iterdir()
    )

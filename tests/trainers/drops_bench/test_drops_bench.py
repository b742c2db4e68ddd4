"""The experiment's queue: its cells, that it goes on where it stopped, and its table. The real trainers run slowly."""

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from trainers.drops_bench import bench as drops_bench
from trainers.drops_bench.bench import DropsBenchConfig, chosen, gather, plan_table, run
from trainers.drops_bench.cells import Cell
from trainers.evaluation.fall_figures import DETAILS, MOTION
from trainers.settings.options import parse_config

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def command_of(cells, name):
    return next(cell.command for cell in cells if cell.name == name)


def test_the_core_table_has_six_arms_of_three_seeds_and_the_ablations_one(at_root):
    cells = chosen(DropsBenchConfig())
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names))
    for arm in ("psft", "oro", "rwr", "psft+oro", "psft+rwr"):
        assert [f"{arm}-{seed}" in names for seed in range(3)] == [True] * 3
    assert {"data-train", "data-practice", "data-tall", "evaluate-base", "rwr_uniform-0", "oro_last-0"} <= set(names)
    assert "rwr_uniform-1" not in names
    assert all(cell.minutes <= 30 for cell in cells)
    assert "hours of one core" in plan_table(cells, Path("nowhere"))


def test_every_command_is_one_that_the_trainers_take(at_root):
    from trainers.evaluation.measured import EvaluationConfig
    from trainers.settings.oro import OROConfig
    from trainers.settings.regression import PSFTConfig, RWRConfig

    classes = {"trainers/oro.py": OROConfig, "trainers/rwr.py": RWRConfig, "trainers/psft.py": PSFTConfig}
    seen = set()
    for quick in (False, True):
        for cell in chosen(DropsBenchConfig(quick=quick)):
            if cell.command[1] in classes:
                config = parse_config(classes[cell.command[1]], cell.command[2:])
                assert not {"heldout", "validation"} & set(config.split.split("+"))
                seen.add(cell.command[1])
            elif "trainers.evaluation" in cell.command:
                parse_config(EvaluationConfig, cell.command[3:])
    assert seen == set(classes)


def test_only_asks_for_what_an_arm_needs(at_root):
    names = [cell.name for cell in chosen(DropsBenchConfig(only=["psft+rwr"], seeds=[4]))]
    data = ["data-train", "data-practice", "data-tall"]
    assert names == [*data, "evaluate-base", "psft-4", "psft+rwr-4", "evaluate-psft+rwr-4"]
    given = [cell.name for cell in chosen(DropsBenchConfig(true_clips=["some/folder", "train"]))]
    assert not set(data) & set(given)
    with pytest.raises(ValueError, match="arm orro, which is none of base, psft, oro"):
        chosen(DropsBenchConfig(only=["orro"]))
    with pytest.raises(ValueError, match="true_clips must be a folder"):
        chosen(DropsBenchConfig(true_clips=["one"]))


def test_supervised_and_matching_arms_alone_see_true_clips(at_root):
    true = ("--split", "train-g9.81+practice-g9.81+tall-g9.81")
    trainings = [cell for cell in chosen(DropsBenchConfig()) if cell.command[1].startswith("trainers/")]
    sees = {cell.name for cell in trainings if " ".join(true) in " ".join(cell.command)}
    matches = {f"oro_{name}_match-0" for name in ("flow", "depth", "segmentation")}
    assert sees == {"psft-0", "psft-1", "psft-2", "psft_physics-0"} | matches
    assert all("data-tall" in cell.needs for cell in trainings if cell.name in sees)


def test_settings_of_a_method_reach_its_trainings_alone(at_root):
    from trainers.settings.regression import RWRConfig

    cells = chosen(DropsBenchConfig(set=["rwr.max_steps=7", "rwr.denoising_sigma_range=0.6,0.9", "psft.max_steps=9"]))
    config = parse_config(RWRConfig, command_of(cells, "psft+rwr-0")[2:])
    assert (config.max_steps, config.denoising_sigma_range) == (7, [0.6, 0.9])
    assert command_of(cells, "psft-1")[-2:] == ("--max_steps", "9")
    assert command_of(cells, "oro-0") == command_of(chosen(DropsBenchConfig()), "oro-0")
    for wrong in ("rwr.max_steps", "pso.max_steps=1", "max_steps=1"):
        with pytest.raises(ValueError, match=f"METHOD.NAME=VALUE with a method of oro, rwr, psft, got {wrong}"):
            chosen(DropsBenchConfig(set=[wrong]))


@pytest.fixture
def queue(monkeypatch, tmp_path):
    """`queue(*cells)` runs these; a cell's command appends its name to `order`."""

    def make(*cells, **changes):
        monkeypatch.setattr(drops_bench, "cells_of", lambda plan: list(cells))
        return run(DropsBenchConfig(output_dir=str(tmp_path), **changes))

    return make


def writes(tmp_path, name, *, code=0, needs=(), seconds=0.0):
    program = (
        f"import time; open(r'{tmp_path}/order', 'a').write('{name} '); time.sleep({seconds}); "
        f"print('the last line'); raise SystemExit({code})"
    )
    return Cell(name=name, command=(sys.executable, "-c", program), needs=tuple(needs))


def test_the_queue_goes_on_where_it_stopped(queue, tmp_path, capsys):
    def cells(code):
        bad = writes(tmp_path, "bad", code=code)
        return [
            writes(tmp_path, "a"),
            bad,
            writes(tmp_path, "after", needs=["bad"]),
            writes(tmp_path, "b", needs=["a"]),
        ]

    assert queue(*cells(3), only=[]) == ["bad", "after"]
    said = capsys.readouterr().out
    assert "2/4 bad: failed with exit status 3 (the last line): see" in said
    assert "3/4 after: left out, bad is not done" in said
    assert queue(*cells(0)) == []
    assert (tmp_path / "order").read_text().split() == ["a", "bad", "b", "bad", "after"]
    assert "1/4 a: done before" in capsys.readouterr().out


def test_a_cell_whose_command_changed_runs_again(queue, tmp_path):
    queue(writes(tmp_path, "a"))
    queue(writes(tmp_path, "a", seconds=0.001))
    assert (tmp_path / "order").read_text().split() == ["a", "a"]


def test_a_cell_that_takes_too_long_is_stopped_and_not_done(queue, tmp_path, capsys):
    slow = writes(tmp_path, "slow", seconds=30)
    assert queue(slow, cell_minutes=0.01) == ["slow"]
    assert "stopped after 0.01" in capsys.readouterr().out


def leave_evaluation(folder, cell, g_m_s2):
    """What an evaluation of three scenes with these g leaves."""
    one = dict.fromkeys((*DETAILS, *MOTION, "area_ratio", "aligned_iou", "landing_s", "true_landing_s"), 0.5)
    picture = dict.fromkeys(("disagreement", "background_psnr_db", "sharpness", "colour_shift"), 1.0)
    clips = []
    for scene, g in enumerate(g_m_s2):
        known = {"g_m_s2": g, "g_scaled_m_s2": g, "g_error": None if g is None else abs(g - 9.81) / 9.81}
        clips.append({"scene": str(scene), "at_rest": True, "reward": one | known, "judge": one | known, **picture})
    (folder / cell.name).mkdir(parents=True)
    (folder / cell.name / "evaluation.json").write_text(json.dumps({"arms": {"x": {"clips": clips}}}))
    (folder / "cells").mkdir(exist_ok=True)
    (folder / "cells" / f"{cell.name}.json").write_text(json.dumps({"command": list(cell.command)}))


def test_the_table_puts_the_seeds_of_an_arm_together(tmp_path):
    names = ("evaluate-base", "evaluate-oro-0", "evaluate-oro-1")
    cells = [Cell(name=name, command=(name,), arm=name.split("-")[1]) for name in names]
    for cell, g_m_s2 in zip(cells, ([4.0, 4.0, 4.0], [9.0, 9.5, None], [8.0, 9.5, 10.0]), strict=True):
        leave_evaluation(tmp_path, cell, g_m_s2)
    record = gather(DropsBenchConfig(output_dir=str(tmp_path)), cells)
    oro = record["arms"]["oro"]
    assert oro["g_by_seed_m_s2"] == [9.25, 9.5]
    assert oro["summary"]["judge"]["measurable"] == pytest.approx(5 / 6)
    assert oro["summary"]["judge"]["g_m_s2"].count == 3  # scenes, not clips
    assert record["comparisons"]["oro"]["judge_g_m_s2_median"].estimate == pytest.approx(5.5)
    table = (tmp_path / "table.md").read_text()
    assert "| oro | 2 | " in table
    assert "9.25, 9.50" in table
    assert math.isnan(oro["summary"]["diversity"])
    assert json.loads((tmp_path / "results.json").read_text())["arms"]["oro"]["seeds"] == 2


@pytest.mark.slow
def test_the_real_cells_run_in_short(at_root, tmp_path):
    """Base and RWR, one step and two scenes each."""
    config = DropsBenchConfig(output_dir=str(tmp_path), seeds=[0], quick=True, only=["rwr"])
    assert run(config) == []
    record = json.loads((tmp_path / "results.json").read_text())
    assert list(record["arms"]) == ["base", "rwr"]
    assert run(config) == []  # all of it is done


def test_a_training_that_is_stopped_is_asked_to_save_first(queue, tmp_path):
    """The signal is the one on which trainers write a checkpoint."""
    program = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (open(r'{tmp_path}/saved', 'w').close(), sys.exit(143)))\n"
        "time.sleep(60)"
    )
    assert queue(Cell(name="slow", command=(sys.executable, "-c", program)), cell_minutes=0.02) == ["slow"]
    assert (tmp_path / "saved").exists()


def runs(tmp_path, name, program, needs=()):
    """A cell whose program finds `here`, the folder of the test, and `name`."""
    head = f"import os, pathlib, signal, sys, time; here = pathlib.Path(r'{tmp_path}'); name = '{name}'\n"
    return Cell(name=name, command=(sys.executable, "-c", head + program), needs=tuple(needs))


MEET = """
(here / name).touch()
for _ in range(400):
    time.sleep(0.05)
    if all((here / other).exists() for other in "ab"):
        sys.exit(0)
sys.exit(1)
"""
"""Ends well where a and b run at the same time."""

SAVE = """
signal.signal(signal.SIGTERM, lambda *_: ((here / f"saved-{name}").touch(), sys.exit(143)))
(here / name).touch()
time.sleep(60)
"""


def test_several_cells_run_at_a_time_and_after_what_they_need(queue, tmp_path, capsys):
    seen = "sys.exit(0 if (here / 'a').exists() and (here / 'b').exists() else 1)"
    cells = [runs(tmp_path, "after", seen, needs="ab"), runs(tmp_path, "a", MEET), runs(tmp_path, "b", MEET)]
    assert queue(*cells, jobs=2) == []
    assert capsys.readouterr().out.splitlines()[-1] == "1/3 after: done"
    assert queue(*cells, jobs=2) == []
    assert capsys.readouterr().out.count("done before") == 3


def test_no_more_cells_run_than_jobs_and_the_cores_are_shared_out(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(drops_bench.os, "cpu_count", lambda: 8)
    program = """
(here / f"on-{name}").touch()
time.sleep(0.2)
(here / f"most-{len(list(here.glob('on-*')))}-{os.environ['OMP_NUM_THREADS']}").touch()
(here / f"on-{name}").unlink()
"""
    assert queue(*(runs(tmp_path, name, program) for name in "abcde"), jobs=2) == []
    assert {path.name for path in tmp_path.glob("most-*")} <= {"most-1-4", "most-2-4"}


def test_what_needs_a_failed_cell_is_left_out_while_others_go_on(queue, tmp_path):
    cells = [runs(tmp_path, "a", "sys.exit(2)"), runs(tmp_path, "b", "", needs="a"), runs(tmp_path, "c", "")]
    cells.append(runs(tmp_path, "d", "", needs="b"))
    assert sorted(queue(*cells, jobs=3)) == ["a", "b", "d"]
    assert (tmp_path / "cells" / "c.json").exists()


def test_when_the_time_is_over_all_cells_save_and_the_rest_is_left_out(queue, tmp_path, capsys):
    cells = [runs(tmp_path, name, SAVE) for name in "abc"]
    assert sorted(queue(*cells, jobs=2, total_minutes=0.04)) == ["a", "b", "c"]
    assert (tmp_path / "saved-a").exists()
    assert (tmp_path / "saved-b").exists()
    assert not (tmp_path / "c").exists()
    assert "3/3 c: left out, the time is over" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_every_cell_with_its_checkpoint(queue, tmp_path, asked):
    before = signal.signal(signal.SIGTERM, drops_bench.on_terminate)

    def interrupt():
        while not all((tmp_path / name).exists() for name in "ab"):
            time.sleep(0.02)
        os.kill(os.getpid(), asked)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt if asked == signal.SIGINT else SystemExit):
            queue(*(runs(tmp_path, name, SAVE) for name in "abc"), jobs=2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-a", "saved-b"]


def test_a_cell_that_will_not_stop_is_killed(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(drops_bench, "GRACE_S", 0.2)
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    started = time.monotonic()
    assert queue(runs(tmp_path, "a", stubborn), total_minutes=0.01) == ["a"]
    assert time.monotonic() - started < 30

"""A run is watched from its files: progress, time left, alarms that a glance at the reward would miss."""

import json
import math
import os

import numpy as np
import pytest
from rich.console import Console

from trainers.monitor import __main__, resources
from trainers.monitor import screen as monitor
from trainers.run import records


def write_run(folder, lines, max_steps=100, weights=False):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(
        f"max_steps: {max_steps}\nper_device_train_batch_size: 3\ngradient_accumulation_steps: 2\n"
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if weights:
        (folder / "pytorch_lora_weights.safetensors").touch()
    return folder


def steps(count, **figures):
    """Lines of steps 1 to count; a figure is a number or a function of the step."""
    values = {name: value if callable(value) else (lambda _, v=value: v) for name, value in figures.items()}
    return [{"step": n, **{name: value(n) for name, value in values.items()}} for n in range(1, count + 1)]


def test_progress_and_time_left(tmp_path):
    folder = write_run(tmp_path / "run", steps(40, reward=-0.5, seconds=3.0))
    os.utime(folder / "metrics.jsonl", (1000, 1000))
    run = records.read_run(folder, now_s=1010)
    assert (run.step, run.max_steps, run.clips_a_step, run.idle_s) == (40, 100, 6, 10)
    assert run.seconds_a_step == 3.0
    assert monitor.alarms(run) == []
    text = capture(monitor.screen(run))
    assert "step 40 of 100, 3 min 00 s left, 2.00 clips a second" in text
    assert "reward" in text


def capture(screen):
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(screen)
    return console.export_text()


@pytest.mark.parametrize("name", ["judge/reward", "eval/reward"])
def test_a_reward_that_rises_while_its_judge_falls_is_an_alarm(tmp_path, name):
    lines = steps(60, reward=lambda n: -1 + n / 60, seconds=1.0)
    for step, value in ((10, -0.8), (30, -0.4), (60, -0.7)):
        lines.insert(next(i for i, line in enumerate(lines) if line["step"] == step) + 1, {"step": step, name: value})
    run = records.read_run(write_run(tmp_path / "run", lines))
    (alarm,) = monitor.alarms(run)
    assert f"reward rises while {name} falls: -0.4 at step 30, -0.7 at step 60" in alarm


def test_a_judge_that_rises_with_the_reward_is_none(tmp_path):
    lines = steps(60, reward=lambda n: -1 + n / 60, seconds=1.0)
    lines += [{"step": step, "judge/reward": value} for step, value in ((10, -0.8), (30, -0.6), (60, -0.4))]
    assert monitor.alarms(records.read_run(write_run(tmp_path / "run", lines))) == []


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"measurable": lambda n: 1.0 if n < 50 else 0.5}, "fewer clips can be measured: 100% at first, 50% now"),
        ({"dropped_gradients": lambda n: float(n == 100)}, "1 clips of the last 20 logs gave no finite gradient"),
        ({"saturated": 0.2}, "20% of the pixels are saturated"),
    ],
)
def test_guards(tmp_path, figures, said):
    run = records.read_run(write_run(tmp_path / "run", steps(100, reward=0.0, seconds=1.0, **figures)))
    assert any(said in line for line in monitor.alarms(run))


def test_a_run_that_stands_still_is_an_alarm_and_a_finished_one_is_not(tmp_path):
    lines = steps(40, reward=0.0, seconds=1.0)
    open_run = write_run(tmp_path / "open", lines)
    done = write_run(tmp_path / "done", lines, max_steps=40, weights=True)
    for folder in (open_run, done):
        os.utime(folder / "metrics.jsonl", (1000, 1000))
    assert any("no figure for 16 min 40 s" in line for line in monitor.alarms(records.read_run(open_run, now_s=2000)))
    finished = records.read_run(done, now_s=2000)
    assert finished.finished
    assert monitor.alarms(finished) == []


def test_a_page_has_a_plot_for_every_figure_and_needs_nothing_else(tmp_path):
    folder = write_run(tmp_path / "run", steps(5, reward=-0.5, grad_norm=float("nan"), seconds=1.0))
    __main__.main([str(folder), "--html", str(tmp_path / "run.html")])
    page = (tmp_path / "run.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # what is never finite has none
    assert "http" not in page
    assert "Step 5 of 100" in page


def test_a_sparkline_shows_the_course():
    assert monitor.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert monitor.sparkline([1.0] * 100) == "▁" * 40
    assert monitor.sparkline([]) == ""


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"is no run of a trainer, it has no config\.yaml"):
        records.read_run(tmp_path)


@pytest.mark.parametrize("name", ["rewards/gates/still/mean", "rewards/held_out/shape/mean"])
def test_a_reward_that_rises_while_a_guard_falls_is_an_alarm(tmp_path, name):
    lines = steps(100, reward=lambda n: -1 + n / 100, seconds=1.0, **{name: lambda n: 0.9 if n < 50 else 0.4})
    (alarm,) = monitor.alarms(records.read_run(write_run(tmp_path / "falls", lines)))
    assert f"reward rises while {name} falls: 0.9 at step 11, 0.4 at step 91" in alarm
    lines = steps(100, reward=lambda n: -1 + n / 100, seconds=1.0, **{name: lambda n: 0.9 - 0.04 * (n % 2)})
    assert monitor.alarms(records.read_run(write_run(tmp_path / "holds", lines))) == []


def write_processes(folder, lines):
    (folder / "processes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_process_that_grows_is_told_with_its_error_and_is_an_alarm(tmp_path):
    random = np.random.default_rng(0)
    folder = write_run(tmp_path / "run", steps(120, reward=0.0, seconds=60.0))
    lines = [
        {
            "step": n,
            "elapsed_s": 60.0 * n,
            "held_gb": [3.0 + 0.01 * random.standard_normal(), 3.0 + 0.2 * n / 60],
            "open_files": [42.0, 42.0 + n],
            "seconds": [50.0, 52.0],
        }
        for n in range(1, 121)
    ]
    write_processes(folder, lines)
    run = records.read_run(folder)
    first, second = monitor.alarms(run)
    assert first.startswith("process 1 grows by 0.2 ±")
    assert second.startswith("process 1 grows by 60 ±")
    text = capture(monitor.screen(run))
    text = " ".join(text.split())  # lines wrap
    assert "process 0: 3.00" in text
    assert "42 open files (+0.000 ± 0.000 an hour over 1.7 h)" in text
    assert "process 1 grows" in monitor.page(run)


def test_a_run_that_was_resumed_is_judged_since_then(tmp_path):
    folder = write_run(tmp_path / "run", steps(40, reward=0.0, seconds=60.0))
    grown = [{"elapsed_s": 300.0 * n, "held_gb": [1.0 + n], "open_files": [9.0]} for n in range(1, 21)]
    flat = [{"elapsed_s": 300.0 * n, "held_gb": [2.0], "open_files": [9.0]} for n in range(1, 21)]
    write_processes(folder, grown + flat)
    assert monitor.alarms(records.read_run(folder)) == []
    assert resources.trends(grown + flat, "held_gb")[0].mean == 2.0


def test_the_slope_s_error_covers_noise_that_wanders():
    """95 % intervals on a flat course of autocorrelated noise, 0.8 from point to point, hold zero nine times in ten."""
    random, inside = np.random.default_rng(0), 0
    hours = np.linspace(0, 2, 120)
    for _ in range(300):
        noise = np.zeros(120)
        for i in range(1, 120):
            noise[i] = 0.8 * noise[i - 1] + random.standard_normal()
        found = resources.trend(hours, 5 + 0.01 * noise)
        inside += abs(found.per_hour) < 2 * found.standard_error
    assert inside >= 255
    steep = resources.trend(hours, 5 + 0.3 * hours)
    assert steep.per_hour == pytest.approx(0.3)
    assert steep.grows
    assert math.isnan(resources.trend(hours[:5], hours[:5]).per_hour)


def test_the_process_that_the_others_wait_for_is_named(tmp_path):
    folder = write_run(tmp_path / "run", steps(10, reward=0.0, seconds=3.0))
    line = {"held_gb": [1.0] * 4, "open_files": [9.0] * 4}
    write_processes(folder, [line | {"elapsed_s": 3.0 * n, "seconds": [1.0, 1.1, 2.9, 1.0]} for n in range(10)])
    (alarm,) = monitor.alarms(records.read_run(folder))
    assert alarm.startswith("process 2 is a straggler: 2.9 s of work a step, the median process 1 s")
    write_processes(folder, [line | {"elapsed_s": 3.0 * n, "seconds": [1.0, 1.1, 1.2, 1.0]} for n in range(10)])
    assert monitor.alarms(records.read_run(folder)) == []

"""A run is watched from its files: progress, time left, alarms that a glance at the reward would miss."""

import json
import os

import pytest

from trainers import monitor


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
    run = monitor.read_run(folder, now_s=1010)
    assert (run.step, run.max_steps, run.clips_a_step, run.idle_s) == (40, 100, 6, 10)
    assert run.seconds_a_step == 3.0
    assert monitor.alarms(run) == []
    text = capture(monitor.screen(run))
    assert "step 40 of 100, 3 min 00 s left, 2.00 clips a second" in text
    assert "reward" in text


def capture(screen):
    console = monitor.Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(screen)
    return console.export_text()


@pytest.mark.parametrize("name", ["judge/reward", "eval/reward"])
def test_a_reward_that_rises_while_its_judge_falls_is_an_alarm(tmp_path, name):
    lines = steps(60, reward=lambda n: -1 + n / 60, seconds=1.0)
    for step, value in ((10, -0.8), (30, -0.4), (60, -0.7)):
        lines.insert(next(i for i, line in enumerate(lines) if line["step"] == step) + 1, {"step": step, name: value})
    run = monitor.read_run(write_run(tmp_path / "run", lines))
    (alarm,) = monitor.alarms(run)
    assert f"reward rises while {name} falls: -0.4 at step 30, -0.7 at step 60" in alarm


def test_a_judge_that_rises_with_the_reward_is_none(tmp_path):
    lines = steps(60, reward=lambda n: -1 + n / 60, seconds=1.0)
    lines += [{"step": step, "judge/reward": value} for step, value in ((10, -0.8), (30, -0.6), (60, -0.4))]
    assert monitor.alarms(monitor.read_run(write_run(tmp_path / "run", lines))) == []


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"measurable": lambda n: 1.0 if n < 50 else 0.5}, "fewer clips can be measured: 100% at first, 50% now"),
        ({"dropped_gradients": lambda n: float(n == 100)}, "1 clips of the last 20 logs gave no finite gradient"),
        ({"saturated": 0.2}, "20% of the pixels are saturated"),
    ],
)
def test_guards(tmp_path, figures, said):
    run = monitor.read_run(write_run(tmp_path / "run", steps(100, reward=0.0, seconds=1.0, **figures)))
    assert any(said in line for line in monitor.alarms(run))


def test_a_run_that_stands_still_is_an_alarm_and_a_finished_one_is_not(tmp_path):
    lines = steps(40, reward=0.0, seconds=1.0)
    open_run = write_run(tmp_path / "open", lines)
    done = write_run(tmp_path / "done", lines, max_steps=40, weights=True)
    for folder in (open_run, done):
        os.utime(folder / "metrics.jsonl", (1000, 1000))
    assert any("no figure for 16 min 40 s" in line for line in monitor.alarms(monitor.read_run(open_run, now_s=2000)))
    finished = monitor.read_run(done, now_s=2000)
    assert finished.finished
    assert monitor.alarms(finished) == []


def test_a_page_has_a_plot_for_every_figure_and_needs_nothing_else(tmp_path):
    folder = write_run(tmp_path / "run", steps(5, reward=-0.5, grad_norm=float("nan"), seconds=1.0))
    monitor.main([str(folder), "--html", str(tmp_path / "run.html")])
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
        monitor.read_run(tmp_path)

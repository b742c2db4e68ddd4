"""Figures, videos and plots reach the trackers; a resumed run has each step once; a broken tracker stops nothing."""

import importlib.machinery
import io
import sys
import types

import pytest
import torch
from PIL import Image

from trainers.oro import train
from trainers.run.tracking import (
    MetricsFile,
    Trackers,
    draw_reward_curve,
    encode_gif,
    mean_of,
    open_trackers,
    read_metrics,
)


def test_a_gif_plays_at_the_clips_own_speed():
    frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, 16, 24)
    gif = Image.open(io.BytesIO(encode_gif(frames, fps=16.0)))
    assert (gif.n_frames, gif.size, gif.info["duration"]) == (5, (24, 16), 60)  # GIF counts in hundredths


def test_tensorboard_gets_figures_videos_and_plots(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    draw_reward_curve([{"step": 1, "reward": -0.5, "measurable": 1.0}], tmp_path / "curve.png")
    trackers = open_trackers(["tensorboard"], tmp_path, None, {"seed": 0})
    trackers.metrics({"reward": -0.5}, 3)
    trackers.video("eval/clips", torch.rand(4, 3, 16, 16), 16.0, 3)
    trackers.image("curve", tmp_path / "curve.png", 3)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(3, -0.5)]
    assert Image.open(io.BytesIO(events.Images("eval/clips")[0].encoded_image_string)).n_frames == 4
    assert "curve" in events.Tags()["images"]


def test_a_resumed_run_does_its_later_steps_again(tmp_path):
    first = open_trackers(["none"], tmp_path, None, {})
    for step in (1, 2, 3):
        first.metrics({"reward": float(step)}, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')  # a crash in the middle of a line
    resumed = open_trackers(["none"], tmp_path, None, {}, resumed_step=2)
    resumed.metrics({"reward": 30.0}, 3)
    assert [line["reward"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 30.0]


def test_a_tracker_that_fails_is_dropped(capsys):
    class Down:
        def metrics(self, values, step):
            raise ConnectionError("no route to host")

    trackers = Trackers([Down()])
    trackers.metrics({"reward": 0.0}, 1)
    assert trackers.trackers == []
    assert "Down dropped: no route to host" in capsys.readouterr().err


@pytest.mark.parametrize("metrics", [[], [{"step": 0, "eval/reward": 0.1}]])
def test_a_curve_is_drawn_from_whatever_there_is(tmp_path, metrics):
    draw_reward_curve(metrics, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


class Library(types.ModuleType):
    """A tracker's library that keeps what it was told."""

    def __init__(self, name, fails=False):
        super().__init__(name)
        self.fails, self.asked, self.logged = fails, [], []

    def init(self, **options):
        if self.fails:
            raise ConnectionError("no route to host")
        self.asked.append(options)
        return types.SimpleNamespace(id=options.get("id", "id-of-its-own"), name=options["name"])

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        pass


@pytest.mark.parametrize(("library", "known"), [("wandb", {"id": "id-of-its-own"}), ("trackio", {"name": "toy"})])
def test_a_resumed_run_goes_on_under_its_tracker_s_run(toy_config, brightness, monkeypatch, library, known):
    module = Library(library)
    monkeypatch.setitem(sys.modules, library, module)
    module.__spec__ = importlib.machinery.ModuleSpec(library, None)
    train(toy_config(max_steps=1, report_to=[library], run_name="toy"), recipe=brightness())
    train(
        toy_config(max_steps=2, report_to=[library], run_name="other", resume_from_checkpoint="auto"),
        recipe=brightness(),
    )
    first, second = module.asked
    assert "resume" not in first
    assert second["resume"] == "allow"
    assert known.items() <= second.items()
    assert [step for step, values in module.logged if "reward" in values] == [1, 2]


def test_a_tracker_that_is_down_at_the_start_does_not_stop_the_run(toy_config, brightness, monkeypatch, capsys):
    module = Library("wandb", fails=True)
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert train(toy_config(max_steps=1, report_to=["wandb"]), recipe=brightness())["grad_norm"] > 0
    assert "warning: tracker wandb dropped: no route to host" in capsys.readouterr().err


def test_a_line_cut_short_costs_no_other_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "rew\n{"step": 3}\n{"st')
    assert [line["step"] for line in read_metrics(path)] == [1, 3]
    file = MetricsFile(tmp_path, resumed_step=3)
    with path.open("a") as half:
        half.write('{"st')
    file.metrics({}, 4)
    assert [line["step"] for line in read_metrics(path)] == [1, 3, 4]


def test_the_metrics_file_outlives_a_full_disk(tmp_path, monkeypatch, capsys):
    trackers = Trackers([MetricsFile(tmp_path)])
    with monkeypatch.context() as full:
        full.setattr("trainers.run.tracking.append_line", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        trackers.metrics({}, 1)
    trackers.metrics({}, 2)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2]
    assert "no space left" in capsys.readouterr().err


def test_counts_are_summed_over_micro_batches_and_others_averaged():
    assert mean_of([{"dropped_gradients": 1.0, "reward": 1.0}, {"dropped_gradients": 2.0, "reward": 2.0}]) == {
        "dropped_gradients": 3.0,
        "reward": 1.5,
    }

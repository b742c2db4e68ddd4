"""Where a run's figures, videos and plots go: a metrics file always, and trackers by name.

accelerate's own trackers log no videos, so each is spoken to through its own API.
Axes: T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from trainers.clips.folder import append_line, write_text

METRICS, PROCESSES = "metrics.jsonl", "processes.jsonl"
"""Files of a run: its figures, and what each process holds and how long it works, one value per process."""


class Tracker(Protocol):
    def metrics(self, values: Mapping[str, Any], step: int) -> None: ...
    def video(self, name: str, frames_TCHW: Tensor, fps: float, step: int) -> None: ...
    def image(self, name: str, path: Path, step: int) -> None: ...
    def close(self) -> None: ...


def encode_gif(frames_TCHW: Tensor, fps: float) -> bytes:
    """An endless GIF of a clip in [0, 1]."""
    frames = (frames_TCHW.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=max(20, round(1000 / fps)), loop=0)
    return buffer.getvalue()


class MetricsFile:
    """metrics.jsonl, or another name: one line a log. A resumed run drops the lines of steps that it does again."""

    def __init__(self, folder: Path, resumed_step: int = 0, name: str = METRICS) -> None:
        self.path = folder / name
        old = read_metrics(self.path) if self.path.exists() else []
        kept = [line for line in old if line.get("step", 0) <= resumed_step] if resumed_step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        append_line(self.path, json.dumps({"step": step, **values}))

    def video(self, name: str, frames_TCHW: Tensor, fps: float, step: int) -> None:
        """Videos lie in eval/ beside this file."""

    def image(self, name: str, path: Path, step: int) -> None:
        """Plots lie in eval/ beside this file."""

    def close(self) -> None:
        """Every line is on disk already."""


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; one cut short by a crash or a full disk is left out."""
    lines = []
    for line in Path(path).read_text().splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(values, dict):
            lines.append(values)
    return lines


class TensorBoard:
    def __init__(self, folder: Path, run_name: str, config: dict[str, Any], resumed_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1 if resumed_step else None)
        self.writer.add_text("config", "```\n" + json.dumps(config, indent=2, default=str) + "\n```")

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def video(self, name: str, frames_TCHW: Tensor, fps: float, step: int) -> None:
        # SummaryWriter.add_video asks for moviepy; TensorBoard itself plays a GIF that is logged as an image.
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        height, width = frames_TCHW.shape[-2:]
        picture = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=encode_gif(frames_TCHW, fps)
        )
        summary = Summary(value=[Summary.Value(tag=name, image=picture)])
        self.writer._get_file_writer().add_summary(summary, step)

    def image(self, name: str, path: Path, step: int) -> None:
        import numpy as np

        self.writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases, or trackio, which speaks the same language.

    Args:
        run: what `run` was of the run to go on with: the id that Weights & Biases gave it, trackio's name of it.
    """

    def __init__(self, library: str, run_name: str, config: dict[str, Any], run: str | None = None) -> None:
        self.api, self.library = importlib.import_module(library), library
        known = {} if run is None else {"id": run} if library == "wandb" else {"name": run}
        resume = {} if run is None else {"resume": "allow"}
        made = self.api.init(**{"project": "reward-physics", "name": run_name, "config": config} | known | resume)
        self.run = str(made.id if library == "wandb" else made.name)

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        self.api.log(values, step=step)

    def video(self, name: str, frames_TCHW: Tensor, fps: float, step: int) -> None:
        frames = (frames_TCHW.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        self.api.log({name: self.api.Video(frames, fps=round(fps), format="mp4")}, step=step)

    def image(self, name: str, path: Path, step: int) -> None:
        self.api.log({name: self.api.Image(str(path))}, step=step)

    def close(self) -> None:
        self.api.finish()


class Trackers:
    """All trackers of a run. One that fails is dropped with a warning, the metrics file never: none stops a run."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    @property
    def runs(self) -> dict[str, str]:
        """By library, what names the run there: kept in checkpoints, so that a resumed run goes on under it."""
        return {tracker.library: tracker.run for tracker in self.trackers if isinstance(tracker, Wandb)}

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except Exception as error:
                if isinstance(tracker, MetricsFile):
                    print(f"warning: figures of a step are not in {tracker.path}: {error}", file=sys.stderr)
                    continue
                warn_dropped(type(tracker).__name__, error)
                self.trackers.remove(tracker)

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        self._each(lambda tracker: tracker.metrics(values, step))

    def video(self, name: str, frames_TCHW: Tensor, fps: float, step: int) -> None:
        self._each(lambda tracker: tracker.video(name, frames_TCHW, fps, step))

    def image(self, name: str, path: Path, step: int) -> None:
        self._each(lambda tracker: tracker.image(name, path, step))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())


def warn_dropped(name: str, error: Exception) -> None:
    print(f"warning: tracker {name} dropped: {' '.join(str(error).split())}", file=sys.stderr)


def check_trackers(names: list[str]) -> None:
    """Raise ValueError where a named tracker is not installed."""
    for name in names:
        if name not in ("none", "all") and importlib.util.find_spec(name) is None:
            raise ValueError(f"report_to names {name}, which is not installed: pip install {name}")


def wanted(names: list[str]) -> list[str]:
    """Each tracker once; `all` stands for those that are installed."""
    known = [name for name in ("tensorboard", "trackio", "wandb") if "all" in names and importlib.util.find_spec(name)]
    return [name for name in dict.fromkeys([*names, *known]) if name not in ("all", "none")]


def open_trackers(
    names: list[str],
    folder: str | Path,
    run_name: str | None,
    config: dict[str, Any],
    *,
    resumed_step: int = 0,
    runs: Mapping[str, str] | None = None,
) -> Trackers:
    """Start the named trackers beside the metrics file; `check_trackers` has agreed. Those that are down are left out.

    Args:
        runs: `Trackers.runs` of the run to go on with.
    """
    folder = Path(folder)
    run_name = run_name or folder.name
    trackers: list[Tracker] = [MetricsFile(folder, resumed_step)]
    for name in wanted(names):
        try:
            if name == "tensorboard":
                trackers.append(TensorBoard(folder, run_name, config, resumed_step))
            elif name in ("wandb", "trackio"):
                trackers.append(Wandb(name, run_name, config, (runs or {}).get(name)))
        except Exception as error:
            warn_dropped(name, error)
    return Trackers(trackers)


def draw_reward_curve(metrics: list[dict[str, Any]], path: str | Path) -> None:
    """Reward and measurable share over the steps, with held-out reward where it was evaluated."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, style in (("reward", "-"), ("eval/reward", "o-")):
        points = [(line["step"], line[name]) for line in metrics if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=name, markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel("reward")
    share = [(line["step"], line["measurable"]) for line in metrics if "measurable" in line]
    if share:
        share_axes = axes.twinx()
        share_axes.plot(*zip(*share, strict=True), color="0.7", label="measurable")
        share_axes.set_ylim(0, 1.05)
        share_axes.set_ylabel("measurable share")
    if axes.lines:
        axes.legend(loc="lower right")
    figure.savefig(str(path), dpi=120)


COUNTS = ("dropped_gradients",)
"""Figures that count clips: of a step's micro-batches the sum is logged."""


def mean_of(records: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the micro-batches that have it; of a count the sum."""
    names = dict.fromkeys(name for record in records for name in record)
    values = {name: [record[name] for record in records if name in record] for name in names}
    return {name: sum(each) if name in COUNTS else statistics.fmean(each) for name, each in values.items()}

"""Now and then during training: a few held-out scenes with fixed noise, judged, drawn and logged.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_physics.figures.intervals import bootstrap_interval
from reward_physics.files.io import enlarge, upscale_factor, write_video
from trainers.learning.batches import Scenes, condition_on, lasting
from trainers.learning.rollout import sample
from trainers.learning.scoring import Scored, Scorer, joined, priced_together, score
from trainers.learning.streams import Stream, clip_generators
from trainers.models.base import VideoModel
from trainers.run.processes.parallel import gathered_by_all
from trainers.run.tracking import Trackers
from trainers.settings.common import TrainerConfig


@torch.no_grad()
def generate(model: VideoModel, scenes: Scenes, config: TrainerConfig, numbers: list[int]) -> Tensor:
    """frames_BTCHW in [0, 1] of these scenes, the same noise each time."""
    batch = scenes.batch(numbers)
    generators = clip_generators(config.seed, numbers, Stream.HELD_OUT)
    condition = condition_on(model, batch, config, generators)
    return sample(
        model,
        condition,
        generators,
        num_steps=config.num_inference_steps,
        adapter_sigma_range=config.adapter_sigma_range,
    )


def evaluate_held_out(
    model: VideoModel,
    scenes: Scenes,
    judges: dict[str, Scorer],
    config: TrainerConfig,
    *,
    step: int,
    folder: Path | None,
    trackers: Trackers | None,
    share: Share | None = None,
) -> dict[str, float]:
    """Judge the first `config.eval_scenes` held-out scenes and leave videos and a plot in `folder`.

    With several processes each judges some batches of them, and process 0 has the figures that it would have alone.

    Args:
        share: which batches are this process's; by default all.
        judges: recipes by the name their figures get: `eval` the training recipe, `judge` the held-out one.
        folder, trackers: step's own folder, made here, and where figures go; None on a process that does not write.

    Returns:
        Of each judge: the mean reward with the ends of its 95 % bootstrap interval over scenes (`judge/reward`,
        `judge/reward/low`, `judge/reward/high`; no ends with fewer than two scenes), the measurable share, and the
        median measured g. Nothing on a process other than 0.
    """
    judged = in_order(gathered_by_all(judge_scenes(model, scenes, judges, config, share or Share())))
    if not judged:
        return {}
    means = means_of(judged, judges)
    if folder is None or trackers is None:
        return means
    trackers.metrics(means, step)
    try:
        show(judged, judges, folder, trackers, step)
    except OSError as error:
        sys.stderr.write(f"warning: the pictures of step {step} are not in {folder}: {error}: the run goes on\n")
    return means


def show(judged: list[Judged], judges: dict[str, Scorer], folder: Path, trackers: Trackers, step: int) -> None:
    """Leave an evaluation's videos and plot in its folder and with the trackers."""
    folder.mkdir(parents=True, exist_ok=True)
    fps, scenes_side_by_side = judged[0].fps, [picture for part in judged for picture in part.pictures]
    picture = torch.cat(scenes_side_by_side, dim=-1)  # the data's clip above the generated one
    write_video(folder / "clips.mp4", picture, fps=fps)
    scale = upscale_factor(*picture.shape[-2:], min_side_px=256)
    trackers.video("eval/clips", enlarge(picture, scale), fps, step)
    g_m_s2 = {name: [g for part in judged for g in part.g_m_s2[name]] for name in judges}
    if any(g_m_s2.values()):
        draw_g(g_m_s2, folder / "g.png")
        trackers.image("eval/g", folder / "g.png", step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """Which batches of an evaluation are a process's: batch i is that of place i modulo `places`.

    Args:
        place, places: of this process, and how many there are. Processes that share a clip's tokens have one place.
        leads: this process hands in what its place has judged.
        in_step: every place judges equally many batches, the last again where it has none: no process can call a
            sharded network alone.
    """

    place: int = 0
    places: int = 1
    leads: bool = True
    in_step: bool = False

    def of(self, count: int) -> list[tuple[int, bool]]:
        """The batches of this place out of `count`, and whether each counts."""
        own = range(self.place, -(-count // self.places) * self.places, self.places)
        return [(min(i, count - 1), i < count) for i in own if i < count or self.in_step]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A batch of scenes as judges saw it.

    Args:
        batch: its number.
        scored: by each judge, by its name.
        g_m_s2: measured by each judge, a scene, NaN where it measured none.
        pictures: the data's clip above the generated one, frames_TCHW, a scene.
        fps: of the first clip.
    """

    batch: int
    scored: dict[str, Scored]
    g_m_s2: dict[str, list[float]]
    pictures: list[Tensor]
    fps: float


def judge_scenes(
    model: VideoModel, scenes: Scenes, judges: dict[str, Scorer], config: TrainerConfig, share: Share
) -> list[Judged]:
    """Generate and judge this process's share of the first `config.eval_scenes` scenes; none where it only helps."""
    count, size = min(config.eval_scenes, len(scenes)), config.per_device_train_batch_size
    judged = []
    for index, counts in share.of(-(-count // size)):
        numbers = list(range(index * size, min((index + 1) * size, count)))
        batch = scenes.batch(numbers)
        frames = generate(model, scenes, config, numbers)
        if not (counts and share.leads):
            continue
        video = batch.video.to(frames.device)
        scored, g_m_s2 = {}, {}
        for name, judge in judges.items():
            scored[name], observation = score(judge, video.with_frames(frames), batch.columns)
            g_m_s2[name] = measured_g(observation, scored[name].measurable_B).tolist()
        truth = lasting(video.frames_BTCHW, frames.shape[1])
        shown = torch.cat([truth, frames], dim=-2) if batch.has_clips else frames
        fps = video.fps_B[0].item()
        judged.append(Judged(batch=index, scored=scored, g_m_s2=g_m_s2, pictures=list(shown.cpu()), fps=fps))
    return judged


def in_order(parts: Sequence[Sequence[Judged]]) -> list[Judged]:
    """What several processes have judged, in the order of the scenes."""
    return sorted((judged for part in parts for judged in part), key=lambda judged: judged.batch)


def means_of(judged: Sequence[Judged], judges: dict[str, Scorer]) -> dict[str, float]:
    """The figures that `evaluate_held_out` returns, prices and spreads being those of all scenes together."""
    means, ends = {}, {}
    for name, judge in judges.items():
        scored = priced_together(judge, joined([part.scored[name] for part in judged]))
        means[f"{name}/reward"] = scored.reward_B.mean().item()
        means[f"{name}/measurable"] = scored.measurable_B.mean().item()
        ends |= ends_of(f"{name}/reward", scored.reward_B)
    means |= ends
    for name in judges:
        known = torch.tensor([g for part in judged for g in part.g_m_s2[name]])
        known = known[known.isfinite()]
        if len(known):
            means[f"{name}/g_m_s2"] = known.median().item()
    return means


def check_held_out(model: VideoModel, scenes: Scenes, judges: dict[str, Scorer], config: TrainerConfig) -> None:
    """Meet what the first evaluation would: the first held-out clips are conditioned on and judged, none is made.

    Raises:
        ValueError: clips that the model cannot make, columns or instruments that a judge lacks.
    """
    asked = config.eval_scenes
    if len(scenes) < asked:
        warnings.warn(
            f"eval_scenes {asked} is more than the {len(scenes)} scenes of eval_split {config.eval_split} that kinds "
            f"and at_rest leave: all {len(scenes)} are evaluated",
            stacklevel=2,
        )
    numbers = list(range(min(asked, config.per_device_train_batch_size, len(scenes))))
    try:
        batch = scenes.batch(numbers)
        condition = condition_on(model, batch, config, clip_generators(config.seed, numbers, Stream.HELD_OUT))
        video = batch.video.to(model.device)
        frames = lasting(video.frames_BTCHW, condition.num_frames)
        for name, judge in judges.items():
            scored, observation = score(judge, video.with_frames(frames), batch.columns)
            if scored.reward_B.shape != (len(numbers),):
                raise ValueError(
                    f"{name} must return one score a clip, shape ({len(numbers)},), got {tuple(scored.reward_B.shape)}"
                )
            measured_g(observation, scored.measurable_B)
    except ValueError as error:
        raise ValueError(f"the first evaluation, on eval_split {config.eval_split}, would fail: {error}") from error


def ends_of(name: str, reward_N: Tensor) -> dict[str, float]:
    """The ends of the 95 % bootstrap interval of a mean over scenes, by the name of the mean; none of one scene."""
    generator = torch.Generator().manual_seed(0)
    interval = bootstrap_interval(reward_N.double().cpu(), lambda draws_RN: draws_RN.mean(-1), generator=generator)
    ends = {f"{name}/low": interval.low, f"{name}/high": interval.high}
    return {end: value for end, value in ends.items() if math.isfinite(value)}


def measured_g(observation: Any, measurable_B: Tensor) -> Tensor:
    """Downward acceleration of each clip's free flight in m/s^2, NaN where there is none or no metres are known."""
    try:
        fit = getattr(observation, "fit", None)
    except ValueError:  # the judge's instruments refuse metres: it judges by other things
        fit = None
    if fit is None:
        return torch.full_like(measurable_B, float("nan"))
    return torch.where(measurable_B > 0, -fit.accel_B3[:, 2].detach().float(), float("nan"))


def draw_g(g_m_s2: dict[str, list[float]], path: Path) -> None:
    """Each scene's measured g by each judge, beside 9.81."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, values in g_m_s2.items():
        axes.plot(range(len(values)), values, "o", label=name)
    axes.axhline(9.81, color="0.4", linestyle="--", label="9.81 m/s²")
    axes.set_xlabel("held-out scene")
    axes.set_ylabel("measured g, m/s²")
    axes.legend()
    figure.savefig(str(path), dpi=110)

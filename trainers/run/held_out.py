"""Now and then during training: a few held-out scenes with fixed noise, judged, drawn and logged.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_physics.figures.intervals import bootstrap_interval
from reward_physics.files.io import enlarge, upscale_factor, write_video
from trainers.learning.batches import Scenes, condition_on
from trainers.learning.rollout import sample
from trainers.learning.scoring import Scored, Scorer, joined, priced_together, score
from trainers.learning.streams import Stream, clip_generators
from trainers.models.base import VideoModel
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
) -> dict[str, float]:
    """Judge the first `config.eval_scenes` held-out scenes and leave videos and a plot in `folder`.

    Args:
        judges: recipes by the name their figures get: `eval` the training recipe, `judge` the held-out one.
        folder, trackers: step's own folder, made here, and where figures go; None on a process that does not write.

    Returns:
        Of each judge: the mean reward with the ends of its 95 % bootstrap interval over scenes (`judge/reward`,
        `judge/reward/low`, `judge/reward/high`; no ends with fewer than two scenes), the measurable share, and the
        median measured g.
    """
    judged = judge_scenes(model, scenes, judges, config)
    means = judged.means()
    if folder is None or trackers is None:
        return means
    folder.mkdir(parents=True, exist_ok=True)
    picture = torch.cat(judged.pictures, dim=-1)  # scenes side by side, the data's clip above the generated one
    write_video(folder / "clips.mp4", picture, fps=judged.fps)
    scale = upscale_factor(*picture.shape[-2:], min_side_px=256)
    trackers.video("eval/clips", enlarge(picture, scale), judged.fps, step)
    if any(judged.g_m_s2.values()):
        draw_g(judged.g_m_s2, folder / "g.png")
        trackers.image("eval/g", folder / "g.png", step)
    trackers.metrics(means, step)
    return means


@dataclasses.dataclass(kw_only=True)
class Judged:
    """Some scenes as judges saw them; every list has one entry per scene.

    Args:
        reward, measurable: of each judge, by its name.
        g_m_s2: measured by each judge, NaN where it measured none.
        pictures: the data's clip above the generated one, frames_TCHW.
        fps: of the clips.
    """

    reward: dict[str, list[float]]
    measurable: dict[str, list[float]]
    g_m_s2: dict[str, list[float]]
    pictures: list[Tensor]
    fps: float = 1.0

    def means(self) -> dict[str, float]:
        """The figures that `evaluate` returns."""
        means = {}
        for name, rewards in self.reward.items():
            means[f"{name}/reward"] = torch.tensor(rewards).mean().item()
            means[f"{name}/measurable"] = torch.tensor(self.measurable[name]).mean().item()
        for name, rewards in self.reward.items():
            means |= ends_of(f"{name}/reward", torch.tensor(rewards))
        for name, g_m_s2 in self.g_m_s2.items():
            known = torch.tensor(g_m_s2)
            known = known[known.isfinite()]
            if len(known):
                means[f"{name}/g_m_s2"] = known.median().item()
        return means


def judge_scenes(model: VideoModel, scenes: Scenes, judges: dict[str, Scorer], config: TrainerConfig) -> Judged:
    """Generate the first `config.eval_scenes` scenes and judge them."""
    count, size = min(config.eval_scenes, len(scenes)), config.per_device_train_batch_size
    reward, measurable, g_m_s2 = ({name: [] for name in judges} for _ in range(3))
    judged = Judged(reward=reward, measurable=measurable, g_m_s2=g_m_s2, pictures=[])
    parts: dict[str, list[Scored]] = {name: [] for name in judges}
    for start in range(0, count, size):
        numbers = list(range(start, min(start + size, count)))
        batch = scenes.batch(numbers)
        frames = generate(model, scenes, config, numbers)
        video = batch.video.to(frames.device)
        judged.fps = video.fps_B[0].item()
        for name, judge in judges.items():
            scored, observation = score(judge, video.with_frames(frames), batch.columns)
            parts[name].append(scored)
            g_m_s2[name] += measured_g(observation, scored.measurable_B).tolist()
        truth = video.frames_BTCHW[:, : frames.shape[1]]
        judged.pictures += [torch.cat([truth[i], frames[i]], dim=-2).cpu() for i in range(len(numbers))]
    for name, judge in judges.items():
        scored = priced_together(judge, joined(parts[name]))
        reward[name], measurable[name] = scored.reward_B.tolist(), scored.measurable_B.tolist()
    return judged


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

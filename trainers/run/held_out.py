"""Now and then during training: a few held-out scenes with fixed noise, judged, drawn and logged.

Axes: B clips, T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_physics.files.io import enlarge, upscale_factor, write_video
from trainers.learning.batches import Scenes, condition_on
from trainers.learning.rollout import sample
from trainers.learning.scoring import Judge, score
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


def evaluate(
    model: VideoModel,
    scenes: Scenes,
    judges: dict[str, Judge],
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
        Mean reward, measurable share and the median measured g of each judge.
    """
    count = min(config.eval_scenes, len(scenes))
    size = config.per_device_train_batch_size
    metrics: dict[str, list[Tensor]] = {}
    g: dict[str, list[Tensor]] = {name: [] for name in judges}
    rows: list[Tensor] = []
    fps = 1.0
    for start in range(0, count, size):
        numbers = list(range(start, min(start + size, count)))
        batch = scenes.batch(numbers)
        frames = generate(model, scenes, config, numbers)
        video = batch.video.to(frames.device)
        fps = video.fps_B[0].item()
        for name, judge in judges.items():
            scored, observation = score(judge, video.with_frames(frames), batch.columns)
            metrics.setdefault(f"{name}/reward", []).append(scored.reward_B)
            metrics.setdefault(f"{name}/measurable", []).append(scored.measurable_B)
            g[name].append(measured_g(observation, scored.measurable_B))
        truth = video.frames_BTCHW[:, : frames.shape[1]]
        rows.extend(torch.cat([truth[i], frames[i]], dim=-2).cpu() for i in range(len(numbers)))
    means = {name: torch.cat(values).mean().item() for name, values in metrics.items()}
    for name, values in g.items():
        known = torch.cat(values)
        known = known[known.isfinite()]
        if len(known):
            means[f"{name}/g_m_s2"] = known.median().item()
    if folder is None or trackers is None:
        return means
    folder.mkdir(parents=True, exist_ok=True)
    picture = torch.cat(rows, dim=-1)  # scenes side by side, the data's clip above the generated one
    write_video(folder / "clips.mp4", picture, fps=fps)
    trackers.video("eval/clips", enlarge(picture, upscale_factor(*picture.shape[-2:], min_side_px=256)), fps, step)
    if any(len(torch.cat(values)) for values in g.values()):
        draw_g({name: torch.cat(values).tolist() for name, values in g.items()}, folder / "g.png")
        trackers.image("eval/g", folder / "g.png", step)
    trackers.metrics(means, step)
    return means


def measured_g(observation: Any, measurable_B: Tensor) -> Tensor:
    """Downward acceleration of each clip's free flight in m/s^2, NaN where there is none."""
    fit = getattr(observation, "fit", None)
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

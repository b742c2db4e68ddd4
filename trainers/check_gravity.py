"""How well the instruments of a recipe read g off true clips, whose g is known.

    python -m trainers.check_gravity --split heldout
    python -m trainers.check_gravity --split heldout --through_autoencoder

Clips count in which the object is in free flight (no slides), and where the Cramer-Rao bound of the scene is at most
`bound`: a centroid noise of `noise_px`, the frames before the true impact, and the scale of the picture at the
object allow no better estimator a standard error below it.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from data.rows import collate, to_video
from data.worlds import world_of
from reward_physics.laws.kinematics import cramer_rao_g_m_s2
from reward_physics.video import Video
from trainers.clips.folder import write_text
from trainers.models import load_video_model, round_trip
from trainers.settings.options import Positive, Rate, exit_with_one_line, option, parse_config, strict


@strict
class CheckConfig:
    """Read g off true clips by the instruments of one or several recipes."""

    recipe: list[str] = option(
        ["configs/recipes/gravity.yaml", "configs/recipes/judge_scene.yaml", "configs/recipes/gravity_positions.yaml"],
        "recipes whose instruments are checked; the first two are compared",
    )
    world: str = option("drops", "world of the clips: drops, or package.module:Class")
    split: str = option("heldout", "split of the clips")
    dataset: str | None = option(None, "folder of splits; by default the shipped clips")
    scenes: Positive | None = option(None, "scenes of the split, from its beginning; by default all")
    through_autoencoder: bool = option(False, "send the clips through the video model's autoencoder first")
    model_name_or_path: str = option("data/drops/model", "diffusers pipeline whose autoencoder is meant")
    noise_px: Rate = option(0.1, "centroid noise of the Cramer-Rao bound, px")
    bound: Rate = option(0.015, "largest relative Cramer-Rao bound of a clip that counts")
    batch_size: Positive = option(8, "clips measured at a time")
    output: str | None = option(None, "JSON file for the figures and every clip's reading")


def relative_bound(batch: Mapping[str, Any], metres_per_px_B: Tensor, noise_px: float) -> Tensor:
    """Cramer-Rao bound of g over g of every clip, from the truth; infinite where nothing flies freely.

    Args:
        batch: collated rows.
        metres_per_px_B: size of a pixel at the object in the first frame, m.
        noise_px: white noise of the centroid, px.
    """
    frames = batch["frames_BTCHW"].shape[1]
    bounds = []
    for clip, kind in enumerate(batch["kind"]):
        fps, impacts = float(batch["fps_B"][clip]), batch["impact_times_s"][clip]
        flying = frames if not impacts else min(frames, math.floor(min(impacts) * fps) + 1)
        g = cramer_rao_g_m_s2(
            num_frames=0 if kind == "slide" else flying,
            fps=fps,
            noise_px=noise_px,
            px_per_m=1 / float(metres_per_px_B[clip]),
        )
        bounds.append(g / float(batch["g_m_s2_B"][clip]))
    return torch.tensor(bounds)


def check(config: CheckConfig) -> dict[str, Any]:
    """Measure and compare; returns the figures by recipe and, for each clip, its readings."""
    from rewards.recipe.recipe import load_recipe

    recipes = {Path(path).stem: load_recipe(path) for path in config.recipe}
    clips: list[dict[str, Any]] = []
    for batch, video in _batches(config):
        bound_B = relative_bound(batch, _metres_per_px(batch, video), config.noise_px)
        readings = {name: _readings(recipe.observe(video, False).fit) for name, recipe in recipes.items()}
        for clip, bound in enumerate(bound_B.tolist()):
            clips.append(
                {name: reading[clip] for name, reading in readings.items()}
                | {"id": batch["id"][clip], "kind": batch["kind"][clip], "shape": batch["shape"][clip]}
                | {"g_m_s2": float(batch["g_m_s2_B"][clip]), "bound": bound}
            )
    counted = [clip for clip in clips if clip["bound"] <= config.bound]
    if not counted:
        raise ValueError(f"no clip of {config.split} has a Cramer-Rao bound of at most {config.bound}: raise bound")
    figures = {name: summarise(counted, name) for name in recipes}
    if len(recipes) > 1:
        first, second = list(recipes)[:2]
        figures["agreement"] = agreement(counted, first, second)
    return {"split": config.split, "counted": len(counted), "figures": figures, "clips": clips}


def summarise(clips: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Errors of one recipe over clips: median and 95th percentile of |g error|, bias, share measured, coverage,
    width."""
    seen = [clip for clip in clips if not math.isnan(clip[name]["g_m_s2"])]
    if not seen:
        return {"measurable": 0.0}
    truth = torch.tensor([clip["g_m_s2"] for clip in seen])
    g, low, high = (torch.tensor([clip[name][key] for clip in seen]) for key in ("g_m_s2", "low", "high"))
    error = (g - truth) / truth
    return {
        "measurable": len(seen) / len(clips),
        "median_error": error.abs().median().item(),
        "p95_error": error.abs().quantile(0.95).item(),
        "bias": error.median().item(),
        "coverage": ((low <= truth) & (truth <= high)).float().mean().item(),
        "width": ((high - low) / truth).median().item(),
    }


def agreement(clips: list[dict[str, Any]], first: str, second: str) -> dict[str, float]:
    """Relative difference of two recipes' g: median size over clips, and the difference of their medians."""
    pairs = torch.tensor([[clip[first]["g_m_s2"], clip[second]["g_m_s2"], clip["g_m_s2"]] for clip in clips])
    pairs = pairs[~pairs.isnan().any(1)]
    if not len(pairs):
        return {}
    a, b, truth = pairs.unbind(1)
    return {
        "median_difference": ((a - b) / truth).abs().median().item(),
        "difference_of_medians": ((a / truth).median() - (b / truth).median()).item(),
    }


def _readings(fit: Any) -> list[dict[str, Any]]:
    low, high = fit.g_interval()
    g = torch.where(fit.measurable_B, fit.g_m_s2_B, torch.nan)
    return [
        {"g_m_s2": float(g[i]), "low": float(low[i]), "high": float(high[i]), "reason": reason}
        for i, reason in enumerate(fit.reasons)
    ]


def _metres_per_px(batch: Mapping[str, Any], video: Video) -> Tensor:
    assert video.camera is not None
    _, depth_BT = video.camera.project(batch["poses_BTN7"][:, :, 0, :3])
    return depth_BT[:, 0] / video.camera.focal_px_B


def _batches(config: CheckConfig):
    """Collated rows and their clips, through the autoencoder where asked."""
    model = load_video_model(config.model_name_or_path) if config.through_autoencoder else None
    table = world_of(config.world).rows(config.split, config.dataset)
    count = min(len(table), config.scenes or len(table))
    for start in tqdm(range(0, count, config.batch_size), desc=config.split, unit="batch"):
        batch = collate([table[index] for index in range(start, min(start + config.batch_size, count))])
        video = to_video(batch)
        if model is not None:
            video = video.with_frames(round_trip(model, video.frames_BTCHW, batch["caption"], video.fps_B))
        yield batch, video


def show(result: dict[str, Any]) -> None:
    """The figures as a table on the terminal."""
    keys = ("measurable", "median_error", "p95_error", "bias", "coverage", "width")
    table = Table("recipe", *(key.replace("_", " ") for key in keys), title=f"{result['counted']} clips that count")
    for name, figures in result["figures"].items():
        if name != "agreement":
            table.add_row(name, *(f"{figures[key]:.1%}" if key in figures else "-" for key in keys))
    console = Console()
    console.print(table)
    for key, value in result["figures"].get("agreement", {}).items():
        console.print(f"{key.replace('_', ' ')}: {value:.1%}")


def main() -> None:
    config = parse_config(CheckConfig)
    result = check(config)
    show(result)
    if config.output:
        write_text(config.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    exit_with_one_line(main)

"""At which noise level a model's motion is decided.

    python -m trainers.commitment --model_name_or_path data/drops/model --at_rest true --output_dir outputs/commitment

A sampled clip is noised again to level sigma and completed by the same sampler: x_0 -> x_sigma -> x_0'. Both clips are
draws given x_sigma, so the change of their measured g shows the spread that x_sigma leaves open. One clip whose motion
was misread would rule a mean of squares: the median is taken, scaled to the deviation of a normal distribution:

    spread(sigma) = 1.4826 median|g' - g| / sqrt(2),    shown as a share of spread(1), where nothing of x_0 is left

The noise of the measurement is in it at every level: the share does not fall to zero.

Below the level where the share is small, the adapter cannot change the motion any more and the reference distance may
hold the looks (`reference_sigma_range`); above it the motion is learned (`adapter_sigma_range`).

Axes: B clips, S sampling steps.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import contextlib
import dataclasses
import json
import math
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rewards.recipe.recipe import load_recipe
from trainers.clips.folder import write_text
from trainers.learning.batches import Batch, Scenes, condition_on
from trainers.learning.of_text import check_without_scene
from trainers.learning.rollout import rollout
from trainers.learning.scoring import Scorer, score
from trainers.learning.streams import Stream, clip_generators
from trainers.models import Condition, Schedule, VideoModel, load_video_model
from trainers.run.held_out import measured_g
from trainers.settings.common import GenerationConfig
from trainers.settings.options import Positive, Weight, exit_with_one_line, option, parse_config, strict


@strict
class CommitmentConfig(GenerationConfig):
    """Measure at which noise level a model's motion is decided."""

    recipe: str = option("configs/recipes/gravity.yaml", "recipe whose instruments measure g")
    output_dir: str = option("outputs/commitment", "folder of the figures; a run that was stopped goes on")
    sigmas: list[float] = option([1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3], "noise levels, the first must be 1")
    scenes: Positive = option(24, "scenes of the split")
    completions: Positive = option(2, "completions of each clip at each level")
    batch_size: Positive = option(6, "clips at a time")
    open_share: Weight = option(0.1, "motion counts as decided where less than this share of its spread is open")
    seed: int = option(0, "seed of the noise")
    disable_tqdm: bool = option(False, "no progress bar")


def schedule_from(schedule: Schedule, sigma: float) -> Schedule:
    """The rest of a schedule from level `sigma` on, which need not be one of its own."""
    start = torch.tensor([sigma], dtype=schedule.sigmas.dtype)
    sigmas = torch.cat([start, schedule.sigmas[schedule.sigmas < sigma - 1e-6]])
    per_sigma = schedule.timesteps_S[0] / schedule.sigmas[0]
    return Schedule(sigmas=sigmas, timesteps_S=sigmas[:-1] * per_sigma)


@torch.no_grad()
def complete_again(
    model: VideoModel,
    clean: Tensor,
    sigma: float,
    schedule: Schedule,
    condition: Condition,
    generators: list[torch.Generator],
    *,
    adapter_sigma_range: list[float] | tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Noise clean latents to level `sigma` and sample them down again: new clean latents."""
    noise = model.initial_latents(condition, generators)
    sigma_B = torch.full((len(clean),), sigma)
    noisy = model.pin(model.add_noise(clean, noise, sigma_B), condition)
    left = schedule_from(schedule, sigma)
    return rollout(model, condition, left, noisy, adapter_sigma_range=adapter_sigma_range).latents


def open_shares(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The curve from lines of {sigma, g, again}: for each level the spread and its share of that at level 1."""
    rows = []
    for sigma in sorted({record["sigma"] for record in records}, reverse=True):
        pairs = [(record["g"], record["again"]) for record in records if record["sigma"] == sigma]
        known = [(g, again) for g, again in pairs if math.isfinite(g) and math.isfinite(again)]
        change = statistics.median(abs(again - g) for g, again in known) if known else math.nan
        spread = 1.4826 * change / math.sqrt(2)
        rows.append({"sigma": sigma, "spread_m_s2": spread, "pairs": len(known), "of": len(pairs)})
    prior = rows[0]["spread_m_s2"] if rows else math.nan
    return [row | {"open": row["spread_m_s2"] / prior if prior > 0 else math.nan} for row in rows]


def commitment_level(rows: list[dict[str, float]], open_share: float) -> float:
    """The noise level where the open share crosses `open_share`, by linear interpolation; 0 where it never does."""
    for above, below in pairwise(rows):
        if below["open"] < open_share <= above["open"]:
            step = (above["open"] - open_share) / (above["open"] - below["open"])
            return above["sigma"] + step * (below["sigma"] - above["sigma"])
    return 0.0


def measure_commitment(config: CommitmentConfig, model: VideoModel, recipe: Scorer) -> list[dict[str, float]]:
    """Fill `pairs.jsonl` in the output folder, one line per pair of clips, and return the curve."""
    if not config.sigmas or config.sigmas[0] != 1 or any(not 0 < sigma <= 1 for sigma in config.sigmas):
        raise ValueError(f"sigmas must start with 1 and lie in (0, 1], got {config.sigmas}")
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _remember(folder / "settings.json", config)
    log = folder / "pairs.jsonl"
    records = whole_records(log, len(config.sigmas) * config.completions)
    finished = {record["scene"] for record in records}
    scenes = Scenes(config, config.split, shuffle=False)
    numbers = [number for number in range(min(config.scenes, len(scenes))) if number not in finished]
    rounds = len(config.sigmas) * config.completions
    with tqdm(total=len(numbers) * rounds, unit="clip", disable=config.disable_tqdm) as progress:
        for start in range(0, len(numbers), config.batch_size):
            batch = numbers[start : start + config.batch_size]
            new = pairs_of(config, model, recipe, scenes.batch(batch), progress)
            records += new
            with log.open("a") as file:  # a batch at a time: what was stopped within is done again
                file.writelines(json.dumps(record) + "\n" for record in new)
    return open_shares(records)


def whole_records(log: Path, count: int) -> list[dict[str, Any]]:
    """The lines of scenes that have all `count` of theirs; the others, of an interrupted write, are taken out."""
    records: list[dict[str, Any]] = []
    for line in log.read_text().splitlines() if log.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    lines = Counter(record["scene"] for record in records)
    whole = [record for record in records if lines[record["scene"]] == count]
    if log.exists():
        write_text(log, "".join(json.dumps(record) + "\n" for record in whole))
    return whole


def pairs_of(
    config: CommitmentConfig, model: VideoModel, recipe: Scorer, batch: Batch, progress: "tqdm[Any]"
) -> list[dict[str, Any]]:
    """Sample each scene once, complete it again at every level, and measure g of both."""
    numbers = batch.numbers
    first = clip_generators(config.seed, numbers, Stream.COMMITMENT)
    condition = condition_on(model, batch, config, first)
    schedule = model.schedule(config.num_inference_steps, condition)
    with torch.no_grad():
        noise = model.initial_latents(condition, first)
        clean = rollout(model, condition, schedule, noise, adapter_sigma_range=config.adapter_sigma_range).latents

    def g_of(latents: Tensor) -> list[float]:
        with torch.no_grad():
            frames = model.decode(latents, condition).clamp(0, 1)
        video = batch.video.to(frames.device).with_frames(frames)
        scored, observation = score(recipe, video, batch.columns)
        return measured_g(observation, scored.measurable_B).tolist()

    g, records = g_of(clean), []
    for level, sigma in enumerate(config.sigmas):
        for k in range(config.completions):
            fresh = clip_generators(config.seed, numbers, Stream.COMPLETIONS + level * config.completions + k)
            active = config.adapter_sigma_range
            completions = complete_again(model, clean, sigma, schedule, condition, fresh, adapter_sigma_range=active)
            again = g_of(completions)
            records += [
                {"scene": scene, "sigma": sigma, "g": first_g, "again": second_g}
                for scene, first_g, second_g in zip(numbers, g, again, strict=True)
            ]
            progress.update(len(numbers))
    return records


def _remember(path: Path, config: CommitmentConfig) -> None:
    free = {"output_dir", "scenes", "batch_size", "open_share", "disable_tqdm"}
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in free}  # pyright: ignore[reportArgumentType]
    before = json.loads(path.read_text()) if path.exists() else settings
    changed = sorted(name for name in before.keys() & settings.keys() if before[name] != settings[name])
    if changed:
        raise ValueError(
            f"{path.parent} holds a curve with other settings ({', '.join(changed)}): choose another output_dir"
        )
    write_text(path, json.dumps(settings, indent=2))


def draw(rows: list[dict[str, float]], level: float, path: Path) -> None:
    """The commitment curve: open share of the spread of g over the noise level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["sigma"] for row in rows], [row["open"] for row in rows], "o-")
    axes.axvline(level, color="0.5", linestyle="--", label=f"decided at {level:.2f}")
    axes.set_xlabel("noise level sigma")
    axes.set_ylabel("share of the spread of g still open")
    axes.set_xlim(1.02, 0)
    axes.legend()
    figure.savefig(str(path), dpi=120)


def main() -> None:
    config = parse_config(CommitmentConfig)
    recipe = load_recipe(config.recipe)
    if not config.image_conditioning:
        check_without_scene(recipe, f"recipe {config.recipe}")
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    model = load_video_model(config.model_name_or_path, torch_dtype=dtype)
    model.offload_text, model.offload_blocks = config.offload_text_encoder, config.offload_transformer
    model.to("cuda" if torch.cuda.is_available() else "cpu").decode_in_tiles(config.decode_tile_px)
    if config.lora_path:
        model.load_lora(config.lora_path)
    rows = measure_commitment(config, model, recipe)
    level = commitment_level(rows, config.open_share)
    folder = Path(config.output_dir)
    (folder / "commitment.json").write_text(json.dumps({"level": level, "rows": rows}, indent=2))
    draw(rows, level, folder / "commitment.png")
    print("sigma   open  spread m/s²  measured pairs")
    for row in rows:
        counts = f"{row['pairs']:3.0f} of {row['of']:.0f}"
        print(f"{row['sigma']:5.2f}  {row['open']:5.2f}  {row['spread_m_s2']:11.2f}  {counts}")
    print(f"motion is decided (open share below {config.open_share:g}) at sigma {level:.2f}:")
    print(f"  reference_sigma_range: [0.0, {level:.2f}]")
    print(f"table and plot are in {folder}")


if __name__ == "__main__":
    exit_with_one_line(main)

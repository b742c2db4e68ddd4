"""Score sampled clips of drops by a recipe, for the offline weighted regression.

    python -m trainers.sample --split train --scenes 64 --seeds 0 1 2 3 4 5 6 7 --output_dir outputs/samples
    python -m trainers.score_clips --clips outputs/samples --recipe configs/recipes/gravity_positions.yaml
    python trainers/rwr.py --config configs/rwr_drops.yaml --scored outputs/samples

Camera, distance and the other columns that a reward may ask for come from the scene that each clip starts from. The
scores are written beside the clips (`trainers.clips.scored` has the format); a run that was stopped goes on. Where a
recipe takes spreads or the price `worst` from its batch, the batch is the clips of one scene, whatever `batch_size` is.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm

from data.rates import at_rate
from data.rows import HEAVY_COLUMNS, collate, load_split, reward_columns, to_video
from rewards.recipe.in_parts import needs_its_batch
from trainers.clips.folder import Sample, read_clip, read_samples
from trainers.clips.making import default_device
from trainers.clips.scored import read_rewards, write_rewards
from trainers.learning.scoring import Scored, Scorer, joined, priced_together, score, some_clips
from trainers.settings.options import Positive, exit_with_one_line, option, parse_config, strict


@strict
class ScoreClipsConfig:
    """Score a folder of sampled clips."""

    clips: str = option("samples", "folder that `python -m trainers.sample` left")
    recipe: str = option("configs/recipes/gravity.yaml", "YAML recipe of rewards")
    split: str = option("train", "split whose scenes the clips start from")
    dataset: str | None = option(None, "folder of splits; by default the shipped clips")
    batch_size: Positive = option(16, "clips scored at a time")
    rescore: bool = option(False, "score again what has a score")


def score_folder(config: ScoreClipsConfig, *, recipe: Scorer | None = None) -> dict[str, float]:
    """Score what has no score yet; returns the scores by the clips' names, NaN where not measurable.

    Raises:
        ValueError: no clips, or clips of scenes that the split does not hold.
    """
    samples = read_samples(config.clips)
    if not samples:
        raise ValueError(f"clips: {config.clips} holds no clips: make them with `python -m trainers.sample`")
    rewards = {} if config.rescore else read_rewards(config.clips)
    missing = [sample for name, sample in samples.items() if name not in rewards]
    if recipe is None:
        from rewards.recipe.recipe import load_recipe

        recipe = load_recipe(config.recipe)
    together = hasattr(recipe, "total") and needs_its_batch(cast(Any, recipe))
    if together:  # a scene's clips are one group: a new one among them changes what the others are worth
        scenes = {sample.scene for sample in missing}
        missing = sorted((one for one in samples.values() if one.scene in scenes), key=lambda one: one.scene)
    rows = rows_by_id(config, {sample.scene for sample in missing})
    waiting: list[tuple[Sample, Scored]] = []
    with tqdm(total=len(samples), initial=len(samples) - len(missing), desc="scoring", unit="clip") as bar:
        for start in range(0, len(missing), config.batch_size):
            batch_samples = missing[start : start + config.batch_size]
            batch = collate([at_rate(rows[sample.scene], sample.fps) for sample in batch_samples])
            frames = torch.stack([read_clip(config.clips, sample.name) for sample in batch_samples])
            video = to_video(batch).with_frames(frames).to(default_device())
            scored, _ = score(recipe, video, reward_columns(batch))
            waiting += [(sample, some_clips(scored, [clip])) for clip, sample in enumerate(batch_samples)]
            after = missing[start + config.batch_size].scene if start + config.batch_size < len(missing) else None
            whole = [pair for pair in waiting if not together or pair[0].scene != after]
            waiting = [pair for pair in waiting if together and pair[0].scene == after]
            rewards |= priced(recipe, whole, together=together)
            write_rewards(config.clips, rewards)
            bar.update(len(batch_samples))
    return rewards


def priced(recipe: Scorer, clips: Sequence[tuple[Sample, Scored]], *, together: bool) -> dict[str, float]:
    """What clips are worth by name, NaN where not measurable: alone, or among the clips of their scene."""
    rewards: dict[str, float] = {}
    for scene in dict.fromkeys(sample.scene for sample, _ in clips):
        group = [(sample, scored) for sample, scored in clips if sample.scene == scene]
        scored = joined([scored for _, scored in group])
        scored = priced_together(recipe, scored) if together else scored
        seen = zip(group, scored.reward_B.tolist(), scored.measurable_B.tolist(), strict=True)
        rewards |= {sample.name: reward if measurable else math.nan for (sample, _), reward, measurable in seen}
    return rewards


def rows_by_id(config: ScoreClipsConfig, scenes: set[str]) -> Mapping[str, Any]:
    """The rows of the scenes that clips start from."""
    if not scenes:
        return {}
    table = load_split(config.split, config.dataset, without=HEAVY_COLUMNS)
    wanted = [index for index, name in enumerate(table["id"]) if str(name) in scenes]
    rows = {str(table[index]["id"]): table[index] for index in wanted}
    absent = sorted(scenes - rows.keys())
    if absent:
        raise ValueError(
            f"clips: {config.clips} has a clip of scene {absent[0] or '(none)'}, which split {config.split} "
            "does not hold: name the split and dataset that the clips were sampled from"
        )
    return rows


def main() -> None:
    """The command."""
    config = parse_config(ScoreClipsConfig)
    rewards = score_folder(config)
    known = [reward for reward in rewards.values() if math.isfinite(reward)]
    median = f", median reward {torch.tensor(known).median():.3f}" if known else ""
    print(f"{len(rewards)} clips scored, {len(known)} measurable{median}: {Path(config.clips) / 'rewards.jsonl'}")


if __name__ == "__main__":
    exit_with_one_line(main)

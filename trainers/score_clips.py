"""Score sampled clips of drops by a recipe, for the offline weighted regression.

    python -m trainers.sample --split train --scenes 64 --seeds 0 1 2 3 4 5 6 7 --output_dir outputs/samples
    python -m trainers.score_clips --clips outputs/samples --recipe configs/recipes/gravity_positions.yaml
    python trainers/rwr.py --config configs/rwr_drops.yaml --scored outputs/samples

Camera, distance and the other columns that a reward may ask for come from the scene that each clip starts from. Clips
of text alone, and of one's own prompts and pictures, have none: a recipe that needs them is refused. The scores are
written beside the clips (`trainers.clips.scored` has the format); a run that was stopped goes on. Where a recipe takes
spreads or the price `worst` from its batch, the batch is the clips of one scene, whatever `batch_size` is.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from data.rates import at_rate
from data.rows import HEAVY_COLUMNS, collate, load_split, reward_columns, to_video
from reward_physics.video import Video
from rewards.recipe.file import read_recipe
from rewards.recipe.in_parts import needs_its_batch
from trainers.clips.folder import REWARDS, SCORED_BY, Sample, clip_size, read_clip, read_samples, write_text
from trainers.clips.making import default_device, digest
from trainers.clips.scored import read_rewards, write_rewards
from trainers.learning.of_text import check_without_scene, columns_of_text, without_scene
from trainers.learning.scoring import Scored, Scorer, joined, priced_together, score, some_clips
from trainers.settings.options import Positive, exit_with_one_line, option, parse_config, strict

OWN_COLUMNS = ("id", "caption", "fps_B")
"""What is known of a clip of one's own prompt."""


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
    scored_by = None
    if recipe is None:
        from rewards.recipe.recipe import load_recipe

        recipe, scored_by = load_recipe(config.recipe), recipe_record(config.recipe)
    rewards = {} if config.rescore else read_rewards(config.clips)
    rewards = {name: reward for name, reward in rewards.items() if name in samples}
    if rewards and scored_by is not None:
        check_scored_by(config, scored_by)
    together = hasattr(recipe, "total") and needs_its_batch(cast(Any, recipe))
    group_of = scene_of if together else name_of
    unscored = {group_of(sample) for name, sample in samples.items() if name not in rewards}
    missing = [sample for sample in samples.values() if group_of(sample) in unscored]
    rows = check_clips(config, recipe, missing)
    if scored_by is not None:
        write_text(Path(config.clips) / SCORED_BY, json.dumps(scored_by) + "\n")
    with tqdm(total=len(samples), initial=len(samples) - len(missing), desc="scoring", unit="clip") as bar:
        for scored in scores_of_groups(config, recipe, missing, rows, group_of):
            rewards |= scored
            write_rewards(config.clips, rewards)
            bar.update(len(scored))
    if not missing:
        write_rewards(config.clips, rewards)
    return rewards


def name_of(sample: Sample) -> str:
    """A clip's own group, where its worth hangs on no other's."""
    return sample.name


def scene_of(sample: Sample) -> str:
    """The group of a clip whose price or spread is that of the clips of its scene, or of its prompt."""
    return sample.scene or sample.prompt


def check_clips(config: ScoreClipsConfig, recipe: Scorer, samples: Sequence[Sample]) -> Mapping[str, Any]:
    """The rows of the clips' scenes; ValueError where the recipe needs one that a clip does not have."""
    rows = rows_by_id(config, {sample.scene: sample for sample in samples if of_a_row(sample)})
    if of_text_alone(config.clips) and any(of_a_row(sample) for sample in samples):
        check_without_scene(recipe, f"recipe {config.recipe}")
    if not all(of_a_row(sample) for sample in samples):
        own = "clips of your own prompt"
        check_without_scene(recipe, f"recipe {config.recipe}", clips=own, columns=OWN_COLUMNS)
    return rows


def scores_of_groups(
    config: ScoreClipsConfig,
    recipe: Scorer,
    samples: Sequence[Sample],
    rows: Mapping[str, Any],
    group_of: Callable[[Sample], str],
) -> Iterator[dict[str, float]]:
    """What clips are worth by name, NaN where not measurable; batch by batch, as soon as their groups are whole."""
    left = Counter(group_of(sample) for sample in samples)
    waiting: dict[str, list[tuple[Sample, Scored]]] = defaultdict(list)
    for batch in batches_of(config, samples):
        video, columns = seen(config, batch, rows)
        scored, _ = score(recipe, video.to(default_device()), columns)
        for clip, sample in enumerate(batch):
            waiting[group_of(sample)].append((sample, some_clips(scored, [clip])))
        whole = [group for group, pairs in waiting.items() if len(pairs) == left[group]]
        done: dict[str, float] = {}
        for pairs in map(waiting.pop, whole):
            scored = joined([part for _, part in pairs])
            if group_of is not name_of:
                scored = priced_together(recipe, scored)
            each = zip(pairs, scored.reward_B.tolist(), scored.measurable_B.tolist(), strict=True)
            done |= {sample.name: reward if measurable else math.nan for (sample, _), reward, measurable in each}
        yield done


def of_a_row(sample: Sample) -> bool:
    """Whether a clip was made for a scene of a split, and not of one's own prompt or picture."""
    return bool(sample.scene) and sample.name.startswith(f"{sample.scene}-")


def of_text_alone(clips: str) -> bool:
    """Whether a clip shows a scene of the model's own: no first frame was given."""
    record = Path(clips) / "settings.json"
    settings = json.loads(record.read_text()) if record.exists() else {}
    return not settings.get("image_conditioning", True)


def batches_of(config: ScoreClipsConfig, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Neighbouring clips of one kind and size, at most `batch_size` at a time."""
    for _, group in groupby(samples, key=lambda sample: (of_a_row(sample), clip_size(config.clips, sample.name))):
        same = list(group)
        for start in range(0, len(same), config.batch_size):
            yield same[start : start + config.batch_size]


def seen(config: ScoreClipsConfig, batch: Sequence[Sample], rows: Mapping[str, Any]) -> tuple[Video, dict[str, Any]]:
    """What a recipe is shown of some clips: their frames, and what is known of the scene that they start from."""
    frames_BTCHW = torch.stack([read_clip(config.clips, sample.name) for sample in batch])
    if not of_a_row(batch[0]):
        fps_B = torch.tensor([sample.fps for sample in batch])
        about = {"id": [sample.name for sample in batch], "caption": [sample.prompt for sample in batch]}
        return Video(frames_BTCHW=frames_BTCHW, fps_B=fps_B), about | {"fps_B": fps_B}
    collated = collate([at_rate(rows[sample.scene], sample.fps) for sample in batch])
    video, columns = to_video(collated).with_frames(frames_BTCHW), reward_columns(collated)
    if of_text_alone(config.clips):
        return without_scene(video), columns_of_text(columns)
    return video, columns


def recipe_record(path: str) -> dict[str, str]:
    """What a recipe says, and what its own files of rewards hold, as a digest."""
    recipe = read_recipe(path)
    content = hashlib.sha256(recipe.model_dump_json().encode())
    for reward in [*recipe.rewards, *recipe.gates, *recipe.held_out]:
        where = reward.name.rpartition(":")[0]
        for folder in (Path(path).resolve().parent, Path()) if where.endswith(".py") else ():
            if (folder / where).is_file():
                content.update((folder / where).read_bytes())
                break
    return {"recipe": Path(path).name, "digest": content.hexdigest()[:16]}


def check_scored_by(config: ScoreClipsConfig, now: Mapping[str, str]) -> None:
    """Raise ValueError where another recipe gave the scores that are there; those without a record stay."""
    record = Path(config.clips) / SCORED_BY
    before = json.loads(record.read_text()) if record.exists() else now
    if before["digest"] != now["digest"]:
        raise ValueError(
            f"clips: {Path(config.clips) / REWARDS} holds scores by another recipe ({before['recipe']}, as it was "
            f"then), not by {config.recipe}: set rescore to score all clips again"
        )


def rows_by_id(config: ScoreClipsConfig, scenes: Mapping[str, Sample]) -> Mapping[str, Any]:
    """The rows of the scenes that clips start from.

    Args:
        scenes: a clip of each scene, by its id.

    Raises:
        ValueError: a scene that the split does not hold, or another one of the same id.
    """
    if not scenes:
        return {}
    table = load_split(config.split, config.dataset, without=HEAVY_COLUMNS)
    wanted = [index for index, name in enumerate(table["id"]) if str(name) in scenes]
    rows = {str(table[index]["id"]): table[index] for index in wanted}
    absent = sorted(scenes.keys() - rows.keys())
    if absent:
        raise ValueError(
            f"clips: {config.clips} has a clip of scene {absent[0]}, which split {config.split} does not hold: name "
            "the split and dataset that the clips were sampled from"
        )
    for name, row in rows.items():
        sample = scenes[name]
        source = digest(np.asarray(at_rate(row, sample.fps)["frames"], dtype=np.uint8))
        if sample.prompt != str(row["caption"]) or (sample.source and sample.source != source):
            raise ValueError(
                f"clips: {config.clips} has a clip of another scene {name} than split {config.split} holds (another "
                "first frame or prompt): name the split and dataset that the clips were sampled from"
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

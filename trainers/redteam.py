"""Attacks on recipes: does a true clip, made wrong, ever score better than it was?

    python -m trainers.redteam --recipe configs/recipes/gravity_guarded.yaml --output_dir outputs/redteam

Each pair is a true clip and the same clip attacked, judged in one batch, so that an unmeasurable clip is priced beside
the true ones. A pair is ranked rightly where the attacked clip scores less. What is measured is kept in `redteam.json`
and gone on with when the command is given again.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from reward_physics.attacks import ATTACKS, adversarial_noise, apply, cut_out
from reward_physics.video import Video
from trainers.clips import write_text
from trainers.config import Positive, exit_with_one_line, option, parse_config, strict, suggestion
from trainers.models import load_video_model, round_trip

NOISE = "adversarial_noise"
NOISE_BOUNDS = (2 / 255, 4 / 255, 8 / 255)
LEVELS = ("weak", "middle", "strong")


@strict
class RedTeamConfig:
    """Attack recipes with true clips made wrong."""

    recipe: list[str] = option(["configs/recipes/gravity_guarded.yaml"], "recipes under attack")
    attack: list[str] = option(["all"], "attacks, or all")
    split: str = option("validation", "split of the clips; choose nothing by looking at heldout")
    dataset: str | None = option(None, "folder of splits; by default the shipped clips")
    clips: Positive | None = option(None, "clips of the split, from its beginning; by default all")
    through_autoencoder: bool = option(False, "send the true clips through the video model's autoencoder first")
    model: str = option("data/drops/model", "diffusers pipeline whose autoencoder is meant")
    noise_clips: Positive = option(4, "clips that are attacked by adversarial noise, which costs a gradient a step")
    noise_steps: Positive = option(8, "gradient steps of the adversarial noise")
    judge: str = option("configs/recipes/judge_scene.yaml", "held-out recipe that judges the adversarial noise")
    batch_size: Positive = option(8, "clips measured at a time")
    output_dir: str = option("outputs/redteam", "folder of redteam.json and redteam.md")


def red_team(config: RedTeamConfig) -> list[dict[str, Any]]:
    """Every pair: recipe, attack, strength, clip, the true and the attacked clip's score. Resumes where it stopped."""
    from rewards.recipe import load_recipe

    names = [*ATTACKS, NOISE] if config.attack == ["all"] else config.attack
    for name in names:
        if name not in [*ATTACKS, NOISE]:
            raise ValueError(f"unknown attack {name}{suggestion(name, [*ATTACKS, NOISE])}")
    recipes = {Path(path).stem: load_recipe(path) for path in config.recipe}
    judge = load_recipe(config.judge) if NOISE in names else None
    store = Path(config.output_dir, "redteam.json")
    settings = {"split": config.split, "through_autoencoder": config.through_autoencoder}
    pairs, done = _resumed(store, settings)
    for batch, video in _batches(config):
        cut = cut_out(video.frames_BTCHW, (batch["mask_BTHW"] == 1).float())
        for stem, recipe in recipes.items():
            for name in names:
                key = f"{stem}/{name}/{batch['id'][0]}/{len(batch['id'])}"
                first_clip = batch["number"][0]
                if key in done or (name == NOISE and first_clip >= config.noise_clips):
                    continue
                if name == NOISE:
                    count = min(len(batch["id"]), config.noise_clips - first_clip)
                    found = _noise(config, recipe, judge, batch, video, count)
                else:
                    found = _attacked(recipe, name, batch, video, cut)
                pairs += [{"recipe": stem, "attack": name, **pair} for pair in found]
                done.append(key)
                write_text(store, json.dumps({"settings": settings, "done": done, "pairs": pairs}) + "\n")
    return pairs


def _resumed(store: Path, settings: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    if not store.is_file():
        return [], []
    record = json.loads(store.read_text())
    if record["settings"] != settings:
        raise ValueError(f"{store} was made with {record['settings']}, not {settings}: choose another output_dir")
    return record["pairs"], record["done"]


def _attacked(recipe: Any, name: str, batch: dict[str, Any], video: Video, cut: Any) -> list[dict[str, Any]]:
    """The pairs of one attack at its three strengths; clips that it leaves as they are make none."""
    pairs = []
    for level, strength in enumerate(LEVELS):
        generator = torch.Generator().manual_seed(level)
        frames = apply(name, cut, level, generator)
        changed = (frames - video.frames_BTCHW).abs().amax((1, 2, 3, 4)) > 2 / 255
        first = _first_masks(name, batch, level, video)
        true_B, wrong_B = _judged_together(recipe, video, frames, first, batch)
        for clip in changed.nonzero()[:, 0].tolist():
            scores = {"true": float(true_B[clip]), "attacked": float(wrong_B[clip])}
            pairs.append({"strength": strength, "clip": batch["id"][clip], "kind": batch["kind"][clip], **scores})
    return pairs


def _first_masks(name: str, batch: dict[str, Any], level: int, video: Video) -> Tensor | None:
    """Where the object is in the first frame, also when that is another frame than it was."""
    if name != "reverse_time":
        return video.first_mask_BHW
    last = video.num_frames - 1
    return (batch["mask_BTHW"][:, round(ATTACKS[name].strengths[level] * last)] == 1).float()


def _judged_together(recipe: Any, video: Video, frames: Tensor, first_BHW: Tensor | None, batch: Any):
    """Scores (B,) of the true and of the attacked clips."""
    count = video.batch_size
    twice = video[[*range(count), *range(count)]]
    masks = None if video.first_mask_BHW is None or first_BHW is None else torch.cat((video.first_mask_BHW, first_BHW))
    both = dataclasses.replace(twice, frames_BTCHW=torch.cat((video.frames_BTCHW, frames)), first_mask_BHW=masks)
    # A reward must not know which half of the batch was attacked: both have the true clip as their reference.
    columns = {"reference_BTCHW": torch.cat((video.frames_BTCHW, video.frames_BTCHW)), "caption": batch["caption"] * 2}
    return recipe.judge(both, columns).total_B.split(count)


def _noise(
    config: RedTeamConfig, recipe: Any, judge: Any, batch: Any, video: Video, count: int
) -> list[dict[str, Any]]:
    """Slow falls whose pixels are changed to please the recipe: what that gains beside a truly mended fall."""
    clips = list(range(count))
    true = video[clips]
    cut = cut_out(true.frames_BTCHW, (batch["mask_BTHW"][clips] == 1).float())
    slow = apply("slow_motion", cut, 1, torch.Generator())
    columns = {"reference_BTCHW": true.frames_BTCHW, "caption": [batch["caption"][clip] for clip in clips]}

    def reward(frames: Tensor) -> Tensor:
        return recipe.judge(true.with_frames(frames), columns, grad=True).total_B

    def scores(one: Any, frames: Tensor) -> Tensor:
        return one.judge(true.with_frames(frames), columns).total_B

    start, best = scores(recipe, slow), scores(recipe, true.frames_BTCHW)
    judged, judged_best = scores(judge, slow), scores(judge, true.frames_BTCHW)
    pairs = []
    for strength, bound in zip(LEVELS, NOISE_BOUNDS, strict=True):
        frames = adversarial_noise(slow, reward, bound=bound, steps=config.noise_steps)
        gained, by_judge = scores(recipe, frames) - start, scores(judge, frames) - judged
        for clip in clips:
            pair = {"true": float(start[clip]), "attacked": float(start[clip] + gained[clip])}
            pair |= {"mended": float(best[clip]), "judge_gain": float(by_judge[clip])}
            pair |= {"judge_mended_gain": float(judged_best[clip] - judged[clip])}
            pairs.append({"strength": strength, "clip": batch["id"][clip], "kind": batch["kind"][clip], **pair})
    return pairs


def _batches(config: RedTeamConfig):
    """Collated rows with their numbers, and their clips."""
    from data.rows import LIGHT_COLUMNS, collate, load_split, to_video

    model = load_video_model(config.model) if config.through_autoencoder else None
    table = load_split(config.split, config.dataset, columns=LIGHT_COLUMNS).with_format("numpy")
    count = min(len(table), config.clips or len(table))
    for start in tqdm(range(0, count, config.batch_size), desc="red team", unit="batch"):
        numbers = list(range(start, min(start + config.batch_size, count)))
        batch = collate([table[index] for index in numbers])
        video = to_video(batch)
        if model is not None:
            video = video.with_frames(round_trip(model, video.frames_BTCHW, batch["caption"], video.fps_B))
        yield {**batch, "number": numbers}, video


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    if count == 0:
        return math.nan, math.nan
    z2, share = 1.96**2, right / count
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count) / (1 + z2 / count)
    return middle - half, middle + half


def figures(pairs: list[dict[str, Any]], recipe: str, attack: str, strength: str) -> dict[str, Any]:
    """Pairs, share ranked rightly, and the mean gain by the attack."""
    some = [p for p in pairs if (p["recipe"], p["attack"], p["strength"]) == (recipe, attack, strength)]
    right = sum(pair["attacked"] < pair["true"] for pair in some)
    gain = sum(pair["attacked"] - pair["true"] for pair in some) / max(len(some), 1)
    return {"pairs": len(some), "right": right, "gain": gain, "rows": some}


def table(pairs: list[dict[str, Any]]) -> str:
    """The figures as Markdown, a table a recipe."""
    lines = []
    for recipe in dict.fromkeys(pair["recipe"] for pair in pairs):
        lines += [f"## {recipe}", "", "| attack | verdict | " + " | ".join(LEVELS) + " | mean gain, strong |"]
        lines.append("|---|---|---|---|---|---|")
        won = total = 0
        for name in [name for name in ATTACKS if any(p["attack"] == name for p in pairs)]:
            cells = [figures(pairs, recipe, name, level) for level in LEVELS]
            if ATTACKS[name].recipe == "lose":
                won += sum(cell["right"] for cell in cells[1:])
                total += sum(cell["pairs"] for cell in cells[1:])
            shown = " | ".join(f"{cell['right']}/{cell['pairs']}" for cell in cells)
            lines.append(f"| {name} | must {ATTACKS[name].recipe} | {shown} | {cells[2]['gain']:+.3f} |")
        low, high = wilson(won, total)
        lines += ["", f"Must lose, two stronger strengths: {won} of {total} ranked rightly ({low:.1%} to {high:.1%})."]
        lines += [*_noise_lines(pairs, recipe), ""]
    return "\n".join(lines)


def _noise_lines(pairs: list[dict[str, Any]], recipe: str) -> list[str]:
    lines = []
    for strength, bound in zip(LEVELS, NOISE_BOUNDS, strict=True):
        rows = figures(pairs, recipe, NOISE, strength)["rows"]
        if rows:
            mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("judge_gain", "judge_mended_gain")}
            gain = sum(row["attacked"] - row["true"] for row in rows) / len(rows)
            mended = sum(row["mended"] - row["true"] for row in rows) / len(rows)
            lines.append(
                f"Noise of {bound * 255:.0f}/255 on {len(rows)} slow falls gains {gain:+.3f} (a mended fall "
                f"{mended:+.3f}); by the judge {mean['judge_gain']:+.3f} (mended {mean['judge_mended_gain']:+.3f})."
            )
    return ["", *lines] if lines else []


def main() -> None:
    config = parse_config(RedTeamConfig)
    text = table(red_team(config))
    write_text(Path(config.output_dir, "redteam.md"), text)
    print(text)


if __name__ == "__main__":
    exit_with_one_line(main)

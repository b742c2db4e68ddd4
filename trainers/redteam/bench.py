"""True clips and recipes in one or more processes: what every reward says of every attacked clip."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers.models import VideoModel, load_video_model, round_trip
from trainers.redteam.attacks import ATTACKS, LEVELS, apply
from trainers.redteam.scenes import ALL_KINDS, TrueClip, true_clips
from trainers.redteam.verdicts import names_of, scenes
from trainers.settings.options import Positive, option, strict, suggestion

RECIPES = "configs/recipes"
NOT_TRAINED_ON = ("judge", "judge_scene", "real_clips")
"""Recipes that only report; nobody optimises against them."""
AT_A_TIME = 8
"""Versions of a clip that are measured in one batch: more are slower on a processor with small caches."""


@strict
class RedTeamConfig:
    """Attack recipes with true clips made wrong."""

    recipe: list[str] = option(["all"], "recipes under attack, or all that ship and are trained on")
    attack: list[str] = option(["all"], "attacks, or all, or none: adversarial noise alone")
    world: str = option("drops", "world of the clips: drops, or package.module:Class")
    split: str = option("validation", "split of the clips; choose nothing by looking at heldout")
    dataset: str | None = option(None, "folder of splits; by default the shipped clips")
    scenes: Positive = option(12, "scenes of each kind, from the split's beginning")
    of_kind: list[str] = option([], "KIND=NUMBER: another number of clips of that kind, such as drop=6 collide=32")
    through_autoencoder: bool = option(True, "attack the clips' round trips through the autoencoder as well")
    model_name_or_path: str = option("data/drops/model", "diffusers pipeline whose autoencoder is meant")
    noise_clips: int = option(0, "clips that are attacked by adversarial noise, which costs a gradient a step")
    noise_steps: Positive = option(8, "gradient steps of the adversarial noise")
    judge: str = option("configs/recipes/judge_scene.yaml", "held-out recipe that judges the adversarial noise")
    processes: Positive = option(1, "clips attacked at once, each by a process of one thread")
    output_dir: str = option("outputs/redteam", "folder of measured.jsonl and redteam.md")


class Shared:
    """An estimator whose answers on the last clips are kept: several sets of instruments look at them with it.

    Args:
        estimator: flow or depth.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator, self.frames, self.answers = estimator, torch.empty(0), {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.estimator, name)

    def __call__(self, frames_BTCHW: Tensor, *rest: Any, **settings: Any) -> Any:
        if frames_BTCHW.data_ptr() != self.frames.data_ptr():
            # The frames are kept too, so that their address stays theirs.
            self.frames, self.answers = frames_BTCHW, {}
        key = (frames_BTCHW.shape, frames_BTCHW.stride(), tuple(settings.items()))
        if key not in self.answers:
            self.answers[key] = self.estimator(frames_BTCHW, *rest, **settings)
        return self.answers[key]


def load_recipes(paths: Iterable[str]) -> dict[str, Any]:
    """Recipes by the names of their files, with one estimator where several name the same."""
    from rewards.recipe.recipe import load_recipe

    paths = list(paths)
    if paths == ["all"]:
        files = sorted(Path(RECIPES).glob("*.yaml"))
        paths = [str(path) for path in files if path.stem not in NOT_TRAINED_ON]
    recipes: dict[str, Any] = {}
    kept: dict[Any, Shared] = {}
    for path in paths:
        recipe = load_recipe(path)
        instruments, estimators = recipe.config.instruments, {}
        for name, key in (
            ("flow", (instruments.flow, instruments.flow_updates, instruments.autocast)),
            ("depth", (instruments.depth, instruments.autocast)),
        ):
            estimator = getattr(recipe.instruments, name)
            if estimator is not None:
                estimators[name] = kept.setdefault((name, *key), Shared(estimator))
        recipe.instruments = dataclasses.replace(recipe.instruments, **estimators)
        recipes[Path(path).stem] = recipe
    return recipes


class Bench:
    """True clips and recipes, in one process.

    Args:
        config: which clips.
        recipes: by the names of their files; loaded anew where None.
    """

    def __init__(self, config: RedTeamConfig, recipes: dict[str, Any] | None = None) -> None:
        self.config = config
        self.recipes = load_recipes(config.recipe) if recipes is None else recipes
        self.kinds_of = {stem: scenes(names_of(recipe)) for stem, recipe in self.recipes.items()}
        self.clips = list(true_clips(config.split, config.dataset, self._wanted(), world=config.world))

    def _wanted(self) -> dict[str, int]:
        """How many clips of each kind that a recipe speaks of."""
        kinds = dict.fromkeys(kind for group in self.kinds_of.values() for kind in group)
        wanted = dict.fromkeys(kinds, self.config.scenes)
        for text in self.config.of_kind:
            kind, _, number = text.partition("=")
            if not number.isdigit():
                raise ValueError(f"of_kind must be KIND=NUMBER, got {text!r}")
            if kind in wanted:
                wanted[kind] = int(number)
            elif kind not in ALL_KINDS:
                raise ValueError(f"of_kind: unknown kind {kind}{suggestion(kind, ALL_KINDS)}")
        return wanted

    @functools.cached_property
    def model(self) -> Any:
        return load_video_model(self.config.model_name_or_path)

    def attack(self, task: tuple[int, bool, list[str]]) -> list[dict[str, Any]]:
        """The records of a clip's number, whether it goes through the autoencoder, and recipes."""
        number, through, stems = task
        clip, recipes = self.clips[number], {stem: self.recipes[stem] for stem in stems}
        results = values_of_versions(
            _sent(clip, self.model) if through else clip, recipes, attack_names(self.config.attack)
        )
        common = {"clip": clip.name, "kind": clip.kind, "through": through}
        return [{"recipe": stem} | common | values for stem, values in results.items()]

    def noise(self, task: tuple[str, int]) -> list[dict[str, Any]]:
        """The records of adversarial noise on a recipe and a clip's number among the drops."""
        from rewards.recipe.recipe import load_recipe
        from trainers.redteam.noise import attacked

        stem, number = task
        drops = {"drop": self.config.noise_clips}
        clip = list(true_clips(self.config.split, self.config.dataset, drops, world=self.config.world))[number]
        records = attacked(clip, self.recipes[stem], load_recipe(self.config.judge), self.config.noise_steps)
        return [{"recipe": stem, "clip": clip.name} | record for record in records]


_bench: Bench | None = None


def in_processes(bench: Bench, method: str, tasks: list[Any]) -> Iterator[list[dict[str, Any]]]:
    """What a method of the bench says of every task, in their order, from as many processes as the config says."""
    if bench.config.processes == 1 or len(tasks) < 2:
        yield from map(getattr(bench, method), tasks)
        return
    count = min(bench.config.processes, len(tasks))
    with torch.multiprocessing.get_context("spawn").Pool(count, _open_bench, (bench.config,)) as pool:
        yield from pool.imap(functools.partial(_on_bench, method), tasks)
        pool.close()
        pool.join()


def _open_bench(config: RedTeamConfig) -> None:
    global _bench
    torch.set_num_threads(1)
    _bench = Bench(config)


def _on_bench(method: str, task: Any) -> list[dict[str, Any]]:
    return getattr(_bench, method)(task)


def attack_names(wanted: list[str]) -> list[str]:
    """The attacks that need no gradient, checked."""
    for name in wanted:
        if name not in [*ATTACKS, "all", "none"]:
            raise ValueError(f"unknown attack {name}{suggestion(name, [*ATTACKS, 'all'])}")
    return list(ATTACKS) if "all" in wanted else [name for name in wanted if name != "none"]


def values_of_versions(clip: TrueClip, recipes: dict[str, Any], names: list[str]) -> dict[str, dict[str, Any]]:
    """The clip, then each attack at its three strengths: by recipe, the values of its rewards and gates."""
    cut, variants, keys = clip.cut, [clip.video.frames_BTCHW], [("true", "")]
    masks = [clip.masks_BTHW[:, 0]]
    for name in names:
        for level, strength in enumerate(LEVELS):
            variants.append(apply(name, cut, level, torch.Generator().manual_seed(level)))
            keys.append((name, strength))
            start = round(ATTACKS[name].strengths[level] * (clip.video.num_frames - 1)) if name == "reverse_time" else 0
            masks.append(clip.masks_BTHW[:, start])
    frames, first = torch.cat(variants), torch.cat(masks)
    changed = ((frames - frames[:1]).abs().amax((1, 2, 3, 4)) > 2 / 255).tolist()
    results: dict[str, dict[str, Any]] = {
        stem: {"variants": keys, "changed": changed, "values": {}, "visibility": []} for stem in recipes
    }
    for start in range(0, len(frames), AT_A_TIME):
        batch = slice(start, start + AT_A_TIME)
        for stem, (values, visible_B) in _judged(clip, frames[batch], first[batch], recipes).items():
            results[stem]["visibility"] += _listed(visible_B)
            for name, value_B in values.items():
                results[stem]["values"].setdefault(name, []).extend(_listed(value_B))
    return results


def _judged(
    clip: TrueClip, frames: Tensor, first_BHW: Tensor, recipes: dict[str, Any]
) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """By recipe, what its rewards and gates say of versions of one clip, and how much of the object is seen."""
    count = len(frames)
    video = clip.video[[0] * count]
    objects = video.object_masks_BNHW
    if objects is not None:
        objects = torch.stack([(first_BHW == n + 1).float() for n in range(objects.shape[1])], dim=1)
    video = dataclasses.replace(
        video, frames_BTCHW=frames, first_mask_BHW=(first_BHW == 1).float(), object_masks_BNHW=objects
    )
    reference = clip.reference_BTCHW.expand(count, -1, -1, -1, -1)
    columns = {"reference_BTCHW": reference, "caption": [clip.caption] * count}
    results = {}
    for stems in _alike(recipes):
        observation, scores = recipes[stems[0]].observe(video, False), {}
        for stem in stems:
            results[stem] = _values(recipes[stem], observation, columns, scores), observation.visibility_B
    return results


def _values(recipe: Any, observation: Any, columns: dict[str, Any], scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """A recipe's rewards and gates, each asked once of an observation, whatever recipes name it."""
    values = {}
    for prefix, terms in (("", recipe.terms), ("gates/", recipe.gates)):
        for term in terms:
            key = f"{term.name} {json.dumps(dict(term.parameters), sort_keys=True)}"
            if key not in scores:
                scores[key] = term(observation, columns)
            values[prefix + term.name] = scores[key]
    return values


def _alike(recipes: dict[str, Any]) -> list[list[str]]:
    """The recipes in groups with the same instruments."""
    groups: dict[str, list[str]] = {}
    for stem, recipe in recipes.items():
        groups.setdefault(recipe.config.instruments.model_dump_json(), []).append(stem)
    return list(groups.values())


def _listed(value_B: Tensor) -> list[float | None]:
    return [None if value != value else round(value, 6) for value in value_B.tolist()]


def _sent(clip: TrueClip, model: VideoModel) -> TrueClip:
    """The clip's round trip through the autoencoder."""
    frames = round_trip(model, clip.video.frames_BTCHW, [clip.caption], clip.video.fps_B)
    return dataclasses.replace(clip, video=clip.video.with_frames(frames))


def fingerprint(recipe: Any, names: list[str]) -> str:
    """What a measurement is good for: the recipe and the attacks with their strengths."""
    text = recipe.config.model_dump_json() + json.dumps({name: ATTACKS[name].strengths for name in names})
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""The records of the red team: made where they are missing, kept in files, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainers.clips.folder import write_text
from trainers.redteam.bench import Bench, RedTeamConfig, attack_names, fingerprint, in_processes
from trainers.redteam.scenes import true_clips
from trainers.redteam.verdicts import recipe_verdict, scenes


def red_team(config: RedTeamConfig, recipes: dict[str, Any]) -> list[dict[str, Any]]:
    """What every reward says of every attacked clip, one record per clip and recipe. Resumes where it stopped."""
    names = attack_names(config.attack)
    store = Path(config.output_dir, "measured.jsonl")
    prints = {stem: fingerprint(recipe, names) for stem, recipe in recipes.items()}
    settings = {"split": config.split, "dataset": config.dataset}
    if config.world != "drops":  # folders of before worlds were named say nothing of theirs
        settings["world"] = config.world
    records = _resumed(store, settings, prints)
    finished = {(record["recipe"], record["clip"], record["through"]) for record in records}
    bench = Bench(config, recipes)
    tasks = []
    for number, clip in enumerate(bench.clips):
        for through in (False, True) if config.through_autoencoder else (False,):
            speak = [stem for stem in recipes if clip.kind in bench.kinds_of[stem]]
            todo = [stem for stem in speak if (stem, clip.name, through) not in finished]
            if todo:
                tasks.append((number, through, todo))
    for batch in tqdm(in_processes(bench, "attack", tasks), total=len(tasks), desc="red team", unit="clip"):
        records += [record | {"print": prints[record["recipe"]]} for record in batch]
        with store.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records[len(records) - len(batch) :])
    return records


def _resumed(store: Path, settings: dict[str, Any], prints: dict[str, str]) -> list[dict[str, Any]]:
    """The records of these recipes as they stand; all other records are dropped. A folder never mixes two splits."""
    note = store.with_name("settings.json")
    if note.is_file() and json.loads(note.read_text()) != settings:
        raise ValueError(f"{store.parent} was made with {note.read_text().strip()}: choose another output_dir")
    write_text(note, json.dumps(settings) + "\n")
    if not store.is_file():
        return []
    records = [record for record in read_records(store) if prints.get(record["recipe"]) == record["print"]]
    write_text(store, "".join(json.dumps(record) + "\n" for record in records))
    return records


def noise(config: RedTeamConfig, recipes: dict[str, Any]) -> list[dict[str, Any]]:
    """One record per recipe and bound: what the noise gains beside a truly mended fall, by the recipe and by the judge.
    Resumes where it stopped.

    Recipes whose rewards have no verdict on falls, or cannot tell a slow fall from a true one, are left out.
    """
    bench, tasks, path = Bench(config, recipes), [], Path(config.output_dir, "noise.json")
    prints = {stem: f"{fingerprint(recipe, [])}-{config.noise_steps}" for stem, recipe in recipes.items()}
    records: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    records = [record for record in records if prints.get(record["recipe"]) == record["print"]]
    finished = {(record["recipe"], record["clip"]) for record in records}
    drops = {"drop": config.noise_clips}
    clips = [clip.name for clip in true_clips(config.split, config.dataset, drops, world=config.world)]
    for stem, recipe in recipes.items():
        names = [reward.name.rpartition(":")[2] for reward in recipe.config.rewards]
        if "drop" in scenes(names) and recipe_verdict(names, "slow_motion") == "lose":
            tasks += [(stem, number) for number, clip in enumerate(clips) if (stem, clip) not in finished]
    for batch in tqdm(in_processes(bench, "noise", tasks), total=len(tasks), desc="noise", unit="clip"):
        records += [record | {"print": prints[record["recipe"]]} for record in batch]
        write_text(path, json.dumps(records) + "\n")
    return records


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of one measured.jsonl, whose last line is cut short where the command was stopped."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def gathered(folder: str | Path, prints: dict[str, str]) -> list[dict[str, Any]]:
    """The records of all parts below a folder whose recipes are as they were, each clip once.

    Args:
        prints: `fingerprint` of the recipes by name.
    """
    records: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for path in sorted(Path(folder).rglob("measured.jsonl")):
        for record in read_records(path):
            if prints.get(record["recipe"]) == record["print"]:
                records[record["recipe"], record["clip"], record["through"]] = record
    return list(records.values())

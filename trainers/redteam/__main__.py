"""TODO"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainers.clips.folder import write_text
from trainers.redteam.bench import Bench, RedTeamConfig, attack_names, fingerprint, in_processes, load_recipes
from trainers.redteam.scenes import true_clips
from trainers.redteam.table import read_records, render
from trainers.settings.options import exit_with_one_line, parse_config


def red_team(config: RedTeamConfig, recipes: dict[str, Any]) -> list[dict[str, Any]]:
    """What every reward says of every attacked clip, a record a clip and recipe. Resumes where it stopped."""
    names = attack_names(config.attack)
    store = Path(config.output_dir, "measured.jsonl")
    prints = {stem: fingerprint(recipe, names) for stem, recipe in recipes.items()}
    records = _resumed(store, {"split": config.split, "dataset": config.dataset}, prints)
    done = {(record["recipe"], record["clip"], record["through"]) for record in records}
    bench = Bench(config, recipes)
    tasks = []
    for number, clip in enumerate(bench.clips):
        for through in (False, True) if config.through_autoencoder else (False,):
            speak = [stem for stem in recipes if clip.kind in bench.kinds_of[stem]]
            todo = [stem for stem in speak if (stem, clip.name, through) not in done]
            if todo:
                tasks.append((number, through, todo))
    for found in tqdm(in_processes(bench, "attack", tasks), total=len(tasks), desc="red team", unit="clip"):
        records += [record | {"print": prints[record["recipe"]]} for record in found]
        with store.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records[len(records) - len(found) :])
    return records


def _resumed(store: Path, settings: dict[str, Any], prints: dict[str, str]) -> list[dict[str, Any]]:
    """The records of these recipes as they stand; others are dropped. A folder never mixes two splits."""
    note = store.with_name("settings.json")
    if note.is_file() and json.loads(note.read_text()) != settings:
        raise ValueError(f"{store.parent} was made with {note.read_text().strip()}: choose another output_dir")
    write_text(note, json.dumps(settings) + "\n")
    if not store.is_file():
        return []
    records = [record for record in read_records(store) if prints.get(record["recipe"]) == record["print"]]
    write_text(store, "".join(json.dumps(record) + "\n" for record in records))
    return records


def main() -> None:
    from trainers.redteam.noise import render_noise

    config = parse_config(RedTeamConfig)
    recipes = load_recipes(config.recipe)
    parts = [render(red_team(config, recipes), recipes)] if attack_names(config.attack) else []
    if config.noise_clips > 0:
        parts.append(render_noise(noise(config, recipes)))
    text = "\n".join(parts)
    write_text(Path(config.output_dir, "redteam.md"), text)
    print(text)


if __name__ == "__main__":
    exit_with_one_line(main)


def noise(config: RedTeamConfig, recipes: dict[str, Any]) -> list[dict[str, Any]]:
    """A record a recipe and bound: what the noise gains beside a truly mended fall, by the recipe and by the judge.
    Resumes where it stopped.

    Recipes whose rewards have no verdict on falls, or cannot tell a slow fall from a true one, are left out.
    """
    from trainers.redteam.bench import Bench, fingerprint, in_processes
    from trainers.redteam.verdicts import recipe_verdict, scenes

    bench, tasks, path = Bench(config, recipes), [], Path(config.output_dir, "noise.json")
    prints = {stem: f"{fingerprint(one, [])}-{config.noise_steps}" for stem, one in recipes.items()}
    records: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    records = [record for record in records if prints.get(record["recipe"]) == record["print"]]
    done = {(record["recipe"], record["clip"]) for record in records}
    clips = [clip.name for clip in true_clips(config.split, config.dataset, {"drop": config.noise_clips})]
    for stem, recipe in recipes.items():
        names = [one.name.rpartition(":")[2] for one in recipe.config.rewards]
        if "drop" in scenes(names) and recipe_verdict(names, "slow_motion") == "lose":
            tasks += [(stem, number) for number, clip in enumerate(clips) if (stem, clip) not in done]
    for found in tqdm(in_processes(bench, "noise", tasks), total=len(tasks), desc="noise", unit="clip"):
        records += [record | {"print": prints[record["recipe"]]} for record in found]
        write_text(path, json.dumps(records) + "\n")
    return records

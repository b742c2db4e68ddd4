"""One table of all parts of a red team below a folder, of the shipped recipes as they stand.

python -m trainers.redteam_table outputs/redteam > outputs/redteam/redteam.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trainers.redteam.attacks import ATTACKS
from trainers.redteam.bench import fingerprint, load_recipes
from trainers.redteam.noise import render_noise
from trainers.redteam.records import gathered
from trainers.redteam.table import render
from trainers.settings.options import exit_with_one_line


def main() -> None:
    """The command."""
    parse = argparse.ArgumentParser(prog="python -m trainers.redteam_table", description="One table of all parts.")
    parse.add_argument("folder", type=Path, help="parts of trainers.redteam, each a folder with measured.jsonl")
    folder = parse.parse_args().folder
    if next(folder.rglob("measured.jsonl"), None) is None:
        raise ValueError(f"{folder} holds no measured.jsonl: give the folder of parts that trainers.redteam has made")
    recipes = load_recipes(["all"])
    prints = {stem: fingerprint(recipe, list(ATTACKS)) for stem, recipe in recipes.items()}
    print(render(gathered(folder, prints), recipes))
    whole = {stem: fingerprint(recipe, []) for stem, recipe in recipes.items()}
    noise = [record for path in sorted(folder.rglob("noise.json")) for record in json.loads(path.read_text())]
    noise = [record for record in noise if record["print"].startswith(f"{whole.get(record['recipe'])}-")]
    if noise:
        print(render_noise(noise))


if __name__ == "__main__":
    exit_with_one_line(main)

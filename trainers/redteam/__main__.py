"""Attacks on recipes: does a true clip, made wrong, ever score better than it was?

    python -m trainers.redteam --output_dir outputs/redteam
    python -m data.write --split heldout --g_m_s2 9.81 --clips 128 --light
    python -m trainers.redteam --dataset data/rendered --split heldout-g9.81 --output_dir outputs/redteam --processes 4

The shipped clips fall with many g, so that recipes which say 9.81 need the same scenes simulated at it.

Each clip is attacked once and looked at once by each set of instruments, for all recipes that share them, as it is and
sent through the video model's autoencoder. What every reward said of every attacked clip is kept in `measured.jsonl`,
a line a clip and recipe, and gone on with when the command is given again. Totals and pairs are made of that: a pair is
a true clip and the same clip attacked, judged in one batch of all true clips and their attacked ones, so that an
unmeasurable clip is priced beside the true ones; it is ranked rightly where the attacked clip scores less.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
from pathlib import Path

from trainers.clips.folder import write_text
from trainers.redteam.bench import RedTeamConfig, attack_names, load_recipes
from trainers.redteam.noise import render_noise
from trainers.redteam.records import noise, red_team
from trainers.redteam.table import render
from trainers.settings.options import exit_with_one_line, parse_config


def main() -> None:
    """The command."""
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

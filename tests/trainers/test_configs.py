"""Every shipped run is a config that parses, and names files that exist."""

from pathlib import Path

import pytest

from trainers.config import OROConfig, parse_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/oro_*.yaml")), ids=lambda path: path.stem)
def test_the_config_parses_and_its_recipes_exist(path):
    config = parse_config(OROConfig, ["--config", str(path)])
    assert (ROOT / config.recipe).is_file()
    assert config.eval_recipe is None or (ROOT / config.eval_recipe).is_file()
    assert config.eval_recipe != config.recipe
    assert config.split != config.eval_split

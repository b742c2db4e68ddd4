"""Every shipped run is a config that parses, and names files that exist."""

from pathlib import Path

import pytest

from trainers.settings.options import parse_config
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = {"oro": OROConfig, "rwr": RWRConfig, "psft": PSFTConfig}


@pytest.mark.parametrize(
    "path", sorted(path for name in CONFIGS for path in ROOT.glob(f"configs/{name}_*.yaml")), ids=lambda path: path.stem
)
def test_the_config_parses_and_its_recipes_exist(path):
    config = parse_config(CONFIGS[path.stem.split("_")[0]], ["--config", str(path)])
    assert (ROOT / config.recipe).is_file()
    assert config.eval_recipe is None or (ROOT / config.eval_recipe).is_file()
    assert config.eval_recipe != config.recipe
    assert config.split != config.eval_split

"""One spelling for one thing in every command; a former spelling is refused, and the present one named."""

import dataclasses

import pytest

from trainers.check_gravity import CheckConfig
from trainers.commitment import CommitmentConfig
from trainers.demo import DemoConfig
from trainers.drops_bench.bench import DropsBenchConfig
from trainers.evaluation.measured import EvaluationConfig
from trainers.merge import MergeConfig
from trainers.pisa_evaluation import PisaConfig
from trainers.pretrain.check_estimators import parse
from trainers.pretrain.common import pretraining_parser
from trainers.redteam.bench import RedTeamConfig
from trainers.sample import SampleConfig
from trainers.score_clips import ScoreClipsConfig
from trainers.settings.options import FORMER_NAMES, parse_config
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig

COMMANDS = (
    *(CheckConfig, CommitmentConfig, DemoConfig, DropsBenchConfig, EvaluationConfig, MergeConfig, PisaConfig),
    *(RedTeamConfig, SampleConfig, ScoreClipsConfig, OROConfig, RWRConfig, PSFTConfig),
)
OTHER_MEANINGS = {(DropsBenchConfig, "clips"), (ScoreClipsConfig, "clips")}
"""How many clips are written to learn from; the folder of clips."""


@pytest.mark.parametrize("config", COMMANDS)
def test_no_command_has_a_former_spelling(config):
    names = {field.name for field in dataclasses.fields(config)}
    assert {(config, name) for name in names & set(FORMER_NAMES)} <= OTHER_MEANINGS


@pytest.mark.parametrize(
    ("config", "flag", "present"),
    [
        (SampleConfig, "--model", "--model_name_or_path"),
        (SampleConfig, "--lora", "--lora_path"),
        (EvaluationConfig, "--overwrite", "--overwrite_output_dir"),
        (ScoreClipsConfig, "--overwrite", "--rescore"),
        (CheckConfig, "--clips", "--scenes"),
        (RedTeamConfig, "--clips", "--scenes"),
        (DemoConfig, "--steps", "--max_steps"),
    ],
)
def test_a_former_flag_is_refused_and_the_present_one_named(config, flag, present):
    with pytest.raises(ValueError, match=f"^unknown option {flag}: it is called {present} now$"):
        parse_config(config, [flag, "1"])
    with pytest.raises(ValueError, match=f"^unknown option {flag}: it is called {present} now$"):
        parse_config(config, [f"{flag}=1"])


def test_a_former_key_of_a_file_as_well(tmp_path):
    (tmp_path / "run.yaml").write_text("model: data/drops/model\n")
    with pytest.raises(ValueError, match="unknown key model: it is called model_name_or_path now"):
        parse_config(SampleConfig, ["--config", str(tmp_path / "run.yaml")])


def test_commands_without_a_config_class_too(capsys):
    for parser, flag, present in (
        (pretraining_parser("flow", None, steps=1, batch_size=1, learning_rate=1.0).parse_args, "--steps", "max_steps"),
        (parse, "--max_clips", "scenes"),
    ):
        with pytest.raises(SystemExit):
            parser([flag, "3"])
        assert f"unknown option {flag}: it is called --{present} now" in capsys.readouterr().err

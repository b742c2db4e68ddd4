"""A value means the same from a flag, from a YAML file and from Python, and what a run writes reads back as the run."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainers.run.finish import write_config
from trainers.settings.options import parse_config
from trainers.settings.oro import OROConfig
from trainers.settings.regression import PSFTConfig, RWRConfig
from trainers.settings.values import kinds_of

CONFIGS = (OROConfig, RWRConfig, PSFTConfig)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("report_to", "none", ["none"]),
        ("report_to", "tensorboard", ["tensorboard"]),
        ("report_to", "all", ["all"]),
        ("kinds", "drop", ["drop"]),
        ("kinds", "null", None),
        ("lora_path", "none", None),
        ("lora_path", "null", None),
        ("num_frames", "none", None),
        ("max_steps", "8.0", 8),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "1", 1.0),
        ("lora_alpha", "4", 4.0),
        ("run_name", "12", "12"),
        ("run_name", "1_000", "1_000"),
        ("run_name", "true", "true"),
        ("run_name", "2026-01-02", "2026-01-02"),
        ("bf16", "yes", True),
        ("bf16", "on", True),
        ("bf16", "off", False),
        ("bf16", "1", True),
        ("num_threads", "2", 2),
    ],
)
def test_a_flag_and_a_file_mean_the_same(tmp_path, name, text, expected):
    (tmp_path / "run.yaml").write_text(f"{name}: {text}\n")
    from_file = parse_config(OROConfig, ["--config", str(tmp_path / "run.yaml")])
    from_flag = parse_config(OROConfig, [f"--{name}", text])
    assert getattr(from_file, name) == getattr(from_flag, name) == expected
    assert type(getattr(from_file, name)) is type(expected)


def test_lists_of_flags_and_of_files(tmp_path):
    (tmp_path / "run.yaml").write_text("adapter-sigma-range: [1e-05, 1]\nreport_to:\nkinds: [1, drop]\n")
    from_file = parse_config(OROConfig, ["--config", str(tmp_path / "run.yaml")])
    flags = ["--adapter_sigma_range", "1e-05", "1", "--report_to", "none", "--kinds", "1", "drop"]
    assert from_file == parse_config(OROConfig, flags)
    assert from_file.adapter_sigma_range == [1e-05, 1.0] and from_file.kinds == ["1", "drop"]
    assert parse_config(RWRConfig, ["--scored", "--absolute_reward", "-1e-3"]).scored == []
    assert parse_config(RWRConfig, ["--absolute_reward", "-1e-3"]).absolute_reward == -1e-3


def test_python_may_give_a_path_or_a_single_value():
    config = OROConfig(output_dir=Path("outputs/x"), report_to="none", lora_path="none")  # pyright: ignore
    assert (config.output_dir, config.report_to, config.lora_path) == ("outputs/x", ["none"], None)
    with pytest.raises(ValueError, match="max_steps must be a number, got True"):
        OROConfig(max_steps=True)  # pyright: ignore


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "no",
        "on",
        "null",
        "~",
        "1e-4",
        "0x10",
        "2026-01-02",
        "1:30",
        " a ",
        "a: b",
        "# a",
        "'",
        '"',
        "",
        "- a",
        "%",
        "\n",
    ]
)
NUMBERS = {int: st.integers(0, 10**12), float: st.floats(1e-30, 1e30), bool: st.booleans(), str: TEXTS}


@pytest.mark.parametrize("config_class", CONFIGS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_a_run_writes_reads_back_as_the_same_run(config_class, tmp_path, data):
    changed = {}
    for name, kind in kinds_of(config_class).items():
        values = NUMBERS[kind.of]
        value = data.draw(st.lists(values, min_size=1, max_size=3) if kind.many else values, label=name)
        try:
            config_class(output_dir=str(tmp_path), **{name: value} if name != "output_dir" else {})
            config_class(**{"output_dir": str(tmp_path)} | changed | {name: value})
        except (ValueError, TypeError):
            continue
        changed[name] = value
    config = config_class(**changed | {"output_dir": str(tmp_path)})
    write_config(config)
    assert parse_config(config_class, ["--config", str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_setting_has_a_kind(config_class):
    kinds = kinds_of(config_class)
    assert set(kinds) == {field.name for field in dataclasses.fields(config_class)}

"""How settings are read: frozen pydantic dataclasses, from flags and one flat YAML file through TRL's TrlParser."""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import argparse
import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import pydantic
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from trainers.settings.values import as_a_flag, kinds_of, plain, take_what_files_take

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def option(default: Any, help: str) -> Any:
    """A field with its documentation; `--help` shows it with the default."""
    metadata = {"help": help.replace("%", "%%")}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_range(name: str, sigma_range: list[float]) -> None:
    """Raise ValueError unless `sigma_range` is [low, high] within [0, 1]."""
    if len(sigma_range) != 2 or not 0 <= sigma_range[0] <= sigma_range[1] <= 1:
        raise ValueError(f"{name} must be two noise levels, 0 <= low <= high <= 1, got {sigma_range}")


def shared_levels(levels: Sequence[float], active: Sequence[float]) -> list[float] | None:
    """The noise levels of one range that lie in another as well, None where there are none."""
    low, high = max(levels[0], active[0]), min(levels[1], active[1])
    return [low, high] if low <= high else None


def check_acting(name: str, levels: Sequence[float], active: Sequence[float]) -> None:
    """Raise ValueError where the adapter is off at all noise levels of a loss."""
    if shared_levels(levels, active) is None:
        raise ValueError(
            f"{name} must have noise levels in common with adapter_sigma_range {list(active)}, where the adapter acts, "
            f"got {list(levels)}: nothing would be learned there; move the one or widen the other"
        )


def _plain(config_class: type, given: Any) -> Any:
    """A class's settings, each as `trainers.settings.values.plain` makes of it."""
    values = getattr(given, "kwargs", given)  # pydantic hands on what a dataclass was called with, as an ArgsKwargs
    if isinstance(values, dict):
        kinds = kinds_of(config_class)
        values = {name: plain(name, value, kinds[name]) if name in kinds else value for name, value in values.items()}
        return values if isinstance(given, dict) else type(given)((), values)
    return given


C = TypeVar("C")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def strict(config_class: type[C]) -> type[C]:
    """A frozen, keyword-only pydantic dataclass that refuses unknown fields."""
    settings = pydantic.ConfigDict(extra="forbid")
    before: Any = classmethod(_plain)
    config_class._plain = pydantic.model_validator(mode="before")(before)  # pyright: ignore[reportAttributeAccessIssue]
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=settings)(config_class)
    return made


def suggestion(name: str, known: Sequence[str]) -> str:
    """`: did you mean X?` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""


def read_yaml(path: str | Path, *, kind: str = "safe") -> dict[str, Any]:
    """Read a flat YAML file strictly: a key that comes twice is an error with its line.

    Args:
        kind: `safe` for values, `base` for every value's text.

    Raises:
        ValueError: no such file, no YAML, a repeated key, no mapping.
    """
    if not Path(path).is_file():
        near = suggestion(Path(path).name, [sibling.name for sibling in Path(path).parent.glob("*.y*ml")])
        raise ValueError(f"config file {path} does not exist{near}")
    try:
        values = YAML(typ=kind, pure=True).load(Path(path).read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{path}, line {line}: {(error.problem or str(error)).splitlines()[0]}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config file {path} must hold `key: value` lines, got {type(values).__name__}")
    return values


def parse_config(config_class: type[C], arguments: Sequence[str] | None = None) -> C:
    """Read flags and `--config file.yaml`; flags win.

    Raises:
        ValueError: in one line, whatever is wrong: an unknown or repeated key, a value of the wrong type, a misspelt
            choice, with the nearest valid name.
    """
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:
            choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
            near = suggestion(choice[1], choice[2].replace("'", "").split(", ")) if choice else ""
            raise ValueError(message + near)

    known = [field.name for field in dataclasses.fields(config_class)]  # pyright: ignore[reportArgumentType]
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = [
        part
        for argument in arguments
        for part in (argument.split("=", 1) if argument.startswith("--config=") else [argument])
    ]
    file: dict[str, Any] = {}
    if "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 == len(arguments):
            raise ValueError("--config needs the path of a YAML file")
        file = read_settings(arguments[place + 1], config_class)
        del arguments[place : place + 2]
    for argument in arguments:
        name = argument.split("=")[0].lstrip("-").replace("-", "_").removeprefix("no_")
        if argument.startswith("--") and name not in [*known, "config", "help"]:
            raise ValueError(f"unknown option {argument.split('=')[0]}{now_called(name, known, '--')}")
    parser = Parser(dataclass_types=[config_class], description=config_class.__doc__, allow_abbrev=False)  # pyright: ignore[reportArgumentType]
    take_what_files_take(parser, config_class)
    parser.set_defaults_with_config(**file)
    try:
        return parser.parse_args_into_dataclasses(args=arguments)[0]  # pyright: ignore[reportReturnType]
    except pydantic.ValidationError as error:
        raise ValueError(_one_line(error)) from error


def read_settings(path: str, config_class: type) -> dict[str, Any]:
    """The settings of a YAML file, each as a flag of the same text would give it; `env` goes to the environment.

    Raises:
        ValueError: a file that cannot be read, a key that is not known, an `env` that is no table.
    """
    kinds, settings = kinds_of(config_class), {}
    texts = read_yaml(path, kind="base")
    for key, value in read_yaml(path).items():
        name = str(key).replace("-", "_")
        if name == "env" and name not in kinds:
            if not isinstance(value, dict):
                raise ValueError(f"{path}: env must hold `NAME: value` lines, got {value!r}")
            os.environ.update({str(variable): str(text) for variable, text in texts["env"].items()})
        elif name not in kinds:
            raise ValueError(f"{path}: unknown key {key}{now_called(str(key), list(kinds))}")
        else:
            settings[name] = as_a_flag(value, texts.get(key, value), kinds[name])
    return settings


FORMER_NAMES = {
    "model": ("model_name_or_path",),
    "lora": ("lora_path",),
    "overwrite": ("overwrite_output_dir", "rescore"),
    "clips": ("scenes",),
    "max_clips": ("scenes",),
    "steps": ("max_steps",),
    "threads": ("num_threads",),
}
"""Options that once had another spelling in some command, and what they are called in all of them."""


def now_called(name: str, known: Sequence[str], dashes: str = "") -> str:
    """`: it is called X now` for a former spelling, `: did you mean X?` for the nearest known name, or nothing."""
    for present in FORMER_NAMES.get(name, ()):
        if present in known:
            return f": it is called {dashes}{present} now"
    return suggestion(name, known)


class FlagParser(argparse.ArgumentParser):
    """The parser of commands without a config class. It names what a former flag is called now, and guesses nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = [text.lstrip("-") for action in self._actions for text in action.option_strings]
        for argument in sys.argv[1:] if args is None else args:
            name = argument.split("=")[0].removeprefix("--")
            if argument.startswith("--") and name not in known and name in FORMER_NAMES:
                self.error(f"unknown option --{name}{now_called(name, known, '--')}")
        return super().parse_known_args(args, namespace)


def _one_line(error: pydantic.ValidationError) -> str:
    """The first problem that pydantic found, as: name must be ..., got ...: did you mean ...?"""
    problem = error.errors()[0]
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    name = ".".join(str(part) for part in problem["loc"])
    near = ""
    if problem["type"] == "literal_error":
        near = suggestion(
            str(problem["input"]), problem.get("ctx", {})["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        )
    message = problem["msg"].replace("Input should be", "must be").replace("Input should have", "must have")
    return f"{name} {message}, got {problem['input']!r}{near}"


LESS_MEMORY = (
    "lower per_device_train_batch_size (and raise gradient_accumulation_steps), num_frames, height or width; set "
    "gradient_checkpointing, decode_checkpointing and bf16; or decode_chunk_size: 1; "
    "`python -m trainers.memory_plan` tells what each of them saves"
)


def exit_with_one_line(main: Callable[[], None]) -> None:
    """Run a command; a user's mistake (ValueError), a full disk or a refused file is one line on stderr and status 2.

    Ctrl-C is one line and status 130.
    """
    try:
        main()
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: out of memory: {' '.join(str(error).split())[:300]}: {LESS_MEMORY}", file=sys.stderr)
        sys.exit(2)

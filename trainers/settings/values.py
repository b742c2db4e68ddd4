"""One meaning of a value, whether a flag, a YAML file or Python gives it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import re
import types
import typing
from typing import Any

NOTHING = ("none", "null")
"""Texts that stand for no value where a setting may have none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """What a setting holds.

    Args:
        of: str, int, float or bool; str for a choice of texts.
        many: a list of them.
        optional: or nothing.
    """

    of: type
    many: bool
    optional: bool


@functools.cache
def kinds_of(config_class: type) -> dict[str, Kind]:
    """The kind of every setting of a class, by name."""
    kinds = {}
    for name, hint in typing.get_type_hints(config_class).items():
        if name.startswith("_") or typing.get_origin(hint) is typing.ClassVar:
            continue
        parts = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        kept = next(part for part in parts if part is not type(None))
        many = typing.get_origin(kept) is list
        of = typing.get_args(kept)[0] if many else kept
        of = of if of in (int, float, bool) else str
        kinds[name] = Kind(of=of, many=many, optional=len(parts) > 1)
    return kinds


def plain(name: str, value: Any, kind: Kind) -> Any:
    """A value as the setting holds it: nothing for `none`, a list for a single one, the text of a path or number.

    Raises:
        ValueError: true or false where a number is meant.
    """
    single = value[0] if isinstance(value, list) and len(value) == 1 else value
    if kind.optional and (value is None or _is_nothing(single)):
        return None
    if kind.many:
        if value is None:
            return [] if name != "report_to" else ["none"]
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        return [_single(name, part, kind) for part in values]
    return _single(name, value, kind)


def _is_nothing(value: Any) -> bool:
    return isinstance(value, str) and value.lower() in NOTHING


def _single(name: str, value: Any, kind: Kind) -> Any:
    if kind.of is str and isinstance(value, (os.PathLike, int, float)) and not isinstance(value, bool):
        return str(value)
    if kind.of in (int, float) and isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value}")
    return value


def as_a_flag(value: Any, text: Any, kind: Kind) -> Any:
    """A value of a YAML file as a flag would give it.

    Args:
        value: as YAML reads it.
        text: as it is written.
    """
    if isinstance(value, list) and isinstance(text, list):
        return [as_a_flag(part, written, kind) for part, written in zip(value, text, strict=True)]
    if kind.of is str:
        return text if value is not None and isinstance(text, str) else value
    if kind.of is bool and isinstance(value, int):
        return value if isinstance(value, bool) else str(value)
    return value


def take_what_files_take(parser: argparse.ArgumentParser, config_class: type) -> None:
    """Let flags say all that a file can: nothing, an empty list, a whole number as 8.0, a negative one as -1e-3."""
    parser._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    kinds = kinds_of(config_class)
    for action in parser._actions:
        kind = kinds.get(action.dest)
        if kind is None or isinstance(action, argparse._StoreFalseAction):
            continue
        if kind.many:
            action.nargs = "*"
        if kind.of is bool:
            action.type = truth
        elif action.choices is None:
            action.type = reader(kind)


def truth(text: str) -> bool:
    """Yes or no, in the words of YAML and flags."""
    if text.lower() in ("yes", "true", "t", "y", "1", "on"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")


def reader(kind: Kind) -> Any:
    """What reads a flag of this kind."""

    def read(text: str) -> Any:
        if kind.optional and _is_nothing(text):
            return text  # `plain` makes nothing of it
        if kind.of is int:
            try:
                return int(text)
            except ValueError:
                number = float(text)
                if not number.is_integer():
                    raise
                return int(number)
        return kind.of(text)

    read.__name__ = kind.of.__name__
    return read

"""Prompts without clips, for text-to-video: a text file, or a table with a column of captions.

prompts.txt           one prompt a line; empty lines are left out
prompts.csv           with a header, of which `caption` or `prompt` is a column
prompts.jsonl, .json  objects with the key `caption` or `prompt`, one a line or in one list
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets

CAPTIONS = ("caption", "prompt")
"""Names of the column of captions, the first of them found."""

SUFFIXES = (".txt", ".csv", ".jsonl", ".json")


def read_captions(path: Path) -> datasets.Dataset:
    """The prompts of a file as a table with the columns `id`, `seed` and `caption`.

    Raises:
        ValueError: another kind of file, one that cannot be read, or that holds no prompt.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"dataset {path} is a {path.suffix or 'file without suffix'}: expected {', '.join(SUFFIXES)} of prompts, a "
            ".parquet of clips or prompts, or a folder with one sub-folder of Parquet files a split"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        captions = _captions(path, text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"dataset {path}: expected prompts, could not read them ({error}): mend the file") from error
    captions = [caption.strip() for caption in captions if caption and caption.strip()]
    if not captions:
        raise ValueError(f"dataset {path} holds no prompt: write one a line, or a column `caption`")
    names = [f"{path.stem}-{number}" for number in range(len(captions))]
    columns = {"id": names, "seed": list(range(len(captions))), "caption": captions}
    return datasets.Dataset.from_dict(columns).with_format("numpy")


def _captions(path: Path, text: str) -> list[str]:
    kind = path.suffix.lower()
    if kind == ".txt":
        return text.splitlines()
    if kind == ".csv":
        return [_caption_of(path, row) for row in csv.DictReader(text.splitlines())]
    whole = json.loads(text) if kind == ".json" else [json.loads(line) for line in text.splitlines() if line.strip()]
    return [entry if isinstance(entry, str) else _caption_of(path, entry) for entry in whole]


def _caption_of(path: Path, row: Any) -> str:
    found = [row[name] for name in CAPTIONS if name in row] if isinstance(row, dict) else []
    if not found:
        got = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"dataset {path} must have a column `caption` or `prompt`, got {got}: name it so")
    return str(found[0] or "")

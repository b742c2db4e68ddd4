"""Prompts from the files that people keep them in."""

import json

import pytest

from data.captions import read_captions

FALLS = ["a ball is thrown", "a cup drops"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a ball is thrown\n\n  a cup drops  \n"),
        ("a.csv", 'caption,length\n"a ball is thrown",3\na cup drops,4\n'),
        ("b.csv", "\ufeffprompt\na ball is thrown\na cup drops\n"),
        ("a.jsonl", '{"prompt": "a ball is thrown"}\n{"caption": "a cup drops"}\n'),
        ("a.json", json.dumps(FALLS)),
        ("b.json", json.dumps([{"caption": text} for text in FALLS])),
    ],
)
def test_prompts_are_read(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    table = read_captions(tmp_path / name)
    assert list(table["caption"]) == FALLS
    assert len(set(table["id"])) == 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "\n \n", "holds no prompt"),
        ("a.csv", "text\na cup drops\n", "must have a column `caption` or `prompt`, got text"),
        ("a.jsonl", "{a cup drops}\n", r"a\.jsonl: expected prompts, could not read them"),
        ("a.json", "[3]", "must have a column `caption`.*got int"),
        ("a.docx", "a cup drops", r"is a \.docx: expected \.txt, \.csv"),
    ],
)
def test_other_files_are_refused_in_a_line(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_captions(tmp_path / name)

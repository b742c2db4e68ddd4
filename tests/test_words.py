"""The words for readers: short lines, short sentences, links and paths that lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README_LINES, README_COLUMNS, SENTENCE_WORDS = 150, 160, 35
WRITTEN = ("oro_drops", "drops_bench", "rwr_drops")
"""Pages of results that hold prose; the others are tables that scripts write."""

GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, *(ROOT / "docs" / "results" / f"{name}.md" for name in WRITTEN)]

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_STARTS_AN_ITEM = re.compile(r"\s*(?:[-*]|\d+\.)\s|#")
_ENDS_A_SENTENCE = re.compile(r"(?<=[.?!])[\"')*]*\s+(?=[\"'(*\[`A-Z])")
_TABLE_OR_REPORT = re.compile(r"\||- g by the (?:reward|judge): |    ")
_ROOMS = ("reward_physics", "rewards", "trainers", "data", "configs", "benchmarks", "tests", "docs")
_PATH = re.compile(rf"`((?:{'|'.join(_ROOMS)})/[\w./-]*(?:\.(?:py|yaml|md|sh|json)|/))`")


def name_of(page: Path) -> str:
    """The page as it is named from the root."""
    return str(page.relative_to(ROOT))


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page, outside code blocks, tables and what evaluations print."""
    for block in re.split(r"\n\s*\n", _FENCED.sub("", text)):
        items: list[str] = []
        for line in block.splitlines():
            if _TABLE_OR_REPORT.match(line):
                continue
            if items and not _STARTS_AN_ITEM.match(line):
                items[-1] += f" {line.strip()}"
            else:
                items.append(line.strip())
        for item in items:
            yield from _ENDS_A_SENTENCE.split(re.sub(r"\]\([^)]*\)", "]", item))


def words(sentence: str) -> int:
    """How many of a sentence's parts hold a letter or a digit."""
    return sum(bool(re.search(r"\w", part)) for part in sentence.split())


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may name, as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_sentences_are_told_apart() -> None:
    text = (
        "# Head\n\nOne fact. A second\none.\n\n- an item: more, e.g. this\n- `code` starts? Yes.\n\n"
        "| a. B | c |\n\n```sh\nX. Y\n```\n"
    )
    assert list(sentences(text)) == [
        "# Head",
        "One fact.",
        "A second one.",
        "- an item: more, e.g. this",
        "- `code` starts?",
        "Yes.",
    ]
    assert words("g is 9.81 m/s² | - really") == 5


def test_the_readme_fits_a_screen_or_three() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES
    assert [line for line in lines if len(line) > README_COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_sentence_is_too_long(page: Path) -> None:
    long = [sentence for sentence in sentences(page.read_text()) if words(sentence) > SENTENCE_WORDS]
    assert long == [], f"a sentence holds at most {SENTENCE_WORDS} words: cut it into facts"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", _FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_in_backticks_exist(page: Path) -> None:
    paths = [path for path in _PATH.findall(page.read_text()) if not re.search(r"[A-Z]{3}|rendered", path)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_drawn_tree_is_the_tree() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for package in ("reward_physics", "rewards", "trainers", "data"):
        (lines,) = re.findall(rf"^{package}/ .*\n((?:  .*\n)+)", page, re.MULTILINE) or [""]
        drawn = {word for word in lines.split() if re.fullmatch(r"\w+(?:/|\.py)", word)}
        modules = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        rooms = {f"{path.parent.name}/" for path in (ROOT / package).glob("*/__init__.py")}
        assert drawn == modules | rooms, f"{package}/ as docs/architecture.md draws it, and as it is"


def test_every_guide_stands_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [
        path
        for path in (ROOT / "docs").glob("**/*.md")
        if "oro_drops_lora" not in path.parts and path.name != "README.md"
    ]
    assert [name_of(path) for path in pages if f"({path.relative_to(ROOT / 'docs')})" not in index] == []

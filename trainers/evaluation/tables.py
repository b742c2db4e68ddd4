"""The tables of an evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.evaluation.reports import report_of
from trainers.evaluation.scores import Scores


def markdown_table(record: Mapping[str, Any]) -> str:
    """The arms as a Markdown table, then each arm against the first generated one."""
    report = _report(record)
    lines = _markdown(report.table(record))
    for name, changes in record["comparisons"].items():
        lines += ["", f"{name} against {record['against']}, same scenes and noise:"]
        lines += [f"- {line}" for line in report.differences(changes, record["against"])]
    notes = report.notes(record)
    return "\n".join([*lines, *([""] if notes else []), *notes])


def details_table(record: Mapping[str, Any]) -> str:
    """The second table: what the first leaves out."""
    return "\n".join(_markdown(_report(record).details(record)))


def _report(record: Mapping[str, Any]) -> Scores:
    """The report of the record's world; records of before worlds were named are of drops."""
    return report_of(record["settings"].get("world", "drops"))


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]

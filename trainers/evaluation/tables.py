"""The tables of an evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.evaluation.reports import report_of
from trainers.evaluation.scores import Scores


def markdown_table(record: Mapping[str, Any]) -> str:
    """The arms as a Markdown table, then each arm against the first generated one."""
    report = report_of_record(record)
    lines = _markdown(report.table(record))
    for name, changes in record["comparisons"].items():
        lines += ["", f"{name} against {record['against']}, same scenes and noise:"]
        lines += [f"- {line}" for line in report.differences(changes, record["against"])]
    notes = [*report.notes(record), *sampler(record)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def details_table(record: Mapping[str, Any]) -> str:
    """The second table: what the first leaves out."""
    return "\n".join(_markdown(report_of_record(record).details(record)))


def sampler(record: Mapping[str, Any]) -> list[str]:
    """How every generated clip was sampled, in one line; nothing of a record that does not say it."""
    settings = record["settings"]
    models = any(arm["source"].get("kind") == "model" for arm in record["arms"].values())
    if not models or settings.get("num_inference_steps") is None:
        return []
    guided = f", guidance {settings['guidance_scale']:g}"
    negative = settings.get("negative_prompt")
    against = f" against {negative!r}" if negative and settings["guidance_scale"] > 1 else ""
    kind = "bfloat16" if settings.get("bf16") else "float32"
    return [f"every model sampled with {settings['num_inference_steps']} steps{guided}{against}, in {kind}."]


def report_of_record(record: Mapping[str, Any]) -> Scores:
    """The report of the record's world; records of before worlds were named are of drops."""
    settings = record["settings"]
    return report_of(settings.get("world", "drops"), image_conditioning=settings.get("image_conditioning"))


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]

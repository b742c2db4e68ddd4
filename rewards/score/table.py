"""A scored clip as tables on the terminal: its numbers, what is missing, and one row per object of several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.table import Table

_OWN_TABLES = ("not_measurable", "notes", "clip", "objects")


def flat(result: dict[str, Any]) -> list[tuple[str, Any]]:
    """The numbers of a result, nested ones under `outer.inner`."""
    rows: list[tuple[str, Any]] = []
    for name, value in result.items():
        if name in _OWN_TABLES:
            continue
        if isinstance(value, dict):
            rows += [(f"{name}.{key}", item) for key, item in value.items()]
        else:
            rows.append((name, value))
    return rows


def shown(value: Any) -> str:
    """A value in a few characters; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tables(result: dict[str, Any]) -> Iterable[RenderableType]:
    """The tables of one clip."""
    yield _table(result)
    if len(result.get("objects", [])) > 1:
        yield _objects(result["objects"])


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=result["clip"], title_justify="left", show_header=False)
    if "error" in result:
        table.add_row("error", result["error"], style="red")
        return table
    if result["g_m_s2"] is not None:
        table.add_row("g", f"{result['g_m_s2']:.2f} m/s²  ({_interval(result)})", style="bold")
    for name, value in flat(result):
        if value is not None and not name.startswith("g_"):
            table.add_row(name, shown(value))
    for name, why in result["not_measurable"].items():
        table.add_row(f"{name}: not measurable", why, style="yellow")
    for note in result["notes"]:
        table.add_row("note", note)
    return table


def _objects(objects: list[dict[str, Any]]) -> Table:
    """One row per object: where it was first seen, g, frames in flight, diameter in the picture, restitution."""
    table = Table(title=f"{len(objects)} objects", title_justify="left")
    in_metres = any("speed_at_mid_flight_m_s" in row for row in objects)
    value = "g_m_s2" if in_metres else "acceleration_px_s2"
    for heading in ("object", "from (px)", "g (m/s²)" if in_metres else "px/s²", "95 %", "frames", "size (px)", "e"):
        table.add_column(heading, no_wrap=True)
    table.add_column("not measurable")
    for row in objects:
        known = row["g_m_s2"] is not None
        table.add_row(
            str(row["object"]),
            "–" if row["first_at_px"] is None else ", ".join(f"{px:.0f}" for px in row["first_at_px"]),
            shown(row[value]),
            _interval(row).removeprefix("95 % ") if known else "–",
            str(row["frames_in_flight"]),
            shown(row["object_diameter_px"]),
            shown(row["unit_free"]["restitution_by_speed"]),
            row["not_measurable"].get(value, ""),
        )
    return table


def _interval(numbers: dict[str, Any]) -> str:
    return f"95 % {numbers['g_low_m_s2']:.2f} to {numbers['g_high_m_s2']:.2f}"

"""Whether the files of a split hold clips of one kind: the same columns, and arrays of one size."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa


def check_together(first: Path, known: pa.Schema, path: Path, schema: pa.Schema) -> None:
    """Raise ValueError, which names both files, where the columns of `path` are not those of `first`."""
    for a, b, more in ((path, first, _lacks(schema, known)), (first, path, _lacks(known, schema))):
        if more:
            named = ", ".join(more[:4]) + (" ..." if len(more) > 4 else "")
            raise ValueError(
                f"{path}: the files of a split must have the same columns, but {a.name} lacks {named}, which {b.name} "
                "has: write both alike, or put them into splits of their own"
            )
    for name in known.names:
        ours, theirs = shape_of(known.field(name).type), shape_of(schema.field(name).type)
        if ours != theirs:
            raise ValueError(
                f"{path}: the clips of a split must have one size, but its {name} are {theirs} and those of "
                f"{first.name} {ours}: write both at one size, or put them into splits of their own"
            )


def shape_of(kind: pa.DataType) -> str:
    """The shape that a column of arrays is typed with; of other columns nothing."""
    shape = getattr(kind, "shape", None)
    return "" if shape is None else " x ".join("any" if side is None else str(side) for side in shape)


def _lacks(schema: pa.Schema, other: pa.Schema) -> list[str]:
    return [name for name in other.names if name not in schema.names]

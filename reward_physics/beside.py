"""Where a path that stands in a file is looked for: beside that file first, then from the working directory."""

from __future__ import annotations

from pathlib import Path


def places(name: str | Path, base: Path | None) -> list[Path]:
    """Where `name` may lie, best first.

    Args:
        name: a path as somebody wrote it. An absolute one, or one from the home folder (`~`), lies in one place.
        base: folder of the file that it stands in; None: the working directory alone.
    """
    path = Path(name).expanduser() if str(name).startswith("~/") else Path(name)
    if path.is_absolute():
        return [path]
    return [root / path for root in (base, Path()) if root is not None]


def found(name: str | Path, base: Path | None) -> Path | None:
    """The first of these places that exists, or None."""
    return next((path for path in places(name, base) if path.exists()), None)


def looked_for(name: str | Path, base: Path | None) -> str:
    """The end of an error's line: every place in full."""
    return "looked for " + " and ".join(dict.fromkeys(str(path.absolute()) for path in places(name, base)))

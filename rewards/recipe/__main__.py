"""Recipes from the command line.

python -m rewards.recipe check configs/recipes/gravity.yaml      what it does, in words
python -m rewards.recipe schema                                  JSON Schema for editors
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rewards.recipe.config import recipe_schema


def main(arguments: Sequence[str] | None = None) -> int:
    """The commands `check RECIPE...` and `schema`; returns the exit status."""
    command, *paths = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command == "schema" and not paths:
        print(json.dumps(recipe_schema(), indent=1))
        return 0
    if command != "check" or not paths:
        print((__doc__ or "").partition("\n")[2].strip("\n"))
        return 0 if command in ("-h", "--help") else 2
    from rewards.recipe.explain import explain

    try:
        for path in paths:
            print(explain(path))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""TODO"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import signal
import sys
from pathlib import Path

from trainers.drops_bench.bench import DropsBenchConfig, on_terminate, run
from trainers.settings.options import exit_with_one_line, parse_config


def main() -> None:
    """The command."""
    config = parse_config(DropsBenchConfig)
    signal.signal(signal.SIGTERM, on_terminate)
    missed = run(config)
    table = Path(config.output_dir) / "table.md"
    if table.exists() and not config.dry_run:
        print(f"\n{table.read_text()}\nin {config.output_dir}")
    if missed:
        print(f"not done: {', '.join(missed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    exit_with_one_line(main)

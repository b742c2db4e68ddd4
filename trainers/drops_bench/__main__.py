"""drops-bench: which way of learning works, on the embedded world, by one command that goes on where it was stopped.

    python -m trainers.drops_bench --output_dir outputs/drops_bench
    python -m trainers.drops_bench --dry_run
    python -m trainers.drops_bench --quick --only oro rwr     a look: one step and two scenes a cell
    python -m trainers.drops_bench --stage core --jobs 12 --set rwr.max_steps=150     on a large machine

A queue of cells, each a command of its own of at most 30 minutes: base, PSFT, ORO, RWR, PSFT+ORO and PSFT+RWR with
three seeds at the same budget of time, then ablations with one seed. A finished cell is not run again; a training that
ran out of time goes on from its checkpoint the next time. table.md and details.md hold what there is so far. ORO and
RWR alone see no clip that falls at 9.81. This is no PisaBench: see `data.published.pisabench` for that one's clips.
"""

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

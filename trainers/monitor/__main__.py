"""Watch a run from its files alone, on the terminal or as a page: `python -m trainers.monitor outputs/oro_drops`.

    python -m trainers.monitor outputs/oro_drops --watch 10
    python -m trainers.monitor outputs/oro_drops --html run.html

Reads config.yaml, metrics.jsonl and the names of the checkpoints; nothing of the run is touched, and the run need not
know. Alarms say what a glance at the reward would miss: a reward that rises while its held-out judge falls, objects
that hide, gradients that were dropped, a run that stands still.
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.live import Live

from trainers.clips.folder import write_text
from trainers.monitor.screen import page, screen
from trainers.run.records import read_run
from trainers.settings.options import exit_with_one_line


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.monitor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="output_dir of a trainer")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="draw again every so many seconds until the end")
    parser.add_argument("--html", metavar="FILE", help="write a page instead of the terminal's screen")
    options = parser.parse_args(arguments)
    if options.watch is not None and not options.watch > 0:
        parser.error(f"--watch must be > 0 seconds, got {options.watch:g}")
    run = read_run(options.run)
    if options.html:
        write_text(options.html, page(run))
        print(f"page: {options.html}")
        return
    console = Console()
    if options.watch is None:
        console.print(screen(run))
        return
    with Live(screen(run), console=console, auto_refresh=False) as live:
        while not run.finished:
            time.sleep(options.watch)
            run = read_run(options.run)
            live.update(screen(run), refresh=True)


if __name__ == "__main__":
    exit_with_one_line(main)

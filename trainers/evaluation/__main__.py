"""Held-out evaluation of models on the same scenes and noise, by the reward's instruments and by a judge's.

    python -m trainers.evaluation --lora_path outputs/oro_drops --at_rest --scenes 64 --output_dir outputs/evaluation
    python -m trainers.evaluation --arm truth autoencoder base last=outputs/last full=outputs/full --at_rest

Leaves evaluation.json (every figure of every clip), table.md, details.md and report.html with videos side by side.
Clips are kept under output_dir/arms, so a run that was stopped goes on where it was.
"""

# No `from __future__ import annotations` here: TrlParser reads the types of the fields.
import sys
from collections.abc import Sequence
from pathlib import Path

from trainers.evaluation.evaluate import evaluate
from trainers.evaluation.measured import EvaluationConfig
from trainers.evaluation.tables import details_table, markdown_table
from trainers.settings.options import exit_with_one_line, parse_config


def gather_repeated(arguments: Sequence[str], flag: str) -> list[str]:
    """`--arm a --arm b` as `--arm a b`, which is what the parser takes."""
    values: list[str] = []
    rest: list[str] = []
    target = rest
    for argument in arguments:
        if argument.startswith("--"):
            target = values if argument == flag else rest
            if argument == flag:
                continue
            if argument.startswith(f"{flag}="):
                values.append(argument.removeprefix(f"{flag}="))
                continue
        target.append(argument)
    return [*rest, flag, *values] if values else rest


def main() -> None:
    """The command."""
    config = parse_config(EvaluationConfig, gather_repeated(sys.argv[1:], "--arm"))
    evaluation = evaluate(config)
    print(f"{markdown_table(evaluation.record)}\n\n{details_table(evaluation.record)}")
    print(f"report: {Path(config.output_dir) / 'report.html'}")


if __name__ == "__main__":
    exit_with_one_line(main)

"""The command `compare`: two studies side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.border.bounds import path
from prunebench.border.text import clean, one_line, short_path
from prunebench.cli.completion import add_options
from prunebench.cli.ending import say
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, key, keys_of

if TYPE_CHECKING:
    from prunebench.report.agreement import Change, Ranking


@dataclass
class CompareKeys:
    """What `prunebench compare` takes beside the two studies."""

    out: str | None = key(None, "A file for the table of changes; null: none.", "out=changes.csv")


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "compare",
        compare,
        "Show what moved between two studies, and how far they rank methods alike.",
        examples=("prunebench compare results/tiny-qwen2.5-vl results/scratch/again",),
        keys=compare_keys,
    )
    parser.add_argument("first", type=Path, metavar="STUDY", help="the folder of a study")
    parser.add_argument("second", type=Path, metavar="OTHER", help="that of another")
    add_options(parser, compare_keys, "options")


def compare_keys() -> Sequence[Key]:
    """The keys of a comparison."""
    return keys_of(CompareKeys)


def compare(arguments: argparse.Namespace) -> int:
    """Print a line a method and budget, and the rank correlation at each budget."""
    from prunebench.cli.screen import print_table
    from prunebench.report import agreement, tables
    from prunebench.report.board import records
    from prunebench.run import options

    content: dict[str, Any] = {}
    options.override(content, arguments.options, CompareKeys)
    keys = options.structured(CompareKeys, content)
    warnings: list[str] = []
    result = agreement.compare(arguments.first, arguments.second, warnings.append)
    for warning in dict.fromkeys(warnings):
        say(f"warning: {one_line(warning)}")
    print_table([_row(change) for change in result.changes])
    moved = [change for change in result.changes if change.mark in ("better", "worse")]
    print(f"{len(moved)} of {len(result.changes)} rows moved by more than their 95 % interval")
    for ranking in result.rankings:
        print(clean(_line(ranking)))
    if keys.out is not None:
        file = path("out", keys.out)
        frame = agreement.frame(result)
        tables.write_csv(file, tables.texts(records(frame), list(frame.columns)))
        print(clean(short_path(file)))
    return 0


def _row(change: Change) -> dict[str, Any]:
    difference = change.difference
    return {
        "method": change.method,
        "budget": f"{change.budget_kind}:{change.budget}",
        "model": change.model,
        "task": change.task,
        "first": f"{change.first:.3f}",
        "second": f"{change.second:.3f}",
        "difference": f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]",
        "questions": "the same" if change.paired else "others",
        "change": change.mark,
    }


def _line(ranking: Ranking) -> str:
    """The rank correlation at one budget."""
    tau = ranking.tau
    where = f"{ranking.model}, {ranking.task}, {ranking.budget_kind}:{ranking.budget}"
    if tau.value != tau.value:  # NaN
        return f"{where}: {ranking.methods} methods are all equal, so there is no ranking"
    interval = f"95 % {tau.low:.2f} to {tau.high:.2f}"
    return f"{where}: {ranking.methods} methods, Kendall's tau {tau.value:.2f}, {interval}"

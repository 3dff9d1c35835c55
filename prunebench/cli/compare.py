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
    from prunebench.report.agreement import Ranking
    from prunebench.report.changes import Change
    from prunebench.report.matches import Key as ChangeKey


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

    keys = options.filled(CompareKeys, arguments.options)
    warnings: list[str] = []
    result = agreement.compare(arguments.first, arguments.second, warnings.append)
    for warning in dict.fromkeys(warnings):
        say(f"warning: {one_line(warning)}")
    print_table([_row(change) for change in result.changes])
    moved = [change for change in result.changes if change.mark in ("better", "worse")]
    print(f"{len(moved)} of {len(result.changes)} rows moved by more than their 95 % interval")
    for keys_of_one, study in (
        (result.only_first, arguments.first),
        (result.only_second, arguments.second),
    ):
        if keys_of_one:
            print(clean(_only(keys_of_one, study)))
    for ranking in result.rankings:
        print(clean(_line(ranking)))
    if keys.out is not None:
        file = path("out", keys.out)
        frame = agreement.frame(result)
        tables.write_csv(file, tables.texts(records(frame), list(frame.columns)))
        print(clean(short_path(file)))
    return 0


def _row(change: Change) -> dict[str, Any]:
    gap = change.difference
    difference = "" if gap is None else f"{gap.value:+.3f}"
    if gap is not None and gap.low == gap.low:  # not NaN
        difference += f" [{gap.low:+.3f}, {gap.high:+.3f}]"
    return {
        "method": change.method,
        "budget": _budget(change.key.budget_kind, change.budget),
        "model": change.key.model,
        "task": change.task,
        "first": _number(change.first, change.statuses[0]),
        "second": _number(change.second, change.statuses[1]),
        "difference": difference,
        "questions": change.questions,
        "change": change.mark,
    }


def _budget(kind: str, amount: str) -> str:
    """A budget with what it counts; a method's own operating point counts nothing."""
    return f"{kind}:{amount}" if kind else amount


def _number(value: float | None, status: str) -> str:
    """An accuracy, or why there is none."""
    return status if value is None else f"{value:.3f}"


def _only(keys: Sequence[ChangeKey], study: Path) -> str:
    """What only one of the studies has."""
    rows = "row" if len(keys) == 1 else "rows"
    methods = ", ".join(dict.fromkeys(key.method for key in keys))
    return one_line(f"{len(keys)} {rows} only in {short_path(study)}: {methods}", 200)


def _line(ranking: Ranking) -> str:
    """The rank correlation at one budget."""
    tau = ranking.tau
    budget = _budget(ranking.budget_kind, ranking.budget)
    where = f"{ranking.model}, {ranking.task}, {budget}"
    if tau.value != tau.value:  # NaN
        return f"{where}: {ranking.methods} methods are all equal, so there is no ranking"
    interval = f"95 % {tau.low:.2f} to {tau.high:.2f}"
    if tau.low != tau.low:
        interval = "no interval, for all draws of questions rank them alike"
    return f"{where}: {ranking.methods} methods, Kendall's tau {tau.value:.2f}, {interval}"

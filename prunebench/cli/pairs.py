"""The command `pairs`: which method of a study is better than which, and what it cannot tell."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from prunebench.border.text import one_line
from prunebench.cli.parser import Commands, add_command

if TYPE_CHECKING:
    import pandas as pd

FILTERS = ("model", "task", "budget", "method", "other")
"""The columns by which rows are chosen."""

NAME = 60


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "pairs",
        pairs,
        "Compare the methods of a study with each other at every budget.",
        examples=(
            "prunebench pairs results/tiny-qwen2.5-vl",
            "prunebench pairs results/tiny-qwen2.5-vl method=divprune budget=0.25",
        ),
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    parser.add_argument(
        "filters",
        nargs="*",
        metavar="key=value",
        help=f"only rows of these, several with commas between: {', '.join(FILTERS)}; with a "
        "method its pairs one by one, else a line a method with how many it is better than",
    )


def pairs(arguments: argparse.Namespace) -> int:
    """Print a line a method, or a line a pair of the method that is asked for."""
    from prunebench.cli.screen import print_table
    from prunebench.report import pairs as tables

    wishes = wished(arguments.filters)
    rows = chosen(both_ways(tables.load(arguments.study)), wishes)
    one_by_one = "method" in wishes
    print_table([one_pair(row) for row in rows] if one_by_one else list(standings(rows)))
    print(
        "better, worse: at 95 % by Holm over the pairs of one model, task and budget; "
        "smallest: the difference that as many samples show four times of five, uncorrected"
    )
    return 0


def wished(words: list[str]) -> dict[str, list[str]]:
    """What rows must have, by column; raises ReportError."""
    from prunebench.report import ReportError

    wishes: dict[str, list[str]] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or name not in FILTERS:
            raise ReportError(
                f"{one_line(word, 60)} chooses no rows; write one of "
                f"{', '.join(FILTERS)} with = and a value"
            )
        wishes[name] = value.split(",")
    return wishes


def both_ways(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Every pair from the side of either method."""
    from prunebench.report.board import records

    rows: list[dict[str, Any]] = []
    for row in records(table):
        rows += [row, turned(row)]
    return rows


def turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same pair from the other's side."""
    opposite = {"better": "worse", "worse": "better"}
    return {
        **row,
        "method": row["other"],
        "other": row["method"],
        "seeds": row["seeds_other"],
        "seeds_other": row["seeds"],
        "difference": -row["difference"],
        "difference_low": -row["difference_high"],
        "difference_high": -row["difference_low"],
        "wins": row["losses"],
        "losses": row["wins"],
        "verdict": opposite.get(row["verdict"], row["verdict"]),
    }


def chosen(rows: list[dict[str, Any]], wishes: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """The rows that have what is wished for; raises ReportError where none has."""
    from prunebench.report import ReportError

    left = rows
    for name, values in wishes.items():
        known_values = sorted({row[name] for row in left})
        left = [row for row in left if row[name] in values]
        if not left:
            listed = one_line(", ".join(known_values), 300)
            raise ReportError(f"no pair has {name}={','.join(values)}; there are: {listed}")
    return left


def one_pair(row: Mapping[str, Any]) -> dict[str, str]:
    """A pair as it is shown."""
    interval = f"{row['difference_low']:+.3f} to {row['difference_high']:+.3f}"
    missing = row["difference_low"] != row["difference_low"]
    return {
        "pair": f"{one_line(row['method'], NAME)} - {one_line(row['other'], NAME)}",
        **where(row),
        "verdict": row["verdict"],
        "difference": f"{row['difference']:+.3f}",
        "interval": "-" if missing else interval,
        "wins": f"{row['wins']:.0f}:{row['losses']:.0f}",
        "n": f"{row['n']:.0f}",
        "p": f"{row['p']:.3g}",
        "Holm": f"{row['p_holm']:.3g} of {row['family']:.0f}",
        "smallest": f"{row['smallest']:.3f}",
        "test": row["test"],
    }


def where(row: Mapping[str, Any]) -> dict[str, str]:
    """On what a pair was compared."""
    kind = row["budget_kind"]
    prefix = f"{kind}:" if kind not in ("", "mean") else ""
    return {
        "model": one_line(row["model"], NAME),
        "task": one_line(row["task"], NAME),
        "budget": one_line(f"{prefix}{row['budget']}", NAME),
    }


def standings(rows: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """A line a method: how many others it is better and worse than, the best first."""
    groups: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault(tuple(where(row).values()), {}).setdefault(row["method"], []).append(row)
    for group in groups.values():
        lines = [standing(of_method) for of_method in group.values()]
        yield from sorted(
            lines, key=lambda line: int(line["worse than"]) - int(line["better than"])
        )


def standing(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The line of a method, from all its pairs at one budget."""
    verdicts = Counter(row["verdict"] for row in rows)
    return {
        "method": one_line(rows[0]["method"], NAME),
        **where(rows[0]),
        "better than": str(verdicts["better"]),
        "worse than": str(verdicts["worse"]),
        "not told from": str(verdicts["no difference shown"]),
        "mean difference": f"{fmean(row['difference'] for row in rows):+.3f}",
        "smallest": f"{median(row['smallest'] for row in rows):.3f}",
    }

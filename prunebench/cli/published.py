"""The command `published`: what papers print about a method, never as one number."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from prunebench.border.text import one_line
from prunebench.cli.parser import Commands, add_command

if TYPE_CHECKING:
    import pandas as pd

    from prunebench.published import Entry

COLUMNS = {"model": "model", "method": "method", "task": "benchmark", "budget": "budget"}
"""What can be asked for, and the table's column of it."""


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "published",
        published,
        "Print what papers print about methods: own value, others' range, why they may differ.",
        examples=(
            "prunebench published model=llava-1.5-7b method=fastv task=pope",
            "prunebench published model=qwen2.5-vl-7b task=textvqa_val budget=0.1",
        ),
    )
    parser.add_argument(
        "filters",
        nargs="+",
        metavar="key=value",
        help="model, method, task or budget (tokens, or a share below 1)",
    )
    parser.add_argument("--json", action="store_true", help="as data, with nothing left out")


def published(arguments: argparse.Namespace) -> int:
    """Print an entry for every method, budget and benchmark that is asked for."""
    from prunebench.published import entries
    from prunebench.published.table import PublishedError

    answers = list(entries(chosen(arguments.filters)))
    if not answers:
        raise PublishedError(
            f"no table prints {one_line(' '.join(arguments.filters), 120)} together; "
            "ask for fewer of them"
        )
    if arguments.json:
        print(json.dumps([asdict(entry) for entry in answers], indent=2))
        return 0
    for entry in answers:
        for line in lines(entry):
            print(line)
    return 0


def chosen(words: Sequence[str]) -> pd.DataFrame:
    """The rows that are asked for; raises PublishedError."""
    from prunebench.published import known, model_name, read
    from prunebench.published.table import PublishedError

    rows = read()
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in COLUMNS:
            listed = ", ".join(COLUMNS)
            raise PublishedError(f"{one_line(word, 60)} is no key=value of {listed}")
        if key == "budget":
            try:
                rows = rows[rows["budget"] == float(value)]
            except ValueError:
                raise PublishedError(f"budget {one_line(value, 60)!r} is no number") from None
            continue
        name = model_name(value) if key == "model" else value
        rows = rows[rows[COLUMNS[key]] == known(COLUMNS[key], name)]
    return rows


def lines(entry: Entry) -> Iterator[str]:
    """An entry as it is shown."""
    what = {"tokens": "tokens", "share": "of the tokens", "flops_share": "of the FLOPs"}
    trained = ", trained for it" if entry.finetuned else ""
    yield (
        f"{entry.model} {entry.method} {entry.benchmark} ({entry.metric}) at {entry.budget:g} "
        f"{what.get(entry.budget_kind, entry.budget_kind)}{trained}"
    )
    yield f"    own paper: {values(entry.own) or 'prints none'}{shares(entry.own_shares)}"
    yield f"    others: {others(entry.others) or 'print none'}{shares(entry.other_shares)}"
    if entry.why:
        yield f"    may differ by: {'; '.join(entry.why)}"


def values(numbers: Sequence[float]) -> str:
    """Distinct numbers in a row."""
    return ", ".join(f"{number:g}" for number in numbers)


def others(numbers: Sequence[float]) -> str:
    """The range and the number of sources, and how often the commonest value was printed."""
    if len(numbers) < 2:
        return f"{values(numbers)} (1 source)" if numbers else ""
    text = f"{numbers[0]:g} to {numbers[-1]:g} ({len(numbers)} sources"
    value, times = Counter(numbers).most_common(1)[0]
    return f"{text}, {value:g} in {times})" if times > 1 else f"{text})"


def shares(numbers: Sequence[float]) -> str:
    """The same in percent of each table's own unpruned value."""
    if not numbers:
        return ""
    low, high = f"{numbers[0]:.1f}", f"{numbers[-1]:.1f}"
    return f"; {low} % of unpruned" if low == high else f"; {low} to {high} % of unpruned"

"""Screen: tables as wide as whoever reads them can see, and libraries kept from talking."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.border.text import clean

PIPE = 200
"""Columns for a file or a pipe whose reader says nothing of its own by COLUMNS."""

BOUNDLESS = 10_000
"""Columns at which nothing of a list is wrapped: a program that reads it wants a line a row."""

GAP = 2
"""Columns between two columns of a table."""

INDENT = 4


def print_rich(renderable: Any) -> None:
    """Print something of rich's at the width of the reader."""
    Console(width=width()).print(renderable)


def width(pipe: int = PIPE) -> int:
    """Columns of the terminal, or those that COLUMNS says; `pipe` where there is neither."""
    console = Console()
    if console.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return console.width
    return pipe


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows that have the same columns, the first of which names the row.

    Where the longest words do not fit side by side, a row becomes its name with its values
    beneath, each behind its column, so that no word is cut. In a pipe a row is one line, unless
    COLUMNS says that it is read in so many.
    """
    console = Console(width=width(BOUNDLESS))
    if not fits(rows):
        for row in rows:
            print_record(console, row)
        return
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for column, longest in longest_words(rows).items():
        table.add_column(column, min_width=longest, overflow="fold")
    for row in rows:
        name, *values = (Text(text_of(value)) for value in row.values())
        name.stylize("bold")
        table.add_row(name, *values)
    console.print(table)


def print_record(console: Console, row: Mapping[str, Any]) -> None:
    """Print one row as its name and, beneath, its values with what each of them is."""
    (_, name), *values = row.items()
    console.print(Text(text_of(name), style="bold"))
    for column, value in values:
        text = text_of(value)
        if not text:
            continue
        for line in Text(f"{column}: {text}").wrap(console, console.width - INDENT):
            console.print(Text(" " * INDENT) + line, soft_wrap=True)


def fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the longest words of all columns fit side by side."""
    longest = longest_words(rows)
    return sum(longest.values()) + GAP * len(longest) <= width(BOUNDLESS)


def longest_words(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Columns on the screen of the longest word of every column, its title included."""
    longest: dict[str, int] = {}
    for row in rows:
        for column, value in row.items():
            words = [column, *text_of(value).split()]
            longest[column] = max(longest.get(column, 0), *map(cell_len, words))
    return longest


def text_of(value: Any) -> str:
    """A value as text that does nothing to a terminal."""
    return "" if value is None else clean(str(value))


def quiet_libraries() -> None:
    """Keep what libraries say out of the progress display."""
    warnings.filterwarnings("ignore")
    from transformers.utils import logging as transformers_logging

    # a failed fetch ends in one line, not in its retries
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # kernels of its own that a CPU may be without are no news
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

"""Parser: the words of a command, its help, and what is wrong with them in one line."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from prunebench.border.text import one_line
from prunebench.cli.ending import USAGE
from prunebench.run.keys import Key

Commands = Any  # argparse's own class for subcommands is private
Run = Callable[[argparse.Namespace], int]
"""What a command does; it gives the exit code."""

INDENT = 22
"""Columns before what is said of a key."""


class Parser(argparse.ArgumentParser):
    """argparse's, with errors in one line, and the keys of a command and examples in its help.

    `keys` is asked when help is asked for, and not before; `more` are lines behind the examples.
    """

    def __init__(
        self,
        *args: Any,
        keys: Callable[[], Sequence[Key]] | None = None,
        examples: Sequence[str] = (),
        more: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.keys = keys
        self.examples = examples
        self.more = more

    def error(self, message: str) -> NoReturn:
        """End with one line that says what is wrong."""
        what = one_line(message, 240, tail=100)
        self.exit(USAGE, f"prunebench: error: {what}; see {self.prog} --help\n")

    def format_help(self) -> str:
        """argparse's help, then the keys, then the examples."""
        parts = [super().format_help()]
        if self.keys is not None:
            # as wide as argparse makes its own part
            width = shutil.get_terminal_size().columns - 2
            lines = ["keys, written key=value:"]
            for key in self.keys():
                lines += key_lines(key, width)
            parts.append("\n".join(lines) + "\n")
        if self.examples:
            title = "example:" if len(self.examples) == 1 else "examples:"
            parts.append("\n".join([title, *(f"  {line}" for line in self.examples)]) + "\n")
        if self.more:
            parts.append("\n".join(self.more) + "\n")
        return "\n".join(parts)


def add_command(
    commands: Commands,
    name: str,
    run: Run,
    about: str,
    *,
    examples: Sequence[str],
    keys: Callable[[], Sequence[Key]] | None = None,
    kept: str = "",
) -> Parser:
    """A command and its parser.

    `kept` says what of its work is kept where it is stopped, and the same command goes on from it.
    """
    parser: Parser = commands.add_parser(
        name, help=about, description=about, keys=keys, examples=examples
    )
    parser.set_defaults(run=run, kept=kept)
    return parser


def key_lines(key: Key, width: int) -> list[str]:
    """What help says of a key: its meaning, then its type, default and an example."""
    facts = [key.type, f"default {key.default or 'none'}"]
    if key.example:
        facts.append(f"such as {key.example}")
    texts = [text for text in (key.what, "; ".join(facts)) if text]
    lines: list[str] = []
    for text in texts:
        lines += textwrap.wrap(
            text, max(width, 2 * INDENT) - INDENT, break_long_words=False, break_on_hyphens=False
        )
    label = f"  {key.name}"
    if len(label) >= INDENT:  # a long name has a line of its own
        lines.insert(0, "")
    labels = [label] + [""] * (len(lines) - 1)
    pairs = zip(labels, lines, strict=True)
    return [f"{name:{INDENT}}{line}".rstrip() for name, line in pairs]

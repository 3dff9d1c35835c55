"""Commands: all of them, in the order in which help lists them."""

from __future__ import annotations

import argparse

import prunebench
from prunebench.cli import (
    authors,
    bench,
    best,
    compare,
    cost,
    export,
    lists,
    merge,
    pairs,
    profile,
    published,
    reporting,
    show,
    sweep,
    train,
)
from prunebench.cli.parser import Parser

ROOMS = (
    sweep,
    reporting,
    merge,
    export,
    compare,
    pairs,
    published,
    best,
    bench,
    cost,
    lists,
    show,
    profile,
    authors,
    train,
)
"""Where the commands are, in the order in which help names them."""

EXAMPLES = (
    "prunebench sweep methods=fastv,divprune budgets=0.5,0.25 limit=50",
    "prunebench list methods",
    "prunebench sweep --help",
)

COMPLETION = (
    "completion of commands, keys and names, to be turned on in a shell's start file:",
    '  bash, zsh   eval "$(register-python-argcomplete prunebench)"',
    "  fish        register-python-argcomplete --shell fish prunebench | source",
)


def make_parser() -> Parser:
    """The parser of the program; without a command it prints its help."""
    parser = Parser(
        prog="prunebench",
        description="Compare visual-token pruning methods honestly.",
        examples=EXAMPLES,
        more=COMPLETION,
    )
    version = f"prunebench {prunebench.__version__}"
    parser.add_argument("--version", action="version", version=version)

    def print_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=print_help, kept="")
    commands = parser.add_subparsers(metavar="COMMAND")
    for room in ROOMS:
        room.add_commands(commands)
    return parser

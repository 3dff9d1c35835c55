"""The commands for authors of methods: `new`, `check` and `verify`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from prunebench.border.text import one_line
from prunebench.cli import lists
from prunebench.cli.completion import completed_by, files
from prunebench.cli.ending import FAILED
from prunebench.cli.parser import Commands, add_command


def add_commands(commands: Commands) -> None:
    """Add them to the parser."""
    parser = add_command(
        commands,
        "check",
        check,
        "Run the conformance checks on a method's file.",
        examples=("prunebench check ./mine.py",),
    )
    file = parser.add_argument("file", type=Path, metavar="FILE", help="a file with one method")
    completed_by(file, files("py"))
    parser = add_command(
        commands,
        "new",
        new,
        "Write the file to start a method from.",
        examples=("prunebench new mine",),
    )
    parser.add_argument("name", metavar="NAME", help="the method's name; its file is NAME.py here")
    parser = add_command(
        commands,
        "verify",
        verify,
        "Compare the methods with vectors from official code.",
        examples=("prunebench verify tests/golden",),
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="FOLDER",
        help="where the vectors lie; left out, the checkout's own",
    )
    parser.add_argument(
        "--translators",
        type=Path,
        metavar="FOLDER",
        help="METHOD.py files that translate them; left out, the checkout's own",
    )
    parser.add_argument("--json", action="store_true", help="every comparison, as data")
    parser.add_argument(
        "--record", action="store_true", help="keep the counts that `list methods` shows"
    )


def check(arguments: argparse.Namespace) -> int:
    """Print a line a check."""
    from prunebench.testing import check_file

    checks = check_file(arguments.file)
    for one in checks:
        mark = "ok  " if one.ok else "FAIL"
        print(f"{mark} {one.name}: {one_line(one.message, 1000)}")
    return 0 if all(one.ok for one in checks) else FAILED


def new(arguments: argparse.Namespace) -> int:
    """Write a method's file into the working directory, and say what to do with it."""
    from prunebench.testing import new_file

    file = new_file(arguments.name, Path.cwd()).name
    print(f"{file} is written; next: prunebench check {file}, prunebench sweep methods=./{file}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Print where a method differs from its vectors, and how many agree."""
    from prunebench.testing import verified
    from prunebench.testing import verify as verifying

    comparisons = verifying.verify(arguments.folder, translators=arguments.translators)
    if arguments.record:
        verified.write_verified(comparisons)
        lists.keep_method_rows()
    if arguments.json:
        print(json.dumps([asdict(comparison) for comparison in comparisons], indent=2))
    else:
        for one in comparisons:
            if not one.agree:
                about = f"{one.method} {one.file} {one.field}: {one.difference}"
                print(f"FAIL {one_line(about, 1000)}")
        for method, (agree, count) in verifying.summary(comparisons).items():
            print(f"{method}: verified {agree}/{count}")
    return 0 if all(comparison.agree for comparison in comparisons) else FAILED

"""The commands for authors of methods: `new`, `check` and `verify`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from prunebench.border.text import one_line
from prunebench.cli import lists
from prunebench.cli.completion import any_of, completed_by, files, key_values
from prunebench.cli.ending import FAILED
from prunebench.cli.parser import Commands, add_command
from prunebench.cli.sweep import grid_keys, grid_of


def add_commands(commands: Commands) -> None:
    """Add them to the parser."""
    parser = add_command(
        commands,
        "check",
        check,
        "Run the conformance checks on a method, or try out the tasks of a grid.",
        examples=(
            "prunebench check ./mine.py",
            "prunebench check fastervlm+pyramiddrop",
            "prunebench check tasks=gqa,pope model=qwen2.5-vl-7b",
        ),
    )
    words = parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE | METHOD | GRID.yaml | key=value",
        help="a file with one method, or a method's name; or what `sweep` takes: its tasks are "
        "loaded, their first images read and made-up answers scored, before hours of answers",
    )
    completed_by(words, any_of(files("py", "yaml", "yml"), key_values(grid_keys)))
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
    """Print a line a check, or a line a task."""
    words: list[str] = arguments.words
    if len(words) > 1 or "=" in words[0] or words[0].endswith((".yaml", ".yml")):
        return check_tasks(words)
    from prunebench.testing.conformance import check_file, check_named

    file = Path(words[0])
    is_file = file.suffix == ".py" or "/" in words[0] or file.exists()
    checks = check_file(file) if is_file else check_named(words[0])
    for one in checks:
        mark = "ok  " if one.ok else "FAIL"
        print(f"{mark} {one.name}: {one_line(one.message, 1000)}")
    return 0 if all(one.ok for one in checks) else FAILED


def check_tasks(words: list[str]) -> int:
    """Print a line a model and a task of a grid."""
    from prunebench.cli.screen import quiet_libraries

    grid = grid_of(words)
    quiet_libraries()
    from prunebench.run.trial import tried

    all_ok = True
    for trial in tried(grid):
        mark = "ok  " if trial.ok else "FAIL"
        print(f"{mark} {one_line(trial.line, 1000)}", flush=True)
        all_ok = all_ok and trial.ok
    return 0 if all_ok else FAILED


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
            print(f"{method}: {agree} of {count} vectors agree")
    return 0 if all(comparison.agree for comparison in comparisons) else FAILED

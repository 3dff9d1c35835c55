"""The command `sweep`: run a study, and fold its cells into tables, figures and a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunebench.border.late import uncollected
from prunebench.border.text import clean, number_of, one_line
from prunebench.cli.completion import any_of, completed_by, files, key_values
from prunebench.cli.ending import FAILED, say
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key

if TYPE_CHECKING:
    from prunebench.run.question import Grid


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "sweep",
        sweep,
        "Run a grid of models, methods, budgets and tasks; the same command again goes on.",
        examples=(
            "prunebench sweep model=qwen2.5-vl methods=fastv,divprune tasks=gqa limit=500",
            "prunebench sweep models=qwen2.5-vl-7b,qwen3-vl-8b methods=divprune tasks=pope",
            "prunebench sweep study.yaml fastv.layer=3",
        ),
        keys=grid_keys,
        kept="finished samples are kept",
    )
    words = parser.add_argument(
        "grid",
        nargs="*",
        metavar="GRID.yaml | key=value",
        help="a grid file, options on top of it, METHOD.SETTING=value for a method's own settings",
    )
    completed_by(words, any_of(files("yaml", "yml"), key_values(grid_keys)))


def grid_keys() -> Sequence[Key]:
    """The keys of a grid."""
    from prunebench.run import grid

    return grid.keys()


def grid_of(words: Sequence[str]) -> Grid:
    """The grid that the words of a command mean, a file at most and options; raises GridError."""
    from prunebench.run import grid as grids

    grid_files = [word for word in words if "=" not in word]
    if len(grid_files) > 1:
        names = ", ".join(grid_files[:3])
        raise grids.GridError(f"one grid file at most, got {names}; options are written key=value")
    file = Path(grid_files[0]) if grid_files else None
    return grids.load(file, [word for word in words if "=" in word])


def sweep(arguments: argparse.Namespace) -> int:
    """Run or go on with a study, and show its leaderboard."""
    from rich.console import Console

    from prunebench.cli.bars import SweepBar
    from prunebench.cli.reporting import page_of
    from prunebench.cli.screen import print_rich, quiet_libraries, width

    with uncollected():
        grid = grid_of(arguments.grid)
        quiet_libraries()
        from prunebench import benchmarks, report
        from prunebench.run import runner

        benchmarks.prepare()

    console = Console(stderr=True)
    with SweepBar(console, arguments.check) as bar:
        outcome = runner.sweep(grid, bar)
        bar.doing("folding tables and figures")
        outputs = report.build(outcome.folder, whole=False)
        page = page_of(outputs)
    print_rich(report.terminal(outcome.folder, width()))
    for warning in (*outputs.warnings, *page.warnings):
        note = f"note: {one_line(warning, 1000)}"
        console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
    for line in outputs.left_out:
        say(line)
    parts = [outputs.leaderboard.name, outputs.metrics.name]
    if outputs.figures:
        parts.append(number_of(len(outputs.figures), "figure"))
    parts.append(page.path.name)
    print(f"{clean(str(outcome.folder))}: {', '.join(parts)}")
    if outcome.failed:
        count = f"{len(outcome.failed)} of {len(outcome.statuses)} cells failed"
        say(one_line(f"prunebench: {count}: {', '.join(outcome.failed)}"))
        return FAILED
    return 0

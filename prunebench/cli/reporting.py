"""The command `report`: fold a study's cells into tables, figures and a page again, and on request
into figures and tables for a paper.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunebench.border.text import clean, one_line
from prunebench.cli.completion import completed_by, key_values
from prunebench.cli.ending import FAILED, say
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, keys_of

if TYPE_CHECKING:
    from prunebench.page import Page
    from prunebench.report import Report
    from prunebench.report.paper import Wish
    from prunebench.run.report_keys import ReportKeys


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "report",
        report,
        "Fold a study's cells into tables, figures and a page again.",
        examples=(
            "prunebench report results/scratch/tiny-qwen2.5-vl-1a2b3c4d",
            "prunebench report results/mine pictures=12 compare=results/before",
            "prunebench report results/mine paper=figures methods=fastv,divprune format=pdf",
        ),
        keys=report_keys,
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    words = parser.add_argument("options", nargs="*", metavar="key=value", help="options")
    completed_by(words, key_values(report_keys))


def report_keys() -> Sequence[Key]:
    """The keys of a report."""
    from prunebench.run.report_keys import ReportKeys

    return keys_of(ReportKeys)


def report(arguments: argparse.Namespace) -> int:
    """Build a study's tables, figures and page anew, and show its leaderboard."""
    from prunebench import report as reports
    from prunebench.cli.screen import print_rich, width
    from prunebench.run.report_keys import read

    keys = read(arguments.options)
    wish = None if keys.paper is None else wish_of(keys)
    # pictures, another study and a paper ask the cells again
    options = (keys.pictures, keys.compare, wish)
    outputs = reports.build(arguments.study, whole=any(one is not None for one in options))
    notes = list(outputs.warnings)
    if keys.pictures is not None:
        draw_pictures(outputs, keys.pictures, notes.append)
    page = page_of(outputs, None if keys.compare is None else Path(keys.compare))
    print_rich(reports.terminal(arguments.study, width()))
    files = [page.path]
    if wish is not None:
        files += paper_of(outputs, wish, Path(str(keys.paper)))
    for file in files:
        # beside the table, which a program may read
        say(f"wrote {clean(str(file))}")
    for line in (*outputs.left_out, *page.left_out):
        say(line)
    notes += page.warnings
    for note in notes:
        say(f"note: {one_line(note, 1000)}")
    return FAILED if notes else 0


def page_of(outputs: Report, other: Path | None = None) -> Page:
    """Write the page of a study that was folded, beside another one where that is named."""
    from prunebench import page
    from prunebench.cli import about

    return page.write(outputs.study, outputs.records, about.of_cells(outputs.records), other)


def draw_pictures(outputs: Report, count: int, note: Callable[[str], None]) -> None:
    """Run some of a study's questions again, for their images and the tokens that are kept."""
    from prunebench import page
    from prunebench.cli.screen import quiet_libraries

    quiet_libraries()
    from prunebench.run import pictures

    choice = pictures.Choice(page.chosen(outputs.records), count)
    pictures.write(outputs.study, outputs.records, choice, say, note)


def wish_of(keys: ReportKeys) -> Wish:
    """What is wanted for a paper; raises ReportError."""
    from prunebench.report import paper

    return paper.Wish(
        methods=tuple(keys.methods),
        rename=paper.renamed(keys.rename),
        order=keys.order,
        format=keys.format,
        size=paper.sized(keys.size),
    )


def paper_of(outputs: Report, wish: Wish, folder: Path) -> list[Path]:
    """Write figures and tables for a paper."""
    from prunebench.report import leaderboard, paper

    return paper.write(leaderboard.load(outputs.leaderboard), outputs.records, wish, folder)

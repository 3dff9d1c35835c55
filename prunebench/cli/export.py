"""The command `export`: a study as a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunebench.border.bounds import path
from prunebench.border.text import clean, one_line
from prunebench.cli.completion import add_options
from prunebench.cli.ending import FAILED, say
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, key, keys_of


@dataclass
class ExportKeys:
    """What `prunebench export` takes beside the study."""

    out: str | None = key(None, "The folder of the data set.", "out=build/ours")
    license: str | None = key(
        None,
        "The licence that its card names, by its identifier on the hub; null: none.",
        "license=cc-by-4.0",
    )


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "export",
        export,
        "Write a study as a data set with a card: its cells and its answers as parquet files.",
        examples=("prunebench export results/tiny-qwen2.5-vl out=build/dataset",),
        keys=export_keys,
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder")
    add_options(parser, export_keys)


def export_keys() -> Sequence[Key]:
    """The keys of an export."""
    return keys_of(ExportKeys)


def export(arguments: argparse.Namespace) -> int:
    """Write the data set, and name its files."""
    from prunebench.report import ReportError
    from prunebench.report import export as exporting
    from prunebench.run import options

    keys = options.filled(ExportKeys, arguments.options)
    if keys.out is None:
        raise ReportError("out is missing; name the folder of the data set: out=build/dataset")
    files, warnings = exporting.write(arguments.study, path("out", keys.out), keys.license or "")
    for file in files:
        print(clean(str(file)))
    for warning in warnings:
        say(f"note: {one_line(warning, 400)}")
    return FAILED if warnings else 0

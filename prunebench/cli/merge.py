"""The command `merge`: studies of several people as one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunebench.border.bounds import path
from prunebench.border.text import clean, number_of, one_line
from prunebench.cli.completion import any_of, completed_by, files, key_values
from prunebench.cli.ending import FAILED, say
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, key, keys_of


@dataclass
class MergeKeys:
    """What `prunebench merge` takes beside the studies."""

    out: str | None = key(
        None, "The folder of the merged study; one that is there is added to.", "out=results/ours"
    )


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "merge",
        merge,
        "Join studies of several people into one, cell by cell.",
        examples=("prunebench merge results/hers results/his out=results/ours",),
        keys=merge_keys,
    )
    words = parser.add_argument(
        "words", nargs="+", metavar="STUDY", help="the folders of studies, and out=FOLDER"
    )
    completed_by(words, any_of(files(), key_values(merge_keys)))


def merge_keys() -> Sequence[Key]:
    """The keys of a merge."""
    return keys_of(MergeKeys)


def merge(arguments: argparse.Namespace) -> int:
    """Write the merged study, and say what it holds."""
    from prunebench.run import merge as merging
    from prunebench.run import options
    from prunebench.run.merge import MergeError

    studies = [word for word in arguments.words if "=" not in word or Path(word).is_dir()]
    words = [word for word in arguments.words if word not in studies]
    keys = options.filled(MergeKeys, words)
    if keys.out is None:
        raise MergeError("out is missing; name the folder of the merged study: out=results/ours")
    merged = merging.merge([path("study", word) for word in studies], path("out", keys.out))
    for note in merged.notes:
        say(f"note: {one_line(note, 400)}")
    shared = f", {merged.shared} of them more than once" if merged.shared else ""
    print(f"{number_of(merged.cells, 'cell')} of {merged.studies} studies{shared}")
    print(clean(f"prunebench report {merged.folder}"))
    return FAILED if merged.notes else 0

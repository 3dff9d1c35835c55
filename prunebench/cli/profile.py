"""The command `profile`: from which layer on a model can do without its visual tokens."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from prunebench.border.bounds import path
from prunebench.border.text import clean, percent
from prunebench.cli.completion import completed_by, key_values
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, keys_of


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "profile",
        profile,
        "Measure from which layer on a model can do without its visual tokens.",
        examples=("prunebench profile model=tiny-qwen2.5-vl task=scenes limit=200",),
        keys=profile_keys,
    )
    words = parser.add_argument("options", nargs="*", metavar="key=value", help="options")
    completed_by(words, key_values(profile_keys))


def profile_keys() -> Sequence[Key]:
    """The keys of a profile."""
    from prunebench.run.profile import ProfileKeys

    return keys_of(ProfileKeys)


def profile(arguments: argparse.Namespace) -> int:
    """Print a line a layer, what a late method can afford, and where table and figure lie."""
    from prunebench.cli.screen import quiet_libraries
    from prunebench.report.profile import write
    from prunebench.run.profiler import profile as measure
    from prunebench.study.profile import ENOUGH

    quiet_libraries()
    result, out = measure(arguments.options)
    print("without visual tokens before layer: score, attention on the evidence in the one before")
    for level in result.levels:
        attention = "" if level.on_evidence is None else f"  {level.on_evidence:.2f}"
        name = "none" if level.before == result.layers else str(level.before)
        print(f"{name:>5}  {level.score.value:.3f}{attention}")
    full = result.levels[-1].score.value
    print(
        f"from layer {result.affordable} of {result.layers} on the model can do without any visual "
        f"token, at {percent(ENOUGH)} of {full:.3f}: a method that decides later decides nothing"
    )
    for file in write(result, path("out", out)):
        print(clean(str(file)))
    return 0

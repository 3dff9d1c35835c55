"""The command `show`: draw the tokens that a method keeps over an image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from prunebench.border.text import clean
from prunebench.cli.completion import add_options
from prunebench.cli.ending import say
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, keys_of


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "show",
        show,
        "Draw the kept tokens over an image.",
        examples=("prunebench show method=fastv,divprune budget=0.25 image=photo.jpg",),
        keys=view_keys,
    )
    add_options(parser, view_keys, "options, METHOD.SETTING=value for a method's own settings")


def view_keys() -> Sequence[Key]:
    """The keys of a picture."""
    from prunebench.run.view import View

    return keys_of(View)


def show(arguments: argparse.Namespace) -> int:
    """Draw one picture of what every method keeps and answers, and print where it lies."""
    from prunebench.cli.screen import quiet_libraries
    from prunebench.report.overlay import Strip, draw
    from prunebench.run.show import picture

    quiet_libraries()
    view = picture(arguments.options)
    strips = []
    for one in view.strips:
        answer = f"→ {one.answer}"
        strips.append(
            Strip(one.image, one.masks, one.captions, one.name, answer, one.right, one.boxes)
        )
    for name, reason in view.left_out.items():
        say(clean(f"note: {name} is not shown: {reason}"))
    path = draw(strips, view.out, view.title)
    print(clean(str(path)))
    return 0

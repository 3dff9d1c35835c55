"""The command line; the only room that prints.

`main` runs one command. A file of this room holds the commands of one purpose; what they need is
imported when they run, so that help and completion do not wait for torch.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from prunebench.cli.commands import make_parser
from prunebench.cli.completion import complete
from prunebench.cli.ending import STORAGE, end_by_error, end_by_signal
from prunebench.cli.signals import Signals


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code.

    What the project knows how to name ends in one line; a bug of its own ends in its traceback.
    Only argparse leaves by SystemExit; one that a plug-in raises is a failure.
    """
    signals = Signals()
    arguments: argparse.Namespace | None = None
    try:
        signals.catch()  # before anything heavy is imported
        escape_what_cannot_be_printed()
        parser = make_parser()
        complete(parser)
        arguments = parser.parse_args(argv)
        arguments.check = signals.check
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except BaseException as error:
        if isinstance(error, SystemExit) and arguments is None:
            raise
        if signals.ended_by(error):
            signals.ignore()
            kept = "" if arguments is None else arguments.kept
            return end_by_signal(signals.number or signal.SIGINT, kept)
        return end_by_error(error)
    finally:
        signals.release()


def escape_what_cannot_be_printed() -> None:
    """Text that the terminal's encoding lacks is escaped; it ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


__all__ = ["STORAGE", "main"]

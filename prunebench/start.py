"""Start: the program's first steps, so that control-C before the command line is there ends in a
line as well.
"""
# PYTHON_ARGCOMPLETE_OK: shells that complete every such program may ask this one

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """What the `prunebench` script calls."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from prunebench.cli import main as command

    return command(sys.argv[1:])


def _leave(number: int, _: object) -> None:
    """Nothing was begun yet, so there is nothing to put in order."""
    os.write(2, b"prunebench: interrupted\n")
    os._exit(128 + number)

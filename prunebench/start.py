"""Start: the program's first steps, so that control-C before the command line is there ends in a
line as well.
"""
# PYTHON_ARGCOMPLETE_OK: shells that complete every such program may ask this one

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def main() -> int:
    """What the `prunebench` script calls."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from prunebench.cli import main as command

    code = command(sys.argv[1:])
    if "torch" in sys.modules and threading.active_count() == _daemons() + 1:
        _end(code)
    return code


def _daemons() -> int:
    """How many threads there are that nobody waits for as the process ends."""
    return sum(thread.daemon for thread in threading.enumerate())


def _end(code: int) -> NoReturn:
    """End the process without taking apart what it holds: of torch and transformers that is a
    million objects, which takes more than a second. What was to be done at the end is done.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _leave(number: int, _: object) -> None:
    """Nothing was begun yet, so there is nothing to put in order."""
    os.write(2, b"prunebench: interrupted\n")
    os._exit(128 + number)

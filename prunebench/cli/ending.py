"""Ending: what ended a command, as one line for whoever started it and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import prunebench
from prunebench.border.text import clean, message, one_line

DENIED = (errno.EACCES, errno.EPERM)
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, *DENIED)
"""What the disk says when it takes no more."""

FAILED, USAGE = 1, 2
"""Exit codes: something failed and says so in the results; a request that cannot be served."""

STOPPED = 128
"""Exit code of a program that a signal ended, less the signal's number: 130 for control-C, 143 for
SIGTERM.
"""

PROJECT = prunebench.__name__


def end_by_signal(number: int, kept: str) -> int:
    """Say that a signal ended the command and what of its work is `kept`; gives the exit code."""
    name = signal.Signals(number).name
    what = "interrupted" if number == signal.SIGINT else f"stopped by {name}"
    if kept:
        what += f"; {kept}, and the same command goes on from here"
    say(f"{PROJECT}: {what}")
    return STOPPED + number


def end_by_error(error: BaseException) -> int:
    """Say in one line what ended a command; gives its exit code.

    An error that no one has a line for is a bug of our own: it is raised again, with its traceback.
    """
    # rich ends the program where its output breaks off
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(cause, BrokenPipeError):  # whoever read the output has seen enough
        with suppress(OSError, ValueError):
            # Python flushes stdout once more as it exits, and would complain of the pipe again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STOPPED + signal.SIGPIPE
    if isinstance(error, OSError):
        return _end_by_disk(error)
    # a ValueError of ours tells the user what to do; any other is a bug
    if isinstance(error, ValueError) and _package(type(error).__module__) == PROJECT:
        return fail(message(error), int(getattr(error, "code", USAGE)))
    if isinstance(error, ModuleNotFoundError) and _package(error.name or "") != PROJECT:
        way_out = f"pip install '{PROJECT}[eval]' brings what the commands need"
        return fail(f"the package {error.name} is missing; {way_out}", USAGE)
    # torch has its own error for a full GPU, and torch is not imported here
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = one_line(message(error), 150)
        return fail(f"out of memory: {what}; take a smaller model, batch or image", FAILED)
    if isinstance(error, Exception):
        raise error
    # what is left is SystemExit and its like, raised by a method or a library
    why = "as if the program were to end there; that is a failure of the code that did it"
    return fail(f"{_place(error)}, {why}", FAILED)


def fail(text: str, code: int) -> int:
    """Say what went wrong; gives the exit code."""
    say(f"{PROJECT}: error: {one_line(text, 280, tail=100)}")
    return code


def say(line: str) -> None:
    """To whoever started the program, if they are still there."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _end_by_disk(error: OSError) -> int:
    """What the disk or a path refused."""
    where = f" {clean(str(error.filename))}" if error.filename else ""
    reason = error.strerror or message(error)
    if error.errno in STORAGE:
        verb = "use" if error.errno in DENIED else "write"
        return fail(f"cannot {verb}{where}: {reason}; what is finished is kept", FAILED)
    if where:
        return fail(f"cannot use{where}: {reason}", USAGE)
    return fail(f"{type(error).__name__}: {reason}", USAGE)


def _package(module: str) -> str:
    """The package at the top of a dotted name."""
    return module.partition(".")[0]


def _place(error: BaseException) -> str:
    """What was raised, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = one_line(message(error), 60)
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return f"{type(error).__name__} ({reason}) was raised in {where}"

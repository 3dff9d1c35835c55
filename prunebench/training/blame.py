"""Blame: whatever a method's own code raises in training becomes one line that says where."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunebench.border.text import message, one_line
from prunebench.learning.folder import RunError
from prunebench.pruner import Pruner, Unsupported

PASSING = (KeyboardInterrupt, GeneratorExit, RunError, Unsupported)
"""Control-C passes as it is, and so do errors that say enough by themselves."""


@contextmanager
def blamed(name: str, doing: str, method: type[Pruner]) -> Iterator[None]:
    """Turn what a method's code raises, SystemExit too, into a RunError.

    It says what the code was doing, and the file and line.
    """
    try:
        yield
    except PASSING:
        raise
    except BaseException as error:
        text = one_line(message(error), 110)
        out_of_memory = isinstance(error, MemoryError) or "memory" in text
        hint = "; a smaller batch= takes less memory" if out_of_memory else ""
        place = _place(error, method)
        reason = f"{type(error).__name__}: {text} ({place})"
        raise RunError(f"{name}: {doing} failed with {reason}{hint}") from error


def _place(error: BaseException, method: type[Pruner]) -> str:
    """The file and line to look at: the last in the method's own file, or the last of all."""
    frames = list(traceback.extract_tb(error.__traceback__))
    try:
        home = inspect.getfile(method)
    except TypeError:  # a class typed at a prompt
        home = ""
    own_frames = [frame for frame in frames if frame.filename == home]
    last = (own_frames or frames)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"

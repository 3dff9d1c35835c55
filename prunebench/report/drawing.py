"""Drawing: the figures of a large study, drawn by two processes.

Figures take a few seconds, and as long again where there is one core alone. The other process
imports what draws while this one still reads cells.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunebench.study.cells import ReportError
from prunebench.study.readers import cores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Maker = Callable[[], "Figure"]

LEAST = 500
"""Cells of a study whose figures are worth the start of a process."""

HERE = frozenset({"by_type", "slices", "ranks"})
"""Figures that this process draws, which has their tables; about half of the work."""


@dataclass(frozen=True)
class Drawing:
    """A figure that was written, and what it leaves out."""

    path: Path
    note: str


@dataclass(frozen=True)
class Drawings:
    """What another process drew of the makers that it was given, or the error that it met."""

    drawings: Mapping[str, Drawing]
    error: ReportError | None = None


class Helper:
    """Another process that draws."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def begin(self, makers: Mapping[str, Maker], folder: Path, kind: str) -> None:
        """Let it draw these."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it ended; that it answers nothing says so
            pickle.dump((makers, folder, kind), self._process.stdin, protocol=5)
            self._process.stdin.close()

    def drawings(self) -> Mapping[str, Drawing] | None:
        """What it drew, None where it came to an end before; raises its ReportError."""
        assert self._process.stdout is not None
        try:
            answer: Drawings = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        if answer.error is not None:
            raise answer.error
        return answer.drawings


@contextmanager
def helper(cells: int) -> Iterator[Helper | None]:
    """Another process for the figures of a study of so many cells, None where it is not worth its
    start.
    """
    if cells < LEAST or cores() < 2:
        yield None
        return
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:
        try:
            yield Helper(process)
        finally:
            process.kill()


def serve() -> None:
    """Be that process."""
    from prunebench.report import figures

    try:
        makers, folder, kind = pickle.load(sys.stdin.buffer)
    except EOFError:  # nobody wants a figure
        return
    try:
        answer = Drawings(figures.made(makers, folder, kind))
    except ReportError as error:
        answer = Drawings({}, error)
    pickle.dump(answer, sys.stdout.buffer, protocol=5)
    sys.stdout.buffer.flush()


def together(
    makers: Mapping[str, Maker], folder: Path, kind: str, other: Helper | None
) -> dict[str, Drawing]:
    """The figures of these makers, by this process and the other one."""
    from prunebench.report import figures

    theirs = {name: make for name, make in makers.items() if other and name not in HERE}
    if other is not None:
        other.begin(theirs, folder, kind)
    own = {name: make for name, make in makers.items() if name not in theirs}
    drawings = dict(figures.made(own, folder, kind))
    if other is not None:
        of_other = other.drawings()
        # where that process ended there is still this one
        drawings |= figures.made(theirs, folder, kind) if of_other is None else of_other
    return {name: drawings[name] for name in makers if name in drawings}

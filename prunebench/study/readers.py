"""Readers: the cells of a large study, read by several processes at once.

Reading a cell is a file of JSON and one of Parquet, milliseconds of a processor each time. Readers
are programs of their own: a copy of this process would have its threads' locks, and a pool of
`multiprocessing` runs the caller's script again.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

FEW = 3000
"""Cells that one process has read before others would have begun."""

PART = 200
"""Cells that a reader hands over at a time."""

MOST = 8
"""Readers; more wait for the one process that takes over what they read."""


def count(folders: Sequence[Path]) -> int:
    """How many readers are worth their start; one reads here."""
    return 1 if len(folders) <= FEW else min(_cores(), MOST)


def read(folders: Sequence[Path], readers: int) -> Iterator[list[Any]]:
    """What `read_cell` gives for the folders, a part of them at a time and in their order; in place
    of a cell that cannot be read stands its ReportError. Raises OSError where a reader ends early.
    """
    parts = [folders[start : start + PART] for start in range(0, len(folders), PART)]
    with ExitStack() as stack:
        pipes = [stack.enter_context(_started(parts[one::readers])) for one in range(readers)]
        for number in range(len(parts)):
            try:
                with _uncollected():
                    cells = pickle.load(pipes[number % readers])
            except (EOFError, pickle.UnpicklingError):
                raise OSError("a process that read cells ended before it was done") from None
            yield cells


@contextmanager
def _started(parts: Sequence[Sequence[Path]]) -> Iterator[IO[bytes]]:
    """What a reader of these parts writes."""
    names = json.dumps([list(map(str, part)) for part in parts])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "prunebench.study.readers"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it ended; that it wrote nothing says so
                process.stdin.write(names.encode())
            with suppress(BrokenPipeError):
                process.stdin.close()
            yield process.stdout
        finally:
            # nothing where it is done; else nobody wants the rest
            process.kill()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for garbage among objects of which none is: that takes longer than making
    them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(read_cell: Callable[[Path], Any]) -> None:
    """Read the parts that stand on standard input, and write each as one pickle."""
    parts = json.load(sys.stdin)
    for part in parts:
        pickle.dump([read_cell(Path(name)) for name in part], sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    from prunebench.study.cells import read_or_fault

    main(read_or_fault)

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
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

FEW = 3000
"""Cells that one process has read before others would have begun."""

PART = 200
"""Cells that a reader hands over at a time."""

MOST = 8
"""Readers; more wait for the one process that takes over what they read."""

SIZE = struct.Struct(">Q")
"""What stands before an answer."""


CELLS = "prunebench.study.cells"
"""The module that reads cells."""


def count(folders: Sequence[Path]) -> int:
    """How many readers are worth their start; one reads here."""
    return 1 if len(folders) <= FEW else min(cores(), MOST)


def read(folders: Sequence[Path], readers: int) -> Iterator[list[Any]]:
    """What `read_cell` gives for the folders, a part of them at a time and in their order; in place
    of a cell that cannot be read stands its ReportError. Raises OSError where a reader ends early.
    """
    parts = [folders[start : start + PART] for start in range(0, len(folders), PART)]
    yield from answers(CELLS, parts, readers)


def answers(
    module: str, parts: Sequence[Sequence[Path]], readers: int, about: Any = None
) -> Iterator[Any]:
    """What a module says of every part of the folders, in their order: its function `serve`, which
    calls `main`, is run by so many processes; `about` is what each is told beside. Raises OSError
    where one of them ends early.
    """
    owners = _owners(parts, readers)
    with ExitStack() as stack:
        queues: list[SimpleQueue[bytes | None]] = []
        for one in range(readers):
            own = [part for part, owner in zip(parts, owners, strict=True) if owner == one]
            pipe = stack.enter_context(_started(module, own, about))
            # by a thread, or one reader would wait until what others say is wanted
            queues.append(SimpleQueue())
            Thread(target=_drain, args=(pipe, queues[one]), daemon=True).start()
        for owner in owners:
            data = queues[owner].get()
            if data is None:
                raise OSError("a process that read cells ended before it was done")
            with _uncollected():
                answer = pickle.loads(data)
            yield answer


def _owners(parts: Sequence[Sequence[Path]], readers: int) -> list[int]:
    """Which reader has each part: the one with the fewest folders so far."""
    loads = [0] * readers
    owners = []
    for part in parts:
        owner = loads.index(min(loads))
        loads[owner] += len(part)
        owners.append(owner)
    return owners


def _drain(pipe: IO[bytes], queue: SimpleQueue[bytes | None]) -> None:
    """Take what a reader writes, None at its end."""
    with suppress(ValueError):  # closed, for nobody wants the rest
        while head := pipe.read(SIZE.size):
            (size,) = SIZE.unpack(head) if len(head) == SIZE.size else (-1,)
            data = pipe.read(size) if size >= 0 else b""
            if len(data) != size:
                break
            queue.put(data)
    queue.put(None)


@contextmanager
def _started(module: str, parts: Sequence[Sequence[Path]], about: Any) -> Iterator[IO[bytes]]:
    """What a reader of these parts writes."""
    names = json.dumps([about, [list(map(str, part)) for part in parts]])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", f"from {module} import serve; serve()"]
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


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(answer: Callable[[list[Path], Any], Any]) -> None:
    """Read the parts that stand on standard input, and write the answer to each as one pickle
    behind its size.
    """
    about, parts = json.load(sys.stdin)
    gc.disable()
    for part in parts:
        data = pickle.dumps(answer(list(map(Path, part)), about), protocol=5)
        sys.stdout.buffer.write(SIZE.pack(len(data)))
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        del data
        gc.collect()

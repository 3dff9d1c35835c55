"""Limits: a bound on how long one sample may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prunebench.border.interruption import Interruption

AGAIN = 0.5
"""Seconds after which the alarm rings again, for code that swallowed the first."""


class Overdue(Interruption):
    """Something took longer than it may. It interrupts whatever runs, as control-C does, and passes
    where that passes.
    """


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise Overdue in the block once so many seconds have gone by; None means no bound.

    The bound interrupts Python code; a single call into a library is waited for. Raises
    RuntimeError outside the main thread, where the operating system delivers no alarm.
    """
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "a timeout works in the main thread alone; run the sweep there, or without timeout="
        )

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Overdue(f"took longer than timeout={seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        # the timer first: by default an alarm without our handler ends the process
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

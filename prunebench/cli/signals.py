"""Signals: control-C, SIGTERM and SIGHUP end a command in order, whatever code they arrive in."""

from __future__ import annotations

import atexit
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from prunebench.border.interruption import Interruption, raises_interruption

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

# Windows has no SIGHUP
NUMBERS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Stopped(Interruption):
    """The program is to end, by control-C or another signal of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """The signals as exceptions, from `catch` to `release`; `number` is that of the last one."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}
        self._unraisable = sys.unraisablehook

    def catch(self) -> None:
        """From now on raise Stopped where a signal arrives.

        Signals that whoever started the program wants ignored (nohup) stay ignored. Outside the
        main thread Python takes no handlers, and nothing is done.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        sys.unraisablehook = self._report_unraisable
        for number in NUMBERS:
            before = signal.getsignal(number)
            # None: a handler that C code set, which Python could not put back
            if before is not None and before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._stop)

    def check(self) -> None:
        """Raise again what a library's `except:` swallowed."""
        if self.number is not None:
            raise Stopped(self.number)

    def ended_by(self, error: BaseException) -> bool:
        """Whether a signal is why the command ended with that error.

        Where it came while a library was imported, it may come out as any other error.
        """
        if self.number is not None:
            return True
        # ==, not `is`: every access makes another bound method
        ours = signal.getsignal(signal.SIGINT) == self._stop
        return isinstance(error, KeyboardInterrupt) and not ours

    def ignore(self) -> None:
        """Nothing may come between the end and its message."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def release(self) -> None:
        """Put the handlers back that were there before.

        While the interpreter shuts down control-C has nothing left to interrupt, so it is ignored
        there: Python would answer with a traceback.
        """
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._before:
            sys.unraisablehook = self._unraisable
            # unregistered first: many commands in one process leave one entry
            atexit.unregister(_ignore_interrupts)
            atexit.register(_ignore_interrupts)

    @raises_interruption
    def _stop(self, number: int, _: FrameType | None) -> NoReturn:
        self.number = number
        raise Stopped(number)

    def _report_unraisable(self, event: Any) -> None:
        """Where a signal arrives in a destructor Python only prints; `check` raises it again."""
        if not isinstance(event.exc_value, Stopped):
            self._unraisable(event)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Interruption: what ends work from outside, such as control-C, and how it is told from a plug-in that raises the same."""

from __future__ import annotations

import signal


class Interruption(KeyboardInterrupt):
    """Raised by a handler of this package for a signal or an alarm. It passes where control-C passes."""


def interrupts(error: BaseException) -> bool:
    """Whether an exception came from outside: a person's control-C, a signal, an alarm.

    While a handler of this package stands for control-C, a bare KeyboardInterrupt can only be somebody's code raising it.
    """
    if isinstance(error, Interruption):
        return True
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler

"""Interruption: what ends work from outside, such as control-C, and how it is told from a plug-in
that raises the same.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, TypeVar

H = TypeVar("H", bound=Callable[..., Any])


class Interruption(KeyboardInterrupt):
    """Raised by a handler of this package for a signal or an alarm. It passes where control-C
    passes.
    """


def raises_interruption(handler: H) -> H:
    """Mark a signal handler that raises Interruption."""
    handler.raises_interruption = True  # type: ignore[attr-defined]
    return handler


def interrupts(error: BaseException) -> bool:
    """Whether an exception came from outside: a person's control-C, a signal, an alarm.

    While a handler of this package stands for control-C, a bare KeyboardInterrupt can only be
    somebody's code raising it.
    """
    if isinstance(error, Interruption):
        return True
    ours = getattr(signal.getsignal(signal.SIGINT), "raises_interruption", False)
    return isinstance(error, KeyboardInterrupt) and not ours

"""Late: large libraries imported in less time."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def uncollected() -> Iterator[None]:
    """Put garbage collection off while libraries are imported.

    What they import stays, and going through all of it again and again takes a fifth of the time.
    Where torch is not there yet, so that no model can be, it is left out of later collections, too.
    """
    was_enabled, is_first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if is_first:
            gc.freeze()
            # as the process ends libraries look whether all of theirs is taken apart
            atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Let modules that are imported in the block have a library without its being imported: it is
    when they first take something from it.
    """
    if name in sys.modules:
        yield
        return
    stand_in = _StandIn(name)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """Stands in a module's place until something is taken from it."""

    def leave(self) -> None:
        """Make room for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, attribute: str) -> Any:
        # asked of every module by who looks for the source of something
        if attribute == "__file__":
            raise AttributeError(attribute)
        self.leave()
        return getattr(import_module(self.__name__), attribute)

"""Functions: those of libraries, of this package and of a model's code that no method may
replace.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Any

from torch import Tensor, nn

LIBRARIES = ("torch", "torch.nn.functional", "torch.linalg", "math", "random", "numpy", "builtins")
"""Modules whose functions every method may call and none may replace."""

CLASSES = (Tensor, nn.Module, nn.Linear, nn.LayerNorm)
"""Classes whose functions none may replace."""

ALWAYS = (
    "prunebench",
    "_prunebench",
    "transformers.cache_utils",
    "transformers.generation",
    "transformers.integrations",
    "transformers.masking_utils",
    "transformers.modeling_utils",
)
"""Prefixes of modules, those of this package and of the library that runs the models, that are
watched as well, with the classes that they define.
"""


@dataclass(frozen=True)
class Function:
    """A function as it was: the object that has it, what that is called, its name there."""

    label: str
    holder: Any
    name: str
    value: Any

    @property
    def full_name(self) -> str:
        """What it is called in a message."""
        return f"{self.label}.{self.name}"

    def is_replaced(self) -> bool:
        """Whether another function stands in its place."""
        present = vars(self.holder).get(self.name)
        return present is not self.value and not _same_name(present, self.value)

    def put_back(self) -> None:
        """Make it what it was."""
        setattr(self.holder, self.name, self.value)


class Functions:
    """All functions of a module or of a class, as they were."""

    def __init__(self, label: str, holder: Any) -> None:
        self.label, self.holder = label, holder
        self.values: dict[str, Any] = {}
        for name, value in list(vars(holder).items()):
            if callable(value) or isinstance(value, property | classmethod | staticmethod):
                self.values[name] = value

    def replaced(self) -> list[Function]:
        """Those in whose place another function stands."""
        functions = [Function(self.label, self.holder, *item) for item in self.values.items()]
        return [function for function in functions if function.is_replaced()]


class WatchedFunctions:
    """All functions that are watched, in modules whose names begin with one of `prefixes`, too."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        holders = _holders((*ALWAYS, *prefixes))
        self._functions = [Functions(label, holder) for label, holder in holders]
        # what the holders have now, whenever it is looked at
        self._contents = [vars(functions.holder).values() for functions in self._functions]
        self._last = self._everything()
        """All that the holders had, in its order, when the functions were last found in place."""

    def replaced(self) -> list[Function]:
        """Those in whose place another function stands."""
        present = self._everything()
        # all are asked after every step, ten thousand functions: nearly always nothing has changed
        # anywhere, which two lists tell without looking a single name up
        if self._is_last(present):
            return []
        replaced: list[Function] = []
        for functions in self._functions:
            replaced += functions.replaced()
        if not replaced:
            self._last = present
        return replaced

    def _everything(self) -> list[Any]:
        return list(chain.from_iterable(self._contents))

    def _is_last(self, present: list[Any]) -> bool:
        """Whether the holders have what they had last. Lists ask first whether two things are the
        same; a function equals no other.
        """
        try:
            return present == self._last
        except Exception:  # some things, such as tensors, cannot say whether they are equal
            return False


def _holders(prefixes: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Modules and classes that have such functions, by what they are called."""
    for kind in CLASSES:
        yield kind.__qualname__, kind
    for label, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType):
            continue
        if label.startswith(prefixes):
            yield label, module
            yield from _classes(label, module)
        elif label in LIBRARIES:
            yield label, module


def _classes(label: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes that a module defines."""
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and value.__module__ == label:
            yield f"{label}.{name}", value


def _same_name(one: Any, other: Any) -> bool:
    """Whether both go by one full name: torch wraps some of its own functions when its compiler is
    imported.
    """
    names = [(_attribute(f, "__module__"), _attribute(f, "__qualname__")) for f in (one, other)]
    return None not in names[0] and names[0] == names[1]


def _attribute(value: Any, name: str) -> Any:
    return getattr(value, name, None)

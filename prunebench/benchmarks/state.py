"""State: what the functions of a task keep between calls, noted once and put back before each.

Some tasks count in a dictionary of their module, so that a second call adds to the first. Cells are
scored one after the other, and intervals call an aggregation many times: every call has to begin
from what the module held when it was loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

Namespace = dict[str, Any]

NUMBERS = (bool, int, float, str)
CONTAINERS = (dict, list, set)
LARGEST = 20_000
"""Entries of a container that is watched; longer ones are data that a task reads, and comparing
them before every call would take longer than the call.
"""


class ModuleState:
    """Containers and numbers at the top of the modules in which some functions live."""

    def __init__(self, functions: Iterable[Callable[..., Any]]) -> None:
        self._kept: list[tuple[Namespace, Namespace]] = []
        by_place = {id(namespace): namespace for namespace in _namespaces(functions)}
        for namespace in by_place.values():
            self._kept.append((namespace, _kept(namespace)))

    def restore(self) -> None:
        """Put back what has changed since."""
        for namespace, kept in self._kept:
            for name, value in kept.items():
                _put_back(namespace, name, value)


def _namespaces(functions: Iterable[Callable[..., Any]]) -> list[Namespace]:
    """The modules of the functions, and those of functions of the same folder that they name."""
    namespaces: list[Namespace] = []
    for function in functions:
        inner = getattr(function, "func", function)  # of a partial
        namespace = getattr(inner, "__globals__", None)
        if namespace is None:
            continue
        namespaces.append(namespace)
        folder = _folder(namespace)
        for value in list(namespace.values()):
            if isinstance(value, FunctionType) and _folder(value.__globals__) == folder:
                namespaces.append(value.__globals__)
    return namespaces


def _folder(namespace: Namespace) -> str:
    return str(namespace.get("__file__", "")).rpartition("/")[0]


def _kept(namespace: Namespace) -> Namespace:
    """Copies of what a module holds that a call can change."""
    kept = {}
    for name, value in namespace.items():
        if name.startswith("__"):
            continue
        if type(value) in NUMBERS:
            kept[name] = value
        elif isinstance(value, CONTAINERS) and _size(value) <= LARGEST:
            try:
                kept[name] = copy.deepcopy(value)
            except Exception:  # such as a lock or an open file in it
                continue
    return kept


def _size(value: Any) -> int:
    """Entries of a container and of those in it, counted no further than it matters."""
    size = 0
    waiting = [value]
    while waiting and size <= LARGEST:
        one = waiting.pop()
        if isinstance(one, CONTAINERS):
            size += len(one)
            if size <= LARGEST:
                waiting += one.values() if isinstance(one, dict) else one
    return size


def _put_back(namespace: Namespace, name: str, value: Any) -> None:
    present: Any = namespace.get(name)
    if isinstance(value, NUMBERS):
        # what was a number and has become an object since is made once, such as a client
        if type(present) in NUMBERS and present != value:
            namespace[name] = value
        return
    try:
        if present == value:
            return
    except Exception:  # what cannot be compared, such as arrays
        return
    if type(present) is not type(value):
        namespace[name] = copy.deepcopy(value)
    # in place, for other modules and defaults may hold the same object
    elif isinstance(present, list):
        present[:] = copy.deepcopy(value)
    else:
        present.clear()
        present.update(copy.deepcopy(value))

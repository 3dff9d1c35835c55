"""Reach: which libraries a task's functions call, read off their code without running them."""

from __future__ import annotations

import dis
import importlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

OWN = "lmms_eval"
"""Functions of this package are followed, and those of the module that a task's file names."""

MOST = 2000
"""Functions that are followed at most."""

Step = tuple[FunctionType, type | None]
"""A function, and the class that it is a method of."""


def reached(functions: Iterable[Callable[..., Any]]) -> frozenset[str]:
    """Full names of what the functions call or mention outside the task's own modules, such as
    `requests.post` or `openai.OpenAI`; of lmms-eval's own modules their names.
    """
    names: set[str] = set()
    waiting: list[Step] = []
    for one in functions:
        waiting += _steps(one, None)
    codes: set[tuple[CodeType, type | None]] = set()
    while waiting and len(codes) < MOST:
        function, owner = waiting.pop()
        if (function.__code__, owner) in codes:
            continue
        codes.add((function.__code__, owner))
        names.add(f"{function.__module__}.{function.__qualname__}")
        attributes, values = _mentions(function)
        if owner is not None:
            values += _held(owner, attributes)
        for value in values:
            names |= _named(value, attributes)
            waiting += _followed(value, attributes, function)
        if owner is not None:
            waiting += _methods(owner, attributes)
    return frozenset(names)


def _mentions(function: FunctionType) -> tuple[set[str], list[Any]]:
    """The attribute names in a function, and the objects that it mentions or imports."""
    attributes: set[str] = set()
    values: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    for code in _codes(function.__code__):
        module: Any = None
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                if step.argval in function.__globals__:
                    values.append(function.__globals__[step.argval])
            elif step.opname in ("LOAD_METHOD", "LOAD_ATTR"):
                attributes.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                module = _imported(step.argval)
                values.append(module)
            elif step.opname == "IMPORT_FROM":
                if isinstance(module, ModuleType):
                    values.append(getattr(module, step.argval, None))
                elif isinstance(module, str):
                    values.append(f"{module}.{step.argval}")
    return attributes, values


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _imported(name: str) -> Any:
    """A module of lmms-eval's; of any other its name, for importing it may take long."""
    if name.partition(".")[0] == OWN:
        try:
            return importlib.import_module(name)
        except Exception:  # what it needs is not installed
            return name
    return name


def _named(value: Any, attributes: set[str]) -> set[str]:
    """Full names for an object that a function mentions."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, ModuleType):
        # of a module what may be taken from it
        own = {value.__name__}
        if value.__name__.partition(".")[0] != OWN:
            own |= {f"{value.__name__}.{name}" for name in attributes if hasattr(value, name)}
        return own
    kind = value if isinstance(value, type | FunctionType) else type(value)
    module = str(getattr(kind, "__module__", "") or "")
    if module in ("", "builtins"):
        return set()
    return {f"{module}.{getattr(kind, '__qualname__', '')}"}


def _followed(value: Any, attributes: set[str], function: FunctionType) -> list[Step]:
    """What of an object is code of the task or of lmms-eval, and is read as well."""
    if isinstance(value, FunctionType | MethodType | partial):
        return [step for step in _steps(value, None) if _is_own(step[0], function)]
    if isinstance(value, ModuleType):
        steps: list[Step] = []
        for name in attributes:
            inner = getattr(value, name, None)
            if isinstance(inner, FunctionType) and _is_own(inner, function):
                steps.append((inner, None))
        return steps
    kind = value if isinstance(value, type) else type(value)
    module = str(getattr(kind, "__module__", ""))
    if module.partition(".")[0] == OWN or module == function.__module__:
        return _methods(kind, attributes | {"__init__", "__call__", "__post_init__"})
    return []


def _methods(owner: type, names: set[str]) -> list[Step]:
    """The methods of a class that bear one of the names."""
    steps: list[Step] = []
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, FunctionType):
            steps.append((value, owner))
    return steps


def _held(owner: type, names: set[str]) -> list[Any]:
    """What a class holds under one of the names beside its methods, such as a client."""
    values = [getattr(owner, name, None) for name in names]
    return [value for value in values if not isinstance(value, FunctionType)]


def _steps(function: Any, owner: type | None) -> list[Step]:
    """The function behind a callable."""
    if isinstance(function, partial):
        return _steps(function.func, owner)
    if isinstance(function, MethodType):
        return _steps(function.__func__, type(function.__self__))
    inner = getattr(function, "__wrapped__", function)
    return [(inner, owner)] if isinstance(inner, FunctionType) else []


def _is_own(inner: FunctionType, function: FunctionType) -> bool:
    """Whether a function belongs to lmms-eval, or to the files of the same task."""
    if inner.__module__.partition(".")[0] == OWN:
        return True
    folder = function.__code__.co_filename.rpartition("/")[0]
    return inner.__code__.co_filename.rpartition("/")[0] == folder

"""The method registry: a method's file is its entry, the file's stem its name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from prunebench.border.guard import Guard
from prunebench.border.text import message, one_line
from prunebench.identity import helpers, note_source
from prunebench.pruner import MethodError, Pruner, contained

P = TypeVar("P", bound=type[Pruner])

PACKAGE = "prunebench.methods"


class RegistryError(ValueError):
    """A name, file or setting that the registry cannot serve."""


@dataclass(frozen=True)
class Card:
    """What is declared about a method beside its code.

    `paper` and `code` are URLs, None where there is none (a baseline). `variant` says in what a
    faithful file departs from official code; `reconstruction` marks a method rebuilt without it.
    """

    name: str
    paper: str | None = None
    code: str | None = None
    variant: str = ""
    reconstruction: bool = False


def register(
    *misplaced: object,
    paper: str | None = None,
    code: str | None = None,
    variant: str = "",
    reconstruction: bool = False,
) -> Callable[[P], P]:
    """Mark the class as the method of its file."""
    if misplaced:
        raise TypeError(
            "register is called before it decorates: write @register() or @register(paper=...)"
        )

    def mark(cls: P) -> P:
        name = cls.__module__.rpartition(".")[2]
        cls.card = Card(name, paper, code, variant, reconstruction)  # type: ignore[attr-defined]
        return cls

    return mark


def names() -> list[str]:
    """The installed methods, sorted."""
    package = importlib.import_module(PACKAGE)
    return sorted(
        module.name
        for module in pkgutil.iter_modules(package.__path__)
        if not module.name.startswith("_")
    )


def get(name: str) -> type[Pruner]:
    """The class of a method, by name or by the path of a file ("./mine.py"); raises RegistryError."""
    if name.endswith(".py") or "/" in name:
        return _only_pruner(_load(Path(name)), name)
    if name not in names():
        raise RegistryError(f"unknown method {one_line(repr(name), 80)}{suggest(name, names())}")
    try:
        with contained(name, "its file"):
            module = importlib.import_module(f"{PACKAGE}.{name}")
    except Exception as error:
        raise RegistryError(f"method {name} cannot be imported: {_said(error)}") from error
    note_source(module)
    return _only_pruner(module, name)


def card(method: type[Pruner]) -> Card:
    """The declarations of a registered class; raises RegistryError where it was never registered."""
    found = method.__dict__.get("card")
    if not isinstance(found, Card):
        raise RegistryError(f"{method.__name__} is not registered: decorate it with @register(...)")
    return found


def name_of(pruner: Pruner) -> str:
    """What a method is called: its file's stem where it is registered, its class else."""
    found = type(pruner).__dict__.get("card")
    return found.name if isinstance(found, Card) else type(pruner).__name__


def build(name: str, settings: Mapping[str, Any] | None = None) -> Pruner:
    """A method with its settings; raises RegistryError for an unknown setting or a value that does
    not fit.
    """
    method = get(name)
    given = dict(settings or {})
    try:
        hints = get_type_hints(method)
    except Exception as error:  # an annotation may be any text
        raise RegistryError(
            f"{name}: the types of its settings cannot be read: {_said(error)}"
        ) from error
    known = [f.name for f in fields(method) if f.compare]
    for key, value in given.items():
        if key not in known:
            listed = f"; {name} has {', '.join(known) if known else 'no settings'}"
            raise RegistryError(f"unknown setting {name}.{key}{suggest(key, known, listed)}")
        given[key] = _fit(f"{name}.{key}", value, hints[key])
    try:
        with contained(name, "__init__"):
            return method(**given)
    except Exception as error:  # a method may check its settings in any way
        raise RegistryError(f"{name}: {_said(error)}") from error


def settings(pruner: Pruner) -> dict[str, Any]:
    """All settings of a pruner, defaults included; a field that is left out of comparisons is none."""
    return {f.name: getattr(pruner, f.name) for f in fields(pruner) if f.compare}


def suggest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The tail of an error about an unknown name: the nearest known one, or all of them."""
    options = list(known)
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return otherwise if otherwise is not None else f"; known: {', '.join(options)}"


def _load(path: Path) -> ModuleType:
    """Import a file outside the package; twice gives the same module unless the file changed."""
    try:
        there = path.is_file()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        there = False
    if not there:
        raise RegistryError(f"no method file {one_line(str(path), 120)}")
    if path.stem in names() and path.resolve().parent not in _package_folders():
        raise RegistryError(f"{path}: a method named {path.stem!r} is built in; rename the file")
    name = f"_prunebench_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RegistryError(f"{path} is no Python file; a method is a .py file")
    module = importlib.util.module_from_spec(spec)
    guard, before = Guard(), sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        source = path.read_bytes()
        _let_import_helpers(path, source)
        with contained(path.name, "its file"):
            # what is noted is what runs, though the file may change at any moment
            exec(compile(source, str(path), "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        guard.restore()
        raise RegistryError(f"{path} cannot be imported: {_said(error)}") from error
    changes = guard.changes(owner=name)
    if changes:
        guard.restore()
        raise RegistryError(
            f"{path} changes {', '.join(changes[:3])} when it is imported; a method leaves no trace"
        )
    note_source(module, source)
    return module


def _let_import_helpers(path: Path, source: bytes) -> None:
    """Let a method import modules from its own folder, behind all others; raises RegistryError
    where a name is taken.
    """
    folder = path.resolve().parent
    for helper in helpers(path, source):
        name = ".".join(helper.resolve().relative_to(folder).with_suffix("").parts).removesuffix(
            ".__init__"
        )
        there = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.stdlib_module_names or (
            there is not None and Path(there).resolve() != helper.resolve()
        ):
            raise RegistryError(
                f"{path} imports {name}, but another module has that name; rename {helper.name}"
            )
        sys.modules.pop(name, None)  # read anew with the method, for it may have changed
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _said(error: BaseException) -> str:
    """An exception's type and text in one line; that of a method that tried to end the program says
    both itself.
    """
    text = message(error)
    return one_line(
        text
        if isinstance(error, MethodError | RegistryError)
        else f"{type(error).__name__}: {text}",
        200,
    )


def _package_folders() -> list[Path]:
    return [Path(p).resolve() for p in importlib.import_module(PACKAGE).__path__]


def _only_pruner(module: ModuleType, name: str) -> type[Pruner]:
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Pruner)
        and value.__module__ == module.__name__
        and isinstance(value.__dict__.get("card"), Card)
    ]
    if len(found) != 1:
        listed = ", ".join(c.__name__ for c in found) or "none"
        raise RegistryError(
            f"{name} must register exactly one Pruner with @register(...), found {listed}"
        )
    missing: frozenset[str] = getattr(found[0], "__abstractmethods__", frozenset())
    if missing:
        raise RegistryError(
            f"{name}: {found[0].__name__} does not implement {', '.join(sorted(missing))}"
        )
    return found[0]


def _fit(label: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type: ints widen to float, lists become tuples; anything else must
    match.
    """
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise RegistryError(f"{label} is {one_line(repr(value), 80)}, but it takes {hint.__name__}")
    return tuple(value) if isinstance(value, list) else value

"""The method registry: a method's file is its entry, the file's stem its name; names joined by "+"
work together.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from prunebench.border.guard import Guard
from prunebench.border.text import message, one_line
from prunebench.composition import joined, members
from prunebench.identity import helpers, note_source
from prunebench.pruner import MethodError, Pruner, contained

if TYPE_CHECKING:
    from prunebench.methods._names import MethodName

P = TypeVar("P", bound=type[Pruner])

PACKAGE = "prunebench.methods"
ADDONS = f"{PACKAGE}.addons"

JOINT = "+"
"""What stands between the names of methods that work together."""


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
    return _modules(PACKAGE)


def groups() -> dict[str, list[str]]:
    """The installed methods that go by one name, as groups.json beside them says."""
    named: dict[str, list[str]] = {}
    for folder in _package_folders():
        file = folder / "groups.json"
        if file.is_file():
            named |= json.loads(file.read_text(encoding="utf-8"))
    return named


def addons() -> list[str]:
    """The installed add-ons, sorted: methods that wrap the one that is named before them."""
    return _modules(ADDONS)


def parts(name: str) -> list[str]:
    """The names in one: "visionzip+pyramiddrop" are two that work together."""
    if JOINT not in name:
        return [name]
    try:
        is_file = Path(name).is_file()  # whose name may hold anything
    except (OSError, ValueError):
        is_file = False
    return [name] if is_file else name.split(JOINT)


def stem_of(part: str) -> str:
    """What a method is called that a name or a path names."""
    return Path(part).stem if _is_path(part) else part


def check_name(name: str) -> None:
    """Raise RegistryError where a name has a part that is no installed method, add-on or file;
    nothing is imported.
    """
    installed = [*names(), *addons()]
    for part in parts(name):
        if part not in installed and not _is_path(part):
            near = suggest(part[:100], installed)
            raise RegistryError(f"unknown method {one_line(repr(part), 80)}{near}")


def get(name: MethodName | str) -> type[Pruner]:
    """The class of a method or an add-on, by name or by the path of a file ("./mine.py").

    Raises RegistryError where there is none, or none that can be used.
    """
    if _is_path(name):
        return _only_pruner(_load(Path(name)), name)
    if name not in names() and name not in addons():
        check_name(name)
        raise RegistryError(f"{name} is no one method: ask for each of {', '.join(parts(name))}")
    package = ADDONS if name in addons() else PACKAGE
    try:
        with contained(name, "its file"):
            module = importlib.import_module(f"{package}.{name}")
    except Exception as error:
        raise RegistryError(f"method {name} cannot be imported: {_reason(error)}") from error
    note_source(module)
    return _only_pruner(module, name)


def card(method: type[Pruner]) -> Card:
    """The declarations of a class; raises RegistryError where it was never registered."""
    declared = _own_card(method)
    if declared is None:
        raise RegistryError(f"{method.__name__} is not registered: decorate it with @register(...)")
    return declared


def name_of(pruner: Pruner) -> str:
    """What a method is called: its file's stem where it is registered, its class else; of several
    that work together all their names.
    """
    return JOINT.join(map(_stem, members(pruner)))


def build(name: MethodName | str, settings: Mapping[str, Any] | None = None) -> Pruner:
    """A method with its settings; raises RegistryError for an unknown setting or a value that does
    not fit.

    Of methods that work together, "a+b", a setting is named with the method whose it is, "a.x".
    """
    several = parts(name)
    stems = list(map(stem_of, several))
    if len({*stems}) < len(stems):
        raise RegistryError(f"{name} names a method twice")
    own: dict[str, dict[str, Any]] = {stem: {} for stem in stems}
    for key, value in (settings or {}).items():
        # of a method by itself its name is not said
        stem, setting = (stems[0], key) if len(stems) == 1 else _divided(name, key, stems)
        own[stem][setting] = value
    builders = []
    for part, stem in zip(several, stems, strict=True):
        method = get(part)
        builders.append((method, partial(_built, part, method, own[stem])))
    try:
        return joined(builders)
    except (TypeError, ValueError) as error:
        if isinstance(error, RegistryError):
            raise
        raise RegistryError(f"{name}: {_reason(error)}") from error


def _divided(name: str, key: str, stems: Sequence[str]) -> tuple[str, str]:
    """The method of several, and its setting, that a key names; raises RegistryError."""
    stem, dot, setting = key.rpartition(".")
    if not dot or stem not in stems:
        listed = " or ".join(f"{stem}.SETTING" for stem in stems)
        raise RegistryError(f"unknown setting {name}.{key}; write {listed}")
    return stem, setting


def _built(name: str, method: type[Pruner], settings: Mapping[str, Any], **base: Pruner) -> Pruner:
    """One method with its settings and the one that it holds."""
    try:
        hints = get_type_hints(method)
    except Exception as error:  # an annotation may be any text
        raise RegistryError(
            f"{name}: the types of its settings cannot be read: {_reason(error)}"
        ) from error
    options = [option.name for option in fields(method) if option.compare]
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in options:
            listed = f"; {name} has {', '.join(options) or 'no settings'}"
            raise RegistryError(f"unknown setting {name}.{key}{suggest(key, options, listed)}")
        values[key] = _fit(f"{name}.{key}", value, hints[key])
    try:
        with contained(name, "__init__"):
            return method(**values, **base)
    except Exception as error:  # a method may check its settings in any way
        raise RegistryError(f"{name}: {_reason(error)}") from error


def settings(pruner: Pruner) -> dict[str, Any]:
    """All settings of a pruner, defaults included, by the names that `build` takes. A field that is
    left out of comparisons is no setting.
    """
    several = members(pruner)
    values: dict[str, Any] = {}
    for part in several:
        before = f"{_stem(part)}." if len(several) > 1 else ""
        for option in fields(part):
            if option.compare:
                values[before + option.name] = getattr(part, option.name)
    return values


def defaults(method: type[Pruner]) -> dict[str, Any]:
    """The settings of a class with their defaults; raises RegistryError where one has none."""
    values: dict[str, Any] = {}
    for option in fields(method):
        if not option.compare:
            continue
        factory = option.default_factory
        if option.default is not MISSING:
            values[option.name] = option.default
        elif factory is not MISSING:
            values[option.name] = factory()
        else:
            raise RegistryError(f"{method.__name__}.{option.name} has no default")
    return values


def suggest(name: str, choices: Iterable[str], otherwise: str | None = None) -> str:
    """The tail of an error about an unknown name: the nearest of the choices; where none is near,
    `otherwise` or all of them.
    """
    options = list(choices)
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    if otherwise is not None:
        return otherwise
    return f"; known: {', '.join(options)}"


def _modules(package: str) -> list[str]:
    """The modules of a package that are no helpers, sorted."""
    path = importlib.import_module(package).__path__
    modules = [module.name for module in pkgutil.iter_modules(path) if not module.ispkg]
    return sorted(name for name in modules if not name.startswith("_"))


def _is_path(name: str) -> bool:
    """Whether a method is named by the path of its file."""
    return name.endswith(".py") or "/" in name


def _load(path: Path) -> ModuleType:
    """Import a file outside the package, with a module name of its own for every path."""
    _check_file(path)
    spelling = str(path.resolve()).encode()
    # `register` takes what is behind the last dot; what is before it keeps files of one name apart
    name = f"_prunebench_{sha256(spelling).hexdigest()[:12]}.{path.stem}"
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
        raise RegistryError(f"{path} cannot be imported: {_reason(error)}") from error
    changes = guard.changes(owner=name)
    if changes:
        guard.restore()
        raise RegistryError(
            f"{path} changes {', '.join(changes[:3])} when it is imported; a method leaves no trace"
        )
    note_source(module, source)
    return module


def _check_file(path: Path) -> None:
    """Raises RegistryError for a path that is no file, or whose stem names a built-in method."""
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        is_file = False
    if not is_file:
        raise RegistryError(f"no method file {one_line(str(path), 120)}")
    if path.stem in names() and path.resolve().parent not in _package_folders():
        raise RegistryError(f"{path}: a method named {path.stem!r} is built in; rename the file")


def _let_import_helpers(path: Path, source: bytes) -> None:
    """Let a method import modules from its own folder, behind all others; raises RegistryError
    where a name is taken.
    """
    folder = path.resolve().parent
    for helper in helpers(path, source):
        file = helper.resolve()
        parts = file.relative_to(folder).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        other = getattr(sys.modules.get(name), "__file__", None)
        is_other = other is not None and Path(other).resolve() != file
        if is_other or name in sys.stdlib_module_names:
            raise RegistryError(
                f"{path} imports {name}, but another module has that name; rename {helper.name}"
            )
        sys.modules.pop(name, None)  # read anew with the method, for it may have changed
    # at the end: a helper must never hide a module of the same name that others import
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _reason(error: BaseException) -> str:
    """An exception's type and text in one line; our own errors name what is wrong without their
    type.
    """
    text = message(error)
    if not isinstance(error, MethodError | RegistryError):
        text = f"{type(error).__name__}: {text}"
    return one_line(text, 200)


def _package_folders() -> list[Path]:
    return [Path(p).resolve() for p in importlib.import_module(PACKAGE).__path__]


def _stem(pruner: Pruner) -> str:
    """What one method is called."""
    declared = _own_card(type(pruner))
    return type(pruner).__name__ if declared is None else declared.name


def _own_card(kind: type) -> Card | None:
    """The declarations of a class itself; those of a class it inherits from are not its own."""
    declared = kind.__dict__.get("card")
    return declared if isinstance(declared, Card) else None


def _only_pruner(module: ModuleType, name: str) -> type[Pruner]:
    """The one method that a module registers; raises RegistryError for none, several or an
    unfinished one.
    """
    methods = [value for value in vars(module).values() if _is_method_of(module, value)]
    if len(methods) != 1:
        listed = ", ".join(method.__name__ for method in methods) or "none"
        raise RegistryError(
            f"{name} must register exactly one Pruner with @register(...), found {listed}"
        )
    method: type[Pruner] = methods[0]
    missing: frozenset[str] = getattr(method, "__abstractmethods__", frozenset())
    if missing:
        raise RegistryError(
            f"{name}: {method.__name__} does not implement {', '.join(sorted(missing))}"
        )
    return method


def _is_method_of(module: ModuleType, value: Any) -> bool:
    """Whether it is a registered class that the module itself defines."""
    if not isinstance(value, type) or not issubclass(value, Pruner):
        return False
    return value.__module__ == module.__name__ and _own_card(value) is not None


def _fit(label: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type: ints widen to float, lists become tuples; anything else must
    match.
    """
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # by the type itself, because True is an int to isinstance
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise RegistryError(f"{label} is {one_line(repr(value), 80)}, but it takes {hint.__name__}")
    return tuple(value) if isinstance(value, list) else value

"""Sources: functions of lmms-eval's tasks as text, with what they call, found without importing."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "lmms_eval"

WORD = re.compile(r"[A-Za-z_]\w*")

MOST = 60
"""Functions that are followed from one: those of tasks are a handful, of a library all of it."""


@dataclass(frozen=True)
class Call:
    """A function as a task's file names it, `module.function`, and the folder of that file."""

    folder: str
    name: str


@dataclass(frozen=True)
class Function:
    """A function, class, value or import: what it says, whom it names, and what it gives back.

    `marks` are the patterns that its source holds; `returns` says whether one that takes `args`
    gives anything back. Of an import, `origin` is the level, the module and the name there.
    """

    words: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    arguments: tuple[str, ...] = ()
    returns: bool = False
    origin: tuple[int, str, str] | None = None


@dataclass(frozen=True)
class Module:
    """What stands at the top of a file by name, and the packages that it cannot do without."""

    functions: Mapping[str, Function] = field(default_factory=dict)
    packages: frozenset[str] = frozenset()


class Sources:
    """The sources below `site`, the folder in which the package lmms_eval lies; each file is read
    once. `patterns` are what to look for, by a name of its own.
    """

    def __init__(self, site: Path, patterns: Mapping[str, re.Pattern[str]]) -> None:
        self.site = site
        self.patterns = patterns
        self._modules: dict[Path, Module] = {}
        self._marks: dict[Call, frozenset[str]] = {}
        self._files: dict[tuple[Path, str], Path | None] = {}

    def function(self, call: Call) -> Function | None:
        """The function that a file names, where it is defined; None where it is not found."""
        place = self._place(call)
        while place is not None:
            file, name = place
            function = self._module(file).functions.get(name)
            if function is None or function.origin is None:
                return function
            place = self._origin(file, function)
        return None

    def marks(self, call: Call) -> frozenset[str]:
        """The patterns that stand in its source, or in what it calls inside lmms-eval."""
        if call not in self._marks:
            place = self._place(call)
            marks_by_place: dict[tuple[Path, str], frozenset[str]] = {}
            if place is not None:
                self._follow(*place, marks_by_place)
            self._marks[call] = frozenset().union(*marks_by_place.values())
        return self._marks[call]

    def packages(self, calls: Iterable[Call]) -> set[str]:
        """Packages beyond Python's own and the task's own files that the functions' modules import
        at their top.
        """
        packages: set[str] = set()
        for call in calls:
            place = self._place(call)
            if place is None:
                continue
            # some tasks put the folder above theirs on Python's path
            beside = place[0].parent, place[0].parent.parent
            for package in self._module(place[0]).packages:
                if not any(self._file(folder, package) for folder in beside):
                    packages.add(package)
        return packages

    def _place(self, call: Call) -> tuple[Path, str] | None:
        """The file and the name of a function: beside the file that names it, or from the top."""
        module, _, name = call.name.rpartition(".")
        file = self._file(Path(call.folder), module) or self._absolute(module)
        return None if file is None else (file, name)

    def _follow(
        self, file: Path, name: str, marks_by_place: dict[tuple[Path, str], frozenset[str]]
    ) -> None:
        """Note the marks of a function, and of every function that it names."""
        functions = self._module(file).functions
        function = functions.get(name)
        if function is None or (file, name) in marks_by_place or len(marks_by_place) > MOST:
            return
        marks_by_place[file, name] = function.marks
        if function.origin is not None:
            place = self._origin(file, function)
            if place is not None:
                self._follow(*place, marks_by_place)
            return
        for word in sorted(function.words & functions.keys()):
            self._follow(file, word, marks_by_place)

    def _origin(self, file: Path, function: Function) -> tuple[Path, str] | None:
        """Where an imported name is defined; None outside lmms-eval."""
        assert function.origin is not None
        level, module, name = function.origin
        if level:
            target = self._file(file.parents[level - 1], module) if module else None
        else:
            target = self._absolute(module)
        return None if target is None else (target, name)

    def _absolute(self, module: str) -> Path | None:
        """The file of a module by its full name; what other libraries do is nobody's task."""
        return self._file(self.site, module) if module.startswith(f"{PACKAGE}.") else None

    def _file(self, base: Path, module: str) -> Path | None:
        """The file of a module below a folder."""
        place = base, module
        if place not in self._files:
            path = base.joinpath(*module.split("."))
            candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
            self._files[place] = next((file for file in candidates if file.is_file()), None)
        return self._files[place]

    def _module(self, file: Path) -> Module:
        if file not in self._modules:
            try:
                module = _Reading(file.read_text(encoding="utf-8"), self.patterns).module()
            except (OSError, SyntaxError, ValueError):  # it would not load either
                module = Module()
            self._modules[file] = module
        return self._modules[file]


class _Reading:
    """One file being read; what stands under an `if`, a `try` or a `with` at its top counts."""

    def __init__(self, text: str, patterns: Mapping[str, re.Pattern[str]]) -> None:
        self.tree = ast.parse(text)
        self.lines = text.splitlines(keepends=True)
        # of a pattern that the whole file lacks, no part is searched
        self.patterns = {name: one for name, one in patterns.items() if one.search(text)}
        self.functions: dict[str, Function] = {}

    def module(self) -> Module:
        """What was read."""
        packages: set[str] = set()
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                packages |= _packages(node)
        waiting: list[ast.stmt] = list(self.tree.body)
        while waiting:
            node = waiting.pop(0)
            if isinstance(node, ast.If | ast.Try | ast.With):
                waiting = [*node.body, *getattr(node, "orelse", []), *waiting]
            else:
                self._note(node)
        return Module(self.functions, frozenset(packages))

    def _note(self, node: ast.stmt) -> None:
        """One statement, by the names that it gives."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = _arguments(node)
            # asked of aggregations that are told where files go, and of no other
            returns = "args" in arguments and _returns(node)
            self.functions[node.name] = self._function(node, arguments, returns)
        elif isinstance(node, ast.ClassDef):
            self.functions[node.name] = self._function(node)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                origin = Function(origin=(node.level, node.module or "", alias.name))
                self.functions.setdefault(alias.asname or alias.name, origin)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.functions.setdefault(target.id, self._function(node))

    def _function(
        self, node: ast.stmt, arguments: tuple[str, ...] = (), returns: bool = False
    ) -> Function:
        source = "".join(self.lines[node.lineno - 1 : node.end_lineno])
        marks = frozenset(name for name, one in self.patterns.items() if one.search(source))
        words = frozenset(WORD.findall(source))
        return Function(words, marks, arguments, returns)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    return tuple(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))


def _returns(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it gives anything back but None."""
    for step in ast.walk(node):
        if isinstance(step, ast.Return) and step.value is not None:
            is_none = isinstance(step.value, ast.Constant) and step.value.value is None
            if not is_none:
                return True
    return False


def _packages(node: ast.Import | ast.ImportFrom) -> set[str]:
    """The packages at the top of what a statement imports, but for Python's own."""
    if isinstance(node, ast.Import):
        names = {alias.name.partition(".")[0] for alias in node.names}
    else:
        names = set() if node.level or not node.module else {node.module.partition(".")[0]}
    return names - sys.stdlib_module_names - {PACKAGE}


@cache
def installed(package: str) -> bool:
    """Whether a package can be imported here; it is not."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False

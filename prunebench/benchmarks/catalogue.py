"""Catalogue: the tasks that come with the package, suites, data that are made, and loading by name.

lmms-eval is imported late: tasks are listed, and costs measured, without it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, runtime_checkable

import yaml

from prunebench.benchmarks import judge
from prunebench.benchmarks.benchmark import Benchmark
from prunebench.benchmarks.cached import cache_folder
from prunebench.benchmarks.quiet import quiet
from prunebench.benchmarks.request import TaskError
from prunebench.benchmarks.served import GENERATE, unserved
from prunebench.border import images
from prunebench.border.late import deferred, uncollected
from prunebench.border.text import message, one_line, short_path

PACKAGE = "prunebench.tasks"

SUITES = "suites"
"""The folder of the suites."""

PUBLIC = "public.yaml"
"""What is known of public tasks, beside the suites."""


class Recipe(Protocol):
    """What a task's file says of data that are made, or brought together from files on disk: the
    class `Recipe` of a module beside the built-in tasks, which is a frozen dataclass.

    A file asks for it under the module's name, `metadata: {NAME: {samples: 200, ...}}`. Making one
    raises ValueError, in words that begin with the field, for a value that cannot be; the methods
    raise TaskError for files that are not there.
    """

    most: ClassVar[int | None]
    """Samples that are made at most; None where there are as many as there are."""

    @property
    def samples(self) -> int:
        """How many samples there are where nobody asks for more."""

    def file_name(self, count: int) -> str:
        """A name that other data, or data made by other code, do not have."""

    def write(self, path: Path, count: int) -> Path:
        """Write `count` samples as a parquet file that appears whole or not at all."""


@runtime_checkable
class Settling(Protocol):
    """A recipe that changes its task by what is configured on the machine."""

    def settled(self, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The task's file as it is to be used, and what belongs to the task's identity."""


@dataclass(frozen=True)
class Listed:
    """A built-in task or suite, as `list tasks` shows it; `tasks` are those of a suite."""

    name: str
    kind: str
    description: str
    tasks: tuple[str, ...] = ()


def load_task(
    name: str,
    limit: int | None = None,
    start: int = 0,
    max_image_pixels: int | None = images.MAX_PIXELS,
    model_name: str | None = None,
) -> Benchmark:
    """A built-in task, the path of a YAML file, or any of lmms-eval's own tasks by name; raises
    TaskError in one line.

    A `limit` above what a public task or a user's data have means all of them; scenes that are made
    are as many as are asked for, up to their recipe's most. A sample with an image of more than
    `max_image_pixels` cannot be asked; None is no limit. `model_name` is what lmms-eval calls the
    model: some tasks have prompts for some.
    """
    file = _built_in().get(name)
    if _is_file(name):
        file = Path(name)
        if not file.is_file():
            raise TaskError(f"no task file {short_path(name)}")
    with quiet(), judge.loadable():
        lmms = _bridge()
        if file is None:
            beside = [*_built_in(), *_suites()]
            task, identity = lmms.public(name, beside, model_name)
        else:
            task, identity = _from_file(name, file, limit, start, model_name)
    _check_kind(name, task.OUTPUT_TYPE)
    try:
        return Benchmark(name, task, limit, identity, start, max_image_pixels)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(
            f"task {short_path(name)} cannot be asked: {lmms.said_by(error)}"
        ) from error


def prepare() -> None:
    """Import what tasks are loaded with, for who is about to load some."""
    with quiet(), judge.loadable():
        _bridge()


def _bridge() -> ModuleType:
    """The module that imports lmms-eval."""
    # lmms-eval imports `evaluate`, which takes a second, for metrics that a task names by hand
    with uncollected(), deferred("evaluate"):
        from prunebench.benchmarks import lmms

    return lmms


def check_access(name: str) -> None:
    """That there is such a task, of a kind that is run, and that the hub or its cache describes its
    data: what asks for a login says so before anything is fetched. Raises TaskError in one line.
    """
    if name in _built_in():
        return
    with quiet(), judge.loadable():
        lmms = _bridge()
        if _is_file(name):
            config = lmms.read_config(Path(name))
            _check_kind(name, config.get("output_type"))
            lmms.check_access(name, config)
            return
        file = lmms.file_of(name, [*_built_in(), *_suites()])
        if file is not None:  # a group is refused when it is loaded
            config = lmms.definition(name, file)
            _check_kind(name, config.get("output_type"))
            lmms.check_access(name, config)


def _check_kind(name: str, kind: Any) -> None:
    """Raise TaskError for a task of a kind that is not run; one that says none is of that kind."""
    if kind is not None and kind != GENERATE:
        raise TaskError(f"task {short_path(name)} is {unserved(str(kind), name)}")


def expand(name: str) -> list[str]:
    """The tasks of a suite, or the one name; raises TaskError for a path without a file."""
    suite = _suites().get(name)
    if suite is not None:
        return list(suite["task"])
    if _is_file(name):
        if not Path(name).is_file():
            raise TaskError(f"no task file {short_path(name)}")
    elif "/" in name:  # lmms-eval would look through all its tasks for it
        raise TaskError(
            f"no task {short_path(name)}; a task of your own is a file that ends in .yaml"
        )
    return [name]


def listed() -> list[Listed]:
    """The built-in tasks and the suites, without lmms-eval."""
    entries = []
    for name, file in _built_in().items():
        entries.append(Listed(name, "task", _head(file)["metadata"]["description"]))
    for name, suite in _suites().items():
        description = suite["metadata"]["description"]
        entries.append(Listed(name, "suite", description, tuple(suite["task"])))
    return entries


def needs_blind(name: str) -> bool:
    """Whether so much of a task is answered without its images that the blind value of the model
    belongs beside it: its file says `metadata: {blind: true}`, or it is a public task that is known
    for it.
    """
    file = Path(name) if _is_file(name) else _built_in().get(name)
    if file is None:
        patterns = _head(_folder() / PUBLIC)["blind"]
        return any(fnmatchcase(name, pattern) for pattern in patterns)
    metadata = _head(file).get("metadata") if file.is_file() else None
    return isinstance(metadata, dict) and metadata.get("blind") is True


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is untyped
    """Reads task files without importing what they refer to."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _head(file: Path) -> dict[str, Any]:
    """A task's file as data."""
    content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    return content if isinstance(content, dict) else {}


def _folder() -> Path:
    return Path(str(resources.files(PACKAGE)))


def _own_files() -> Iterator[Path]:
    """The files of the built-in tasks, those of a folder of tasks included."""
    for file in sorted(_folder().rglob("[!_]*.yaml")):
        if file.parent.name != SUITES and file.name != PUBLIC:
            yield file


@cache
def _built_in() -> dict[str, Path]:
    """The file of every built-in task, by the task's name."""
    return {_head(file)["task"]: file for file in _own_files()}


@cache
def _suites() -> dict[str, dict[str, Any]]:
    heads = [_head(file) for file in sorted((_folder() / SUITES).glob("*.yaml"))]
    return {head["group"]: head for head in heads}


@cache
def _recipes() -> dict[str, type[Recipe]]:
    """The recipes of data that can be made, by the name of their module."""
    recipes = {}
    for info in pkgutil.iter_modules([str(_folder())]):
        module = importlib.import_module(f"{PACKAGE}.{info.name}")
        if hasattr(module, "Recipe"):
            recipes[info.name] = module.Recipe
    return recipes


def _from_file(
    name: str, file: Path, limit: int | None, start: int, model_name: str | None
) -> tuple[Any, dict[str, Any]]:
    """A task from a YAML file of our own or the user's, and what identifies its data."""
    from prunebench.benchmarks import lmms

    config = lmms.read_config(file)
    definition = lmms.definition_of(file)
    metadata = config.get("metadata")
    recipes = [key for key in metadata if key in _recipes()] if isinstance(metadata, dict) else []
    if not recipes:
        kwargs = config.get("dataset_kwargs")
        files = kwargs.get("data_files") if isinstance(kwargs, dict) else None
        return lmms.construct(name, config, model_name), {
            "data": lmms.stamped(files),
            "definition": definition,
        }
    if not isinstance(config.get("test_split"), str):
        raise TaskError(
            f"task file {short_path(file)} has no test_split; "
            "it needs a line such as 'test_split: test'"
        )
    recipe = _recipe(name, recipes[0], config["metadata"][recipes[0]])
    data = _made_data(recipe, name, limit, start)
    identity: dict[str, Any] = {"data": data.name, "definition": definition}
    if isinstance(recipe, Settling):
        config, settings = recipe.settled(config)
        identity |= settings
    config["dataset_kwargs"] = {"data_files": {config["test_split"]: str(data)}}
    try:
        task = lmms.construct(name, config, model_name)
    except TaskError as error:  # nothing was to be fetched
        cause = one_line(lmms.said_by(error.__cause__ or error), 100)
        raise TaskError(
            f"task {short_path(name)}: {short_path(data)} cannot be read ({cause}); remove it"
        ) from error
    return task, identity


def _recipe(name: str, kind: str, content: Any) -> Recipe:
    """What a task's file says of data to be made; raises TaskError."""
    recipe = _recipes()[kind]
    place = f"task {short_path(name)}: metadata.{kind}"
    keys = [field.name for field in fields(recipe)]  # type: ignore[arg-type]  # a dataclass
    if not isinstance(content, Mapping) or not set(content) <= set(keys):
        usual = asdict(recipe())  # type: ignore[call-overload]  # as above
        example = yaml.safe_dump(usual, default_flow_style=True, sort_keys=False)
        raise TaskError(
            f"{place} holds {', '.join(keys[:-1])} and {keys[-1]}, such as {example.strip()}"
        )
    try:
        return recipe(**content)
    except ValueError as error:
        raise TaskError(f"{place}.{error}") from None


def _made_data(recipe: Recipe, name: str, limit: int | None, start: int) -> Path:
    """The parquet file of a recipe, written where it is not there yet; a larger limit makes a
    larger file.
    """
    # never fewer than usual, so that all smaller limits share one file
    count = recipe.samples if recipe.most is None else max(recipe.samples, start + (limit or 0))
    if recipe.most is not None and count > recipe.most:
        key, value, most = (
            ("sample", start, recipe.most - 1) if start else ("limit", limit, recipe.most)
        )
        raise TaskError(
            f"{key} is {value}, and {short_path(name)} makes {recipe.most} questions at most; "
            f"use {key}={most}"
        )
    path = cache_folder() / recipe.file_name(count)
    if not path.exists():
        try:
            recipe.write(path, count)
        except OSError as error:
            reason = error.strerror or message(error)
            raise TaskError(
                f"{short_path(path)} cannot be written: {reason}; "
                "set XDG_CACHE_HOME to a folder that can"
            ) from error
    return path

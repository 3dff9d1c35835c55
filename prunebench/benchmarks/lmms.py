"""The bridge to lmms-eval, and the only file that imports it: tasks from a YAML file or by their
public names.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import lmms_eval.tasks
import tenacity
from huggingface_hub import get_token
from lmms_eval import utils
from lmms_eval.api import metrics
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.tasks import TaskManager, get_task_dict

from prunebench.benchmarks.quiet import hush
from prunebench.benchmarks.request import TaskError
from prunebench.border import hub
from prunebench.border.text import message, one_line, short_path
from prunebench.registry import suggest

assert metrics.exact_match_fn  # importing the module registers what YAML files name

Task = Any
"""A task of lmms-eval."""

Config = dict[str, Any]
"""A task's YAML, with what it includes and the functions it calls."""

RETRIES = tenacity.Retrying(
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_exponential(multiplier=2),
    retry=tenacity.retry_if_exception(hub.is_passing),
    reraise=True,
)
"""How often data are asked for while the hub is not well; its client has retries of its own."""


class Arguments(NamedTuple):
    """What lmms-eval hands on with an instance, in the order of its `args`."""

    context: str
    messages: Callable[..., Any]
    generation: Mapping[str, Any]
    doc_id: int
    task: str
    split: str


class StoredImages(ConfigurableMessagesTask):  # type: ignore[misc]  # lmms-eval is untyped
    """A task whose images are not decoded while it is made.

    lmms-eval looks at the first sample in its constructor, and that one's image may be the broken
    one. `decoded` keeps the data as they came, to be put back afterwards: `prunebench` decodes
    images itself.
    """

    dataset: Any
    decoded: Any

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Fetch the data, and set the images aside."""
        # lmms-eval's own retries ask again whatever went wrong, with arguments that the first took
        # something out of
        fetch = ConfigurableMessagesTask.download.__wrapped__
        for attempt in RETRIES:
            with attempt:
                fetch(self, copy.deepcopy(dataset_kwargs))
        self.decoded = self.dataset
        stored = {split: _undecoded(rows) for split, rows in self.dataset.items()}
        self.dataset = datasets.DatasetDict(stored)

    def put_back(self) -> None:
        """Take the data as they came, once the task is made."""
        self.dataset = self.decoded
        # the constructor took these from the undecoded data
        self.task_docs = self.eval_docs


def read_config(file: Path) -> Config:
    """A task's file; raises TaskError where it cannot be read or names no task."""
    try:
        # mode full imports the functions that the file names, so anything may be raised
        config = utils.load_yaml_config(str(file), mode="full")
    except Exception as error:
        reason = said_by(error)
        raise TaskError(f"task file {short_path(file)} cannot be read: {reason}") from error
    if not isinstance(config, dict) or not isinstance(config.get("task"), str):
        raise TaskError(
            f"task file {short_path(file)} names no task; it needs a line such as 'task: mine'"
        )
    return config


def definition(name: str, file: Path) -> Config:
    """The file of one of lmms-eval's tasks, with the functions that it calls; raises TaskError
    where those cannot be imported.
    """
    try:
        return dict(utils.load_yaml_config(str(file), mode="full"))
    except ImportError as error:
        package = error.name or one_line(str(error), 60)
        raise TaskError(
            f"task {short_path(name)} needs the package {package}, which is not installed"
        ) from error
    except Exception as error:  # their modules run as they are imported, and may raise anything
        reason = one_line(said_by(error), 150)
        raise TaskError(
            f"task {short_path(name)}: its definition does not load ({reason})"
        ) from error


def check_access(name: str, config: Config) -> None:
    """That the hub, or its cache, describes the data of a task; nothing else is fetched. Raises
    TaskError.
    """
    options = _options(config.get("dataset_kwargs") or {})
    if not _is_on_hub(config):
        return
    place = {key: options[key] for key in ("data_files", "revision", "token") if key in options}
    try:
        for attempt in RETRIES:
            with attempt:
                datasets.load_dataset_builder(
                    config["dataset_path"], config.get("dataset_name"), **place
                )
    except Exception as error:
        raise _unfetched(name, error, config) from error


def _is_on_hub(config: Config) -> bool:
    """Whether a task's data are a data set of the hub."""
    source, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if not isinstance(source, str) or options.get("load_from_disk"):
        return False
    return source.count("/") == 1 and not Path(source).exists()


def construct(name: str, config: Config, model_name: str | None = None) -> Task:
    """The task of a configuration, with its prompts for `model_name`; raises TaskError where its
    data cannot be had.
    """
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict):
        config = {**config, "dataset_kwargs": _options(kwargs)}
    # asked before: lmms-eval writes its own into the settings
    says_until = _says_until(config)
    try:
        task = StoredImages(config=config, model_name=model_name)
    except Exception as error:
        raise _unfetched(name, error, config) from error
    task.put_back()
    for module in _modules(config):
        hush(module)
    task.says_until = says_until
    return task


def ask_as(task: Task, model_name: str | None) -> None:
    """Give a task that lmms-eval has made the prompts that it has for `model_name`."""
    task.model_name = model_name
    # what its constructor does with the name; there is no public way
    task._prepare_model_specific_config()


def public(
    name: str, beside: Sequence[str], model_name: str | None = None
) -> tuple[Task, dict[str, Any]]:
    """One of lmms-eval's own tasks with its prompts for `model_name`, and what identifies it;
    `beside` are further names to suggest.

    Raises TaskError for a name that it does not have, and for a group.
    """
    file = file_of(name, beside)
    if file is not None:
        config = definition(name, file)
        data = [config.get("dataset_path"), config.get("dataset_name")]
        identity = {"dataset": data, "definition": definition_of(file)}
        return construct(name, config, model_name), identity
    index = _index()
    index.model_name = model_name
    try:
        tasks = get_task_dict([name], index, "chat")
    except Exception as error:
        raise _unfetched(name, error, {}) from error
    if len(tasks) != 1 or isinstance(next(iter(tasks.values())), dict):
        members = one_line(", ".join(map(str, _members(tasks))), 150)
        raise TaskError(f"{name} is a group of tasks; name the ones you want: {members}")
    return next(iter(tasks.values())), {"dataset": name}


def ends_of(task: Task, generation: dict[str, Any]) -> tuple[str, ...]:
    """Takes out of `generation` the texts that end an answer: those that the task's file names.

    Where it names none, lmms-eval writes a blank line there, by which none of its wrappers of the
    models here cuts.
    """
    until = generation.pop("until", None) or []
    until = [until] if isinstance(until, str) else list(until)
    if not getattr(task, "says_until", until != [task.config.fewshot_delimiter]):
        return ()
    return tuple(map(str, until))


def _says_until(config: Config) -> bool:
    """Whether a task's file says where answers end, for all models or for some."""
    settings = [config.get("generation_kwargs")]
    settings += list((config.get("model_specific_generation_kwargs") or {}).values())
    return any("until" in setting for setting in settings if isinstance(setting, dict))


def file_of(name: str, beside: Sequence[str]) -> Path | None:
    """The file of one of lmms-eval's own tasks, None for a group; `beside` are further names to
    suggest.

    Raises TaskError for a name that it does not have.
    """
    file = _only_file(name)
    if file is not None:
        return file
    index = _index()
    if name in index.all_subtasks:
        return Path(index.task_index[name]["yaml_path"])
    if name not in index.all_tasks:
        where = "; see `prunebench list tasks`, and lmms-eval's own list for public tasks"
        near = suggest(name[:100], [*beside, *index.all_tasks], where)
        raise TaskError(f"unknown task {short_path(name)!r}{near}")
    return None


@cache
def _only_file(name: str) -> Path | None:
    """The one file of lmms-eval's that names a task; None where none does, or several.

    lmms-eval's own index parses all files, which takes ten seconds.
    """
    quotes = r"""["']?"""
    line = re.compile(rf"^task:[ \t]*{quotes}{re.escape(name)}{quotes}[ \t]*(#.*)?$", re.MULTILINE)
    files = Path(lmms_eval.tasks.__file__).parent.rglob("*.yaml")
    named = [file for file in files if line.search(file.read_text(encoding="utf-8"))]
    return named[0] if len(named) == 1 else None


@cache
def _index() -> TaskManager:
    """All of lmms-eval's tasks and groups."""
    return TaskManager("ERROR", include_defaults=True)


def definition_of(file: Path) -> str:
    """A hash of a task's YAML with what it may include or call: the templates and modules beside
    it.
    """
    parts = [file, *sorted(file.parent.glob("_*.y*ml")), *sorted(file.parent.glob("*.py"))]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def stamped(files: Any) -> Any:
    """Local data files with a hash of their content, so that other data are other data."""
    if isinstance(files, Mapping):
        return {key: stamped(value) for key, value in files.items()}
    if isinstance(files, list):
        return [stamped(value) for value in files]
    if isinstance(files, str) and os.path.isfile(files):
        with open(files, "rb") as file:
            return [os.path.basename(files), hashlib.file_digest(file, "sha256").hexdigest()]
    return files


def said_by(error: BaseException) -> str:
    """What went wrong in code of others, in one line."""
    return one_line(f"{type(error).__name__}: {message(error)}", 180)


def _modules(config: Config) -> set[str]:
    """The modules whose functions a task calls, by the names that they were loaded under: those of
    lmms-eval's tasks are no part of its package.
    """
    metrics = [one for one in config.get("metric_list") or [] if isinstance(one, Mapping)]
    values = [*config.values(), *(one.get("aggregation") for one in metrics)]
    functions = [getattr(value, "func", value) for value in values if callable(value)]
    return {str(function.__module__) for function in functions} - {"builtins"}


def _options(kwargs: Mapping[str, Any]) -> Config:
    """What a task says of its data, without what hinders their being fetched."""
    options = dict(kwargs)
    # data sets have had no code of their own since datasets 4; a task cannot ask for it on any
    # version
    options.pop("trust_remote_code", None)
    # most tasks say that a token is needed, and nearly all of their data are open to anybody
    if options.get("token") is True and get_token() is None:
        del options["token"]
    return options


def _undecoded(rows: Any) -> Any:
    """The rows with images that are not decoded when a row is looked at."""
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _members(tasks: Mapping[Any, Any]) -> Iterator[str]:
    """The names of the tasks in a group, those of groups in it included."""
    for name, value in tasks.items():
        if isinstance(value, dict):
            yield from _members(value)
        else:
            yield name


def _unfetched(name: str, error: Exception, config: Config) -> TaskError:
    """The one line for a task that does not load, from the bottom of lmms-eval's retries."""
    # tenacity's error does not say what went wrong, but holds the last attempt
    attempt = getattr(error, "last_attempt", None)
    cause = attempt.exception() if attempt is not None else error
    if isinstance(cause, TaskError):
        return cause
    if isinstance(cause, AssertionError | KeyError | TypeError | AttributeError):
        detail = f"({one_line(said_by(cause), 90)})"
        return TaskError(f"task {short_path(name)}: its definition does not load {detail}")
    if _is_on_hub(config):
        source = config["dataset_path"]
        cause = hub.answer("data set", source) or cause
        refusal = hub.refusal(cause, "data set", source)
        if refusal is not None:
            place = one_line(source, 60)
            return TaskError(f"task {short_path(name, 50)}: its data set {place} {refusal}")
    detail = f"({one_line(said_by(cause), 90)})"
    return TaskError(
        f"task {short_path(name, 50)}: its data could not be fetched {detail}. "
        "Go online once, or fill the cache elsewhere and set HF_HOME to it."
    )

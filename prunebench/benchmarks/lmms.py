"""The bridge to lmms-eval, and the only file that imports it: tasks from a YAML file or by their
public names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from lmms_eval import utils
from lmms_eval.api import metrics
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.tasks import TaskManager, get_task_dict

from prunebench.benchmarks.request import TaskError
from prunebench.border.text import message, one_line, short_path
from prunebench.registry import suggest

assert metrics.exact_match_fn  # importing the module registers what YAML files name

Task = Any
"""A task of lmms-eval."""

Config = dict[str, Any]
"""A task's YAML, with what it includes and the functions it calls."""


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
        super().download(dataset_kwargs)
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


def construct(name: str, config: Config, model_name: str | None = None) -> Task:
    """The task of a configuration, with its prompts for `model_name`; raises TaskError where its
    data cannot be had.
    """
    # data sets have had no code of their own since datasets 4; a task cannot ask for it on any
    # version
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict):
        kwargs = {key: value for key, value in kwargs.items() if key != "trust_remote_code"}
        config = {**config, "dataset_kwargs": kwargs}
    try:
        task = StoredImages(config=config, model_name=model_name)
    except Exception as error:
        raise _unfetched(name, error) from error
    task.put_back()
    task.says_until = _says_until(config)
    return task


def public(
    name: str, beside: Sequence[str], model_name: str | None = None
) -> tuple[Task, dict[str, Any]]:
    """One of lmms-eval's own tasks with its prompts for `model_name`, and what identifies it;
    `beside` are further names to suggest.

    Raises TaskError for a name that it does not have, and for a group.
    """
    manager = TaskManager("ERROR", include_defaults=True, model_name=model_name)
    if name in manager.all_subtasks:
        file = Path(manager.task_index[name]["yaml_path"])
        config = utils.load_yaml_config(str(file), mode="full")
        data = [config.get("dataset_path"), config.get("dataset_name")]
        identity = {"dataset": data, "definition": definition_of(file)}
        return construct(name, config, model_name), identity
    if name not in manager.all_tasks:
        where = "; see `prunebench list tasks`, and lmms-eval's own list for public tasks"
        near = suggest(name[:100], [*beside, *manager.all_tasks], where)
        raise TaskError(f"unknown task {short_path(name)!r}{near}")
    try:
        tasks = get_task_dict([name], manager, "chat")
    except Exception as error:
        raise _unfetched(name, error) from error
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


def _unfetched(name: str, error: Exception) -> TaskError:
    """The one line for a task that does not load, from the bottom of lmms-eval's retries."""
    # tenacity's error does not say what went wrong, but holds the last attempt
    attempt = getattr(error, "last_attempt", None)
    cause = attempt.exception() if attempt is not None else error
    if isinstance(cause, TaskError):
        return cause
    detail = f"({one_line(said_by(cause), 90)})"
    if isinstance(cause, AssertionError | KeyError | TypeError | AttributeError):
        return TaskError(f"task {short_path(name)}: its definition does not load {detail}")
    return TaskError(
        f"task {short_path(name, 50)}: its data could not be fetched {detail}. "
        "Go online once (some need `hf auth login`), "
        "or fill the cache elsewhere and set HF_HOME to it."
    )

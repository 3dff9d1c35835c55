"""Benchmarks: tasks through lmms-eval's task API, which asks the questions and scores the answers;
only this file imports it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from prunebench.border import images
from prunebench.border.text import message, one_line
from prunebench.registry import suggest

ID_COLUMNS = ("id", "question_id", "questionId", "sample_id")
"""Columns that name a sample, tried in this order; where none is unique the sample's number does.
"""

MASK_COLUMN = "mask"
"""Where data have masks: an image whose pixel values number what the question's image shows."""


Reader = Callable[..., Any]
"""`images.read` or what stands on it."""
MOST_SCENES = 2_000
"""Questions that a built-in task makes at most; each takes some 20 ms to draw before the first is
asked.
"""


class TaskError(ValueError):
    """A task that does not exist, cannot be fetched, or is of a kind that cannot be run."""


class MediaError(ValueError):
    """A sample whose image or video cannot be read."""


@dataclass(frozen=True)
class Request:
    """One question of a task, without its images.

    `until` cuts the answer off; `evidence_box` is (x0, y0, x1, y1) in pixels of the image, where
    the data say it.
    """

    sample_id: str
    doc_id: int
    question: str
    reference: str
    generation: Mapping[str, Any]
    until: tuple[str, ...]
    evidence_box: tuple[float, float, float, float] | None = None
    question_type: str | None = None
    complexity: int | None = None


@dataclass(frozen=True)
class Listed:
    """A built-in task or suite, as `list tasks` shows it."""

    name: str
    kind: str
    description: str


class Benchmark:
    """One loaded task with its requests: `limit` of its samples from number `start` on, or all of
    them.
    """

    def __init__(
        self,
        name: str,
        task: Any,
        limit: int | None,
        identity: Mapping[str, Any],
        start: int = 0,
        max_image_pixels: int | None = images.MAX_PIXELS,
    ) -> None:
        self.name = name
        self.max_image_pixels = max_image_pixels
        self._task = task
        count = len(
            task.eval_docs
        )  # asked of the data: making requests to count them takes minutes
        if start >= count:
            there = f"samples 0..{count - 1}" if count else "no samples"
            raise TaskError(f"sample is {start}, but {_shortened(name)} has {there}")
        with _quiet():
            task.build_all_requests(limit=limit, offset=start, rank=0, world_size=1)
        self.requests = _requests(task)
        self._instances = {instance.doc_id: instance for instance in task.instances}
        self._identity = identity

    @property
    def fingerprint(self) -> str:
        """A hash of everything that is asked, and of the data behind it."""
        asked = [
            [r.sample_id, r.question, r.reference, dict(r.generation), r.until, r.evidence_box]
            for r in self.requests
        ]
        about = [asked, self._identity, self.max_image_pixels]
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()

    def messages(self, request: Request) -> list[dict[str, Any]]:
        """The chat messages with images (RGB, upright) and videos in them; raises MediaError where
        those cannot be read.
        """
        try:
            with images.strictly(self.max_image_pixels):
                messages: list[dict[str, Any]] = self._task.doc_to_messages(self._doc(request))
                turns = [
                    turn["content"] for turn in messages if not isinstance(turn["content"], str)
                ]
                for part in itertools.chain.from_iterable(turns):
                    if part["type"] == "image":
                        part["url"] = images.load(part["url"], max_pixels=self.max_image_pixels)
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # what decoders and a task's own functions raise is as various as they are
            raise MediaError(self._unreadable(f"sample {request.sample_id}", error)) from error
        return messages

    def masks(self, request: Request) -> Any:
        """[H, W] integers: 0 for background, k for the k-th thing that the image shows; None where
        the data have no masks.

        Raises MediaError where they cannot be read.
        """
        rows = self._rows(request)
        if MASK_COLUMN not in rows.features:
            return None
        import numpy as np

        try:
            row = _undecoded_row(rows.select_columns([MASK_COLUMN]), request.doc_id)
            value = _decoded(
                row[MASK_COLUMN], rows.features[MASK_COLUMN], images.read, self.max_image_pixels
            )
            return np.asarray(value)
        except Exception as error:  # as above
            raise MediaError(
                self._unreadable(f"the mask of sample {request.sample_id}", error)
            ) from error

    def _doc(self, request: Request) -> dict[str, Any]:
        """The sample as the task's functions take it, its images read by `images`; masks keep the
        numbers they hold.
        """
        rows = self._rows(request)
        doc = _undecoded_row(rows, request.doc_id)
        for column, feature in rows.features.items():
            read = images.read if column == MASK_COLUMN else _colours
            doc[column] = _decoded(doc[column], feature, read, self.max_image_pixels)
        return doc

    def _rows(self, request: Request) -> Any:
        return self._task.dataset[self._instances[request.doc_id].args[5]]

    def _unreadable(self, what: str, error: Exception) -> str:
        kind = "" if isinstance(error, images.ImageError) else f"{type(error).__name__}: "
        return one_line(
            f"{one_line(what, 80)} of {one_line(self.name, 60)} cannot be read: {kind}{message(error)}"
        )

    def score(self, predictions: Mapping[int, str]) -> dict[int, dict[str, Any]]:
        """Per doc_id what the task's own filters and process_results make of its answer, by metric."""
        for doc_id, instance in self._instances.items():
            instance.resps = [predictions.get(doc_id, "")]
            instance.filtered_resps = {}
        with _quiet():
            self._task.apply_filters()
            return {doc_id: self._values(self._instances[doc_id]) for doc_id in predictions}

    def aggregate(self, metric: str, values: Sequence[Any]) -> float | None:
        """The task's own aggregation over per-sample values; None where it yields no number (a file
        to submit).
        """
        function = self._task.aggregation()[metric.partition(",")[0]]
        if "args" in inspect.signature(function).parameters:
            return None  # writes a submission for a remote judge
        with _quiet():
            found = function(list(values))
        return _number(found)

    def higher_is_better(self, metric: str) -> bool:
        """Whether more is better; an undeclared metric counts as such."""
        return bool(self._task.higher_is_better().get(metric.partition(",")[0], True))

    @property
    def primary(self) -> str:
        """The metric that stands for the task: the first that yields a number."""
        for metric, function in self._task.aggregation().items():
            if "args" not in inspect.signature(function).parameters:
                return str(metric)
        raise TaskError(
            f"task {self.name} has no metric that can be computed here, only submissions"
        )

    def value(self, scores: Mapping[str, Any], metric: str) -> float | None:
        """A sample's own number in `metric`, None where only the aggregation has one."""
        found = scores.get(metric)
        if isinstance(found, Mapping):
            found = found.get(self._task.config.score_key)
        return _number(found)

    def _values(self, instance: Any) -> dict[str, Any]:
        """Metrics by name; those of further filters carry the filter's name behind a comma, as
        lmms-eval writes them.
        """
        task, values = self._task, {}
        split = instance.args[5]
        doc = task.dataset_no_image[split][instance.doc_id]
        for number, (key, answer) in enumerate(instance.filtered_resps.items()):
            for metric, value in task.process_results(doc, [answer]).items():
                if metric in task.aggregation():
                    values[metric if number == 0 else f"{metric},{key}"] = value
        return values


def load_task(
    name: str,
    limit: int | None = None,
    start: int = 0,
    max_image_pixels: int | None = images.MAX_PIXELS,
) -> Benchmark:
    """A built-in task, the path of a YAML file, or any of lmms-eval's own tasks by name; raises
    TaskError in one line.

    A `limit` above what a public task or a user's data have means all of them; built-in tasks make
    as many questions as are asked for, up to MOST_SCENES. A sample with an image of more than
    `max_image_pixels` cannot be asked; None is no limit.
    """
    file = _built_in().get(name)
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
        if not file.is_file():
            raise TaskError(f"no task file {_shortened(name)}")
    with _quiet():
        task, identity = _from_file(name, file, limit, start) if file is not None else _public(name)
    kind = task.OUTPUT_TYPE
    if kind != "generate_until":
        raise TaskError(
            f"task {_shortened(name)} is of kind {kind}; prunebench runs generate_until tasks"
        )
    try:
        return Benchmark(name, task, limit, identity, start, max_image_pixels)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"task {_shortened(name)} cannot be asked: {_said(error)}") from error


def expand(name: str) -> list[str]:
    """The tasks of a suite, or the one name; raises TaskError for a path without a file."""
    suite = _suites().get(name)
    if suite is not None:
        return list(suite["task"])
    if name.endswith((".yaml", ".yml")) and not Path(name).is_file():
        raise TaskError(f"no task file {_shortened(name)}")
    if "/" in name and not name.endswith(
        (".yaml", ".yml")
    ):  # lmms-eval would look through all its tasks for it
        raise TaskError(
            f"no task {_shortened(name)}; a task of your own is a file that ends in .yaml"
        )
    return [name]


def listed() -> list[Listed]:
    """The built-in tasks and the suites, without lmms-eval."""
    tasks = [
        Listed(name, "task", _head(file)["metadata"]["description"])
        for name, file in _built_in().items()
    ]
    suites = [Listed(name, "suite", ", ".join(suite["task"])) for name, suite in _suites().items()]
    return tasks + suites


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads task files without importing what they refer to."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def _head(file: Path) -> dict[str, Any]:
    content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    return content if isinstance(content, dict) else {}


def _folder() -> Path:
    return Path(str(resources.files("prunebench.tasks")))


@cache
def _built_in() -> dict[str, Path]:
    return {_head(file)["task"]: file for file in sorted(_folder().glob("[!_]*.yaml"))}


@cache
def _suites() -> dict[str, dict[str, Any]]:
    heads = [_head(file) for file in sorted((_folder() / "suites").glob("*.yaml"))]
    return {head["group"]: head for head in heads}


def _from_file(name: str, file: Path, limit: int | None, start: int) -> tuple[Any, dict[str, Any]]:
    """A task from a YAML file of our own or the user's, and what identifies its data."""
    from lmms_eval import utils

    try:
        config = utils.load_yaml_config(str(file), mode="full")
    except Exception as error:
        raise TaskError(f"task file {_shortened(file)} cannot be read: {_said(error)}") from error
    if not isinstance(config, dict) or not isinstance(config.get("task"), str):
        raise TaskError(
            f"task file {_shortened(file)} names no task; it needs a line such as 'task: mine'"
        )
    metadata = config.get("metadata")
    if isinstance(metadata, dict) and "scenes" in metadata:
        if not isinstance(config.get("test_split"), str):
            raise TaskError(
                f"task file {_shortened(file)} has no test_split; it needs a line such as 'test_split: test'"
            )
        data = _scenes(_recipe(name, metadata["scenes"]), name, limit, start)
        config["dataset_kwargs"] = {"data_files": {config["test_split"]: str(data)}}
        try:
            task = _construct(name, config)
        except TaskError as error:  # nothing was to be fetched
            cause = one_line(_said(error.__cause__ or error), 100)
            raise TaskError(
                f"task {_shortened(name)}: {_shortened(data)} cannot be read ({cause}); remove it"
            ) from error
        return task, {"data": data.name, "definition": _definition(file)}
    kwargs = config.get("dataset_kwargs")
    files = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    return _construct(name, config), {"data": _stamp(files), "definition": _definition(file)}


def _public(name: str) -> tuple[Any, dict[str, Any]]:
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager("ERROR", include_defaults=True)
    if name in manager.all_subtasks:
        from lmms_eval import utils

        file = Path(manager.task_index[name]["yaml_path"])
        config = utils.load_yaml_config(str(file), mode="full")
        identity = {
            "dataset": [config.get("dataset_path"), config.get("dataset_name")],
            "definition": _definition(file),
        }
        return _construct(name, config), identity
    if name not in manager.all_tasks:
        near = suggest(name[:100], [*_built_in(), *_suites(), *manager.all_tasks], _where())
        raise TaskError(f"unknown task {_shortened(name)!r}{near}")
    try:
        loaded = get_task_dict([name], manager, "chat")
    except Exception as error:
        raise _unfetched(name, error) from error
    if len(loaded) != 1 or isinstance(next(iter(loaded.values())), dict):
        leaves = one_line(", ".join(map(str, _leaves(loaded))), 150)
        raise TaskError(f"{name} is a group of tasks; name the ones you want: {leaves}")
    return next(iter(loaded.values())), {"dataset": name}


def _leaves(loaded: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in loaded.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield key


def _where() -> str:
    return "; see `prunebench list tasks`, and lmms-eval's own list for public tasks"


def _construct(name: str, config: dict[str, Any]) -> Any:
    """The task object. lmms-eval looks at the first sample while constructing; its image may be the
    one that is broken.
    """
    import datasets
    from lmms_eval.api import metrics, task

    assert metrics.exact_match_fn  # importing the module registers what YAML files name
    # data sets have had no code of their own since datasets 4; a task cannot ask for it on any
    # version
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, dict):
        config = {
            **config,
            "dataset_kwargs": {
                name: value for name, value in kwargs.items() if name != "trust_remote_code"
            },
        }

    class Task(task.ConfigurableMessagesTask):  # type: ignore[misc]
        dataset: Any
        decoded: Any

        def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
            super().download(dataset_kwargs)
            self.decoded = self.dataset
            self.dataset = datasets.DatasetDict(
                {split: _undecoded(rows) for split, rows in self.dataset.items()}
            )

    try:
        made = Task(config=config)
    except Exception as error:
        raise _unfetched(name, error) from error
    made.dataset = made.decoded
    made.task_docs = made.eval_docs
    return made


def _undecoded(rows: Any) -> Any:
    import datasets

    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _unfetched(name: str, error: Exception) -> TaskError:
    """The one line for a task that does not load, from the bottom of lmms-eval's retries."""
    attempt = getattr(error, "last_attempt", None)
    cause = attempt.exception() if attempt is not None else error
    if isinstance(cause, TaskError):
        return cause
    detail = f"({one_line(_said(cause), 90)})"
    if isinstance(cause, AssertionError | KeyError | TypeError | AttributeError):
        return TaskError(f"task {_shortened(name)}: its definition does not load {detail}")
    return TaskError(
        f"task {_shortened(name, 50)}: its data could not be fetched {detail}. Go online once (some need `hf auth login`), "
        "or fill the cache elsewhere and set HF_HOME to it."
    )


def _said(error: BaseException) -> str:
    """What went wrong in code of others, in one line."""
    return one_line(f"{type(error).__name__}: {message(error)}", 180)


def _shortened(name: object, limit: int = 80) -> str:
    """A name for a message; of a long path the end."""
    text = one_line(str(name), 1000)
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _definition(file: Path) -> str:
    """A hash of a task's YAML with what it may include or call: the templates and modules beside
    it.
    """
    parts = [file, *sorted(file.parent.glob("_*.y*ml")), *sorted(file.parent.glob("*.py"))]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def _stamp(files: Any) -> Any:
    """Local data files with a hash of their content, so that other data are other data."""
    if isinstance(files, Mapping):
        return {key: _stamp(value) for key, value in files.items()}
    if isinstance(files, list):
        return [_stamp(value) for value in files]
    if isinstance(files, str) and os.path.isfile(files):
        with open(files, "rb") as file:
            return [os.path.basename(files), hashlib.file_digest(file, "sha256").hexdigest()]
    return files


@dataclass(frozen=True)
class _Recipe:
    """Which scenes a task is made of."""

    question_type: str | None = None
    samples: int = 200
    seed: int = 1


def _recipe(name: str, content: Any) -> _Recipe:
    """What a task file says of its scenes; raises TaskError."""
    from prunebench.testbed.scenes import FINE, KINDS

    kinds = (*KINDS, FINE)
    about = f"task {_shortened(name)}: metadata.scenes"
    if not isinstance(content, dict) or not set(content) <= set(_Recipe.__dataclass_fields__):
        raise TaskError(
            f"{about} holds question_type, samples and seed, such as {{question_type: null, samples: 200, seed: 1}}"
        )
    recipe = _Recipe(**content)
    if recipe.question_type is not None and recipe.question_type not in kinds:
        said = one_line(repr(recipe.question_type), 60)
        raise TaskError(f"{about}.question_type is {said}; it is null or one of {', '.join(kinds)}")
    for key, least, most in (("samples", 1, MOST_SCENES), ("seed", 0, 2**31 - 1)):
        value = getattr(recipe, key)
        if type(value) is not int or not least <= value <= most:
            raise TaskError(
                f"{about}.{key} is {one_line(repr(value), 60)}; it is a whole number from {least} to {most}"
            )
    return recipe


def _scenes(recipe: _Recipe, name: str, limit: int | None, start: int) -> Path:
    """The parquet file of a built-in task, written where it is not there yet; a larger limit makes
    a larger file.
    """
    from prunebench.testbed import dataset, drawing, scenes

    count = max(recipe.samples, start + (limit or 0))
    if count > MOST_SCENES:
        key, asked = ("sample", start) if start else ("limit", limit)
        most = MOST_SCENES - 1 if start else MOST_SCENES
        raise TaskError(
            f"{key} is {asked}, and {_shortened(name)} makes {MOST_SCENES} questions at most; use {key}={most}"
        )
    sources = b"".join(
        Path(module.__file__).read_bytes()
        for module in (dataset, drawing, scenes)
        if module.__file__
    )
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kind = recipe.question_type or "mixed"
    file = (
        f"scenes-{kind}-{count}-s{recipe.seed}-{hashlib.sha256(sources).hexdigest()[:12]}.parquet"
    )
    path = base / "prunebench" / file
    if not path.exists():
        try:
            dataset.write_parquet(path, count, seed=recipe.seed, question_type=recipe.question_type)
        except OSError as error:
            said = error.strerror or message(error)
            raise TaskError(
                f"{_shortened(path)} cannot be written: {said}; set XDG_CACHE_HOME to a folder that can"
            ) from error
    return path


def _requests(task: Any) -> list[Request]:
    split = task.instances[0].args[5]
    docs = task.dataset_no_image[split]
    ids = [instance.doc_id for instance in task.instances]
    rows = {doc_id: docs[doc_id] for doc_id in ids}
    column = next(
        (
            c
            for c in ID_COLUMNS
            if c in docs.features and len({str(row[c]) for row in rows.values()}) == len(rows)
        ),
        None,
    )
    requests = []
    for instance in task.instances:
        doc = rows[instance.doc_id]
        _, _, given, doc_id, _, _ = instance.args
        options = dict(given)
        until = options.pop("until", None) or []
        box = doc.get("evidence_box")
        requests.append(
            Request(
                sample_id=str(doc[column]) if column else str(doc_id),
                doc_id=doc_id,
                question=str(task.doc_to_text(doc)),
                reference=_text(task.doc_to_target(doc)),
                generation=options,
                until=(until,) if isinstance(until, str) else tuple(until),
                evidence_box=(box[0], box[1], box[2], box[3])
                if box is not None and len(box) == 4
                else None,
                question_type=None
                if doc.get("question_type") is None
                else str(doc["question_type"]),
                complexity=doc["complexity"] if isinstance(doc.get("complexity"), int) else None,
            )
        )
    return requests


def _number(value: Any) -> float | None:
    """A plain or numpy number as a float, None for anything else."""
    plain = value.item() if hasattr(value, "dtype") and value.size == 1 else value
    return float(plain) if isinstance(plain, int | float) else None


def _text(target: Any) -> str:
    return target if isinstance(target, str) else json.dumps(target, default=str)


def _undecoded_row(rows: Any, number: int) -> dict[str, Any]:
    """A row with its images as they are stored, and everything else as `rows[number]` has it."""
    import datasets

    if (
        rows.format["type"] == "custom"
    ):  # the task's own transform, which wants what datasets decodes
        plain: dict[str, Any] = rows[number]
        return plain
    table = rows.with_format("arrow")[number]
    row = {column: values[0] for column, values in table.to_pydict().items()}
    features = datasets.Features(
        {column: _stored(feature) for column, feature in rows.features.items()}
    )
    decoded: dict[str, Any] = features.decode_example(row)
    return decoded


def _stored(feature: Any) -> Any:
    """The feature, whose images stay as they are stored wherever in it they lie."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, dict):
        return {name: _stored(part) for name, part in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return dataclasses.replace(feature, feature=_stored(feature.feature))
    return feature


def _decoded(value: Any, feature: Any, read: Reader, max_pixels: int | None) -> Any:
    """The value, the images that lie in it read by `read`."""
    import datasets

    if value is None:
        return None
    if isinstance(feature, datasets.Image):
        return _image(value, feature, read, max_pixels)
    if isinstance(feature, dict):
        return {
            name: _decoded(value[name], part, read, max_pixels) for name, part in feature.items()
        }
    if isinstance(feature, datasets.List | datasets.LargeList):
        return [_decoded(part, feature.feature, read, max_pixels) for part in value]
    return value


def _image(value: Any, feature: Any, read: Reader, max_pixels: int | None) -> Any:
    if not isinstance(value, Mapping):
        return read(value, max_pixels=max_pixels)
    if value["bytes"] is None and "://" in (value["path"] or ""):
        value = feature.decode_example(value)  # datasets knows how to fetch it
    image = read(value, max_pixels=max_pixels)
    return image.convert(feature.mode) if feature.mode and feature.mode != image.mode else image


def _colours(source: images.Source, *, max_pixels: int | None) -> Any:
    """The image as a task may look at it: the mode it is stored in, with at most 8 bits a channel."""
    return images.eight_bit(images.read(source, max_pixels=max_pixels))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lmms-eval and datasets write logs and progress bars to the terminal; here they do not."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import datasets
    from loguru import logger

    logger.disable("lmms_eval")
    datasets.disable_progress_bars()
    with warnings.catch_warnings(), open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(sink):
            yield

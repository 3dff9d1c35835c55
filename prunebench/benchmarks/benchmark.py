"""Benchmark: one loaded task, which asks its questions and scores the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from prunebench.benchmarks.fold import Fold
from prunebench.benchmarks.quiet import quiet
from prunebench.benchmarks.request import Box, MediaError, Request, TaskError, read_mask, read_row
from prunebench.benchmarks.scoring import Marks, Scores, Scoring
from prunebench.border import images
from prunebench.border.text import message, one_line, short_path

ID_COLUMNS = ("id", "question_id", "questionId", "sample_id")
"""Columns that name a sample, tried in this order; where none is unique the sample's number does.
"""


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
        # late: it brings lmms-eval, which measuring costs alone does without
        from prunebench.benchmarks.lmms import Arguments

        self.name = name
        self.max_image_pixels = max_image_pixels
        self._task = task
        self._identity = identity
        # asked of the data: making requests to count them takes minutes
        count = len(task.eval_docs)
        if start >= count:
            there = f"samples 0..{count - 1}" if count else "no samples"
            raise TaskError(f"sample is {start}, but {short_path(name)} has {there}")
        # inside lmms-eval they are made already; a fresh task has not even an empty list
        if not getattr(task, "_instances", None):
            with quiet():
                task.build_all_requests(limit=limit, offset=start, rank=0, world_size=1)
        self._instances = {instance.doc_id: instance for instance in task.instances}
        arguments = [Arguments(*instance.args) for instance in task.instances]
        self._split = arguments[0].split
        self.scoring = Scoring(name, task, self._split)
        self.requests = self._requests(arguments)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that is asked, and of the data behind it."""
        questions = []
        for one in self.requests:
            content: list[Any] = [one.sample_id, one.question, one.reference, dict(one.generation)]
            content += [one.until, one.evidence_boxes]
            if one.evidence_pictures:
                content += [one.evidence_pictures, one.evidence_objects]
            questions.append(content)
        # what a task says to this model alone, which not all of its questions show
        own = json.dumps(self._task.lmms_eval_specific_kwargs, sort_keys=True, default=_type_name)
        everything = [questions, self._identity, self.max_image_pixels, own]
        return hashlib.sha256(
            json.dumps(everything, sort_keys=True, default=str).encode()
        ).hexdigest()

    def messages(self, request: Request, on_white: bool = False) -> list[dict[str, Any]]:
        """The chat messages with images (RGB, upright) in them, and what names their videos; with
        `on_white` what is transparent is white. Raises MediaError where images cannot be read.
        """
        try:
            with images.strictly(self.max_image_pixels):
                row = read_row(self._rows, request.doc_id, self.max_image_pixels)
                messages: list[dict[str, Any]] = self._task.doc_to_messages(row)
                for turn in messages:
                    self._load_images(turn["content"], on_white)
        except MemoryError:
            raise
        # what decoders and a task's own functions raise is as various as they are
        except Exception as error:
            raise MediaError(self._unreadable(f"sample {request.sample_id}", error)) from error
        return messages

    @property
    def hears(self) -> bool:
        """Whether its data have sound."""
        return any(type(one).__name__ == "Audio" for one in self._rows.features.values())

    def masks(self, request: Request) -> Any:
        """[H, W] integers: 0 for background, k for the k-th thing that the image shows; None where
        the data have no masks.

        Raises MediaError where they cannot be read.
        """
        try:
            return read_mask(self._rows, request.doc_id, self.max_image_pixels)
        except Exception as error:  # as above
            what = f"the mask of sample {request.sample_id}"
            raise MediaError(self._unreadable(what, error)) from error

    def score(self, predictions: Mapping[int, str]) -> Scores:
        """By doc_id and metric, what the task's own filters and process_results make of an answer.

        Metrics of further filters carry the filter's name behind a comma, as lmms-eval writes them.
        """
        return self.scored(predictions).scores

    def scored(self, predictions: Mapping[int, str]) -> Marks:
        """The same, with why the task makes nothing of an answer, and where it guesses."""
        # filters run over all instances; those without a prediction get an empty one and no score
        for doc_id, instance in self._instances.items():
            instance.resps = [predictions.get(doc_id, "")]
            instance.filtered_resps = {}
        with quiet():
            self._task.apply_filters()
        rows = self._task.dataset_no_image[self._split]
        answers = {}
        for doc_id in predictions:
            answers[doc_id] = self._instances[doc_id].filtered_resps
        return self.scoring.score(rows, answers)

    def fold(self, metric: str, values: Sequence[Any]) -> Fold:
        """The task's own aggregation over per-sample values, and the files that it writes."""
        return self.scoring.fold(metric, values)

    def aggregate(self, metric: str, values: Sequence[Any]) -> float | None:
        """The number of the task's own aggregation over per-sample values; None where it yields
        none (a file to submit). Raises whatever the task's code raises.
        """
        with self.scoring.repeated(metric) as aggregate:
            return aggregate(values)

    def higher_is_better(self, metric: str) -> bool:
        """Whether more is better; an undeclared metric counts as such."""
        return self.scoring.higher_is_better(metric)

    @property
    def primary(self) -> str:
        """The metric that stands for the task: the total of its metrics where it has one."""
        return self.scoring.primary

    @property
    def refusal(self) -> str:
        """Why the answers to the task cannot be scored here; empty where they can."""
        return self.scoring.refusal

    @cached_property
    def caution(self) -> str:
        """What is to be known before it is asked: that a limit parts samples which are scored
        together. Empty where there is nothing.
        """
        rows = self._task.dataset_no_image[self._split]
        places = self._instances.keys()
        if len(places) == len(rows):
            return ""
        names = self.scoring.groups(rows)
        inside = {names[place] for place in places}
        outside = {name for place, name in enumerate(names) if place not in places}
        parted = sorted(name for name in inside & outside if name is not None)
        if not parted:
            return ""
        return (
            f"{one_line(self.name, 60)}: {len(places)} samples part {len(parted)} of the groups "
            f"that are scored together, such as {one_line(parted[0], 40)}; "
            f"limit={_whole(names, len(places))} would part none"
        )

    def value(self, scores: Mapping[str, Any], metric: str) -> float | None:
        """A sample's own number in `metric`, None where only the aggregation has one."""
        return self.scoring.value(scores, metric)

    @property
    def _rows(self) -> Any:
        """The data that the requests were made from, images not decoded yet."""
        return self._task.dataset[self._split]

    def _requests(self, arguments: Sequence[Any]) -> list[Request]:
        """A request for every instance of the task, in order; `arguments` are the instances'."""
        # questions need no media, and rows that have some decode them when they are looked at
        documents = self._task.dataset_no_image[self._split]
        rows = {one.doc_id: documents[one.doc_id] for one in arguments}
        column = _id_column(documents.features, list(rows.values()))
        return [self._request(rows[one.doc_id], one, column) for one in arguments]

    def _request(self, row: Mapping[str, Any], arguments: Any, column: str | None) -> Request:
        from prunebench.benchmarks.lmms import ends_of  # late, as above

        generation = dict(arguments.generation)
        until = ends_of(self._task, generation)
        question_type = row.get("question_type")
        boxes = _boxes(row)
        complexity = row.get("complexity")
        return Request(
            sample_id=str(row[column]) if column else str(arguments.doc_id),
            doc_id=arguments.doc_id,
            question=str(self._task.doc_to_text(row)),
            reference=_text(self._task.doc_to_target(row)),
            generation=generation,
            until=until,
            evidence_boxes=boxes,
            question_type=None if question_type is None else str(question_type),
            complexity=complexity if isinstance(complexity, int) else None,
            evidence_pictures=_numbers(row, "evidence_pictures", boxes),
            evidence_objects=_numbers(row, "evidence_objects", boxes),
        )

    def _load_images(self, content: Any, on_white: bool) -> None:
        """Put the images of one turn in place of what names them."""
        if isinstance(content, str):
            return
        for part in content:
            if part["type"] == "image":
                part["url"] = images.load(
                    part["url"], max_pixels=self.max_image_pixels, on_white=on_white
                )

    def _unreadable(self, what: str, error: Exception) -> str:
        """The one line for media that cannot be read."""
        place = f"{one_line(what, 80)} of {one_line(self.name, 60)}"
        kind = "" if isinstance(error, images.ImageError) else f"{type(error).__name__}: "
        return one_line(f"{place} cannot be read: {kind}{message(error)}")


def _whole(names: Sequence[str | None], limit: int) -> int:
    """How many samples from the first on part no group: as many as the limit has room for, or the
    fewest above it.
    """
    last = {name: place for place, name in enumerate(names)}
    counts = []
    end = 0
    for place, name in enumerate(names):
        end = max(end, place if name is None else last[name])
        if place == end:
            counts.append(place + 1)
    fitting = [count for count in counts if count <= limit] or counts[:1]
    return fitting[-1]


def _id_column(columns: Any, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The first column that names every row differently, None where there is none."""
    for column in ID_COLUMNS:
        if column in columns and len({str(row[column]) for row in rows}) == len(rows):
            return column
    return None


def _boxes(row: Mapping[str, Any]) -> tuple[Box, ...] | None:
    """The evidence boxes of a sample, of one or of several objects; None where it says nothing."""
    boxes = row.get("evidence_boxes")
    if boxes is None:
        box = row.get("evidence_box")
        boxes = None if box is None or len(box) != 4 else [box]
    return None if boxes is None else tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes)


def _numbers(row: Mapping[str, Any], column: str, boxes: Sequence[Box] | None) -> tuple[int, ...]:
    """What a column says of each of the boxes; nothing where it, or one of them, is missing.

    Raises TaskError where it says something of more boxes or fewer.
    """
    numbers = row.get(column)
    if numbers is None or boxes is None:
        return ()
    if len(numbers) != len(boxes):
        raise TaskError(f"{column} has {len(numbers)} numbers for {len(boxes)} evidence boxes")
    return tuple(int(number) for number in numbers)


def _type_name(value: Any) -> str:
    """The name of what is no plain data: a function's text would say where in memory it lies."""
    return str(getattr(value, "__name__", type(value).__name__))


def _text(target: Any) -> str:
    return target if isinstance(target, str) else json.dumps(target, default=str)

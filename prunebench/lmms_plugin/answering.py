"""Answering: lmms-eval's requests, asked of a backend as a sweep asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, overload

from loguru import logger
from tqdm import tqdm

from prunebench.benchmarks import Benchmark, Request
from prunebench.benchmarks.lmms import ask_as
from prunebench.border import images
from prunebench.border.text import one_line
from prunebench.budget import Budget
from prunebench.lmms_plugin.arguments import Asking
from prunebench.registry import build
from prunebench.run import quality
from prunebench.run.backend import Backend
from prunebench.run.fault import judged
from prunebench.run.quality import Bound
from prunebench.run.store import Row
from prunebench.study.record import BASELINE


class Unanswered(ValueError):
    """A question that has no answer, and why."""


class Answers(Sequence[str]):
    """Answers that are made when they are first looked at.

    lmms-eval's response cache stores one as it gets it: where a run breaks off, those that were
    made are there for the next. `refused` is told of one that cannot be had.
    """

    def __init__(
        self, texts: Iterator[str], count: int, refused: Callable[[Unanswered], NoReturn]
    ) -> None:
        self._texts, self._count, self._refused = texts, count, refused
        self._ready: list[str] = []

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        places = range(self._count)[place]
        if isinstance(places, range):
            return [self[one] for one in places]
        while len(self._ready) <= places:
            try:
                self._ready.append(next(self._texts))
            except Unanswered as error:
                self._refused(error)
        return self._ready[places]


class Answering:
    """A loaded model with the method that the arguments name; raises Unsupported where the model
    cannot serve it.
    """

    def __init__(self, backend: Backend, asking: Asking) -> None:
        self._backend, self._asking = backend, asking
        variant, grid = asking.variant, asking.grid
        budget = None if variant.name == BASELINE else Budget.parse(grid.budgets[0])
        method = backend.ready(variant.pruner)
        self._bound = Bound(variant.pruner, method, budget, grid.seed, variant.positions)
        self._plain = backend.ready(build(BASELINE))
        self._tasks: dict[str, tuple[Benchmark, dict[int, Request]]] = {}

    def texts(self, requests: Sequence[Any], silent: bool) -> Iterator[str]:
        """The answers to lmms-eval's requests, made a batch at a time; raises Unanswered."""
        rows: list[Row] = []
        with tqdm(total=len(requests), desc=self._asking.variant.label, disable=silent) as bar:
            for benchmark, batch in self._batches(requests):
                rows += self._rows(benchmark, batch)
                bar.update(len(batch))
                if len(rows) == len(requests):
                    logger.info(_spent(rows))
                for row in rows[-len(batch) :]:
                    yield str(row["prediction"])

    def _batches(self, requests: Sequence[Any]) -> Iterator[tuple[Benchmark, list[Request]]]:
        """Up to a batch of questions in a row, of one task and generated with the same settings."""
        task: Benchmark | None = None
        batch: list[Request] = []
        for instance in requests:
            benchmark, questions = self._task(instance)
            question = questions[instance.doc_id]
            fits = len(batch) < self._asking.batch and task is benchmark
            if task is not None and not (fits and batch[0].generation == question.generation):
                yield task, batch
                batch = []
            task = benchmark
            batch.append(question)
        if task is not None:
            yield task, batch

    def _task(self, instance: Any) -> tuple[Benchmark, dict[int, Request]]:
        """The task of a request, with all its questions by their numbers."""
        name = instance.task_name
        if name not in self._tasks:
            # a request brings the function that makes its chat, which is its task's own
            task = instance.args[1].__self__
            # lmms-eval has made it for a model that it calls by this package's name
            ask_as(task, self._backend.manner.wrapper)
            most = self._asking.grid.max_image_pixels
            limit = images.MAX_PIXELS if most is None else most
            benchmark = Benchmark(name, task, None, {}, max_image_pixels=limit)
            questions = {one.doc_id: one for one in benchmark.requests}
            self._tasks[name] = benchmark, questions
        return self._tasks[name]

    def _rows(self, benchmark: Benchmark, requests: Sequence[Request]) -> list[Row]:
        """A row a question; where a batch goes wrong, its questions are asked one by one."""
        try:
            samples = self._backend.read(benchmark, requests)
            encoded = self._backend.encode(samples, [self._bound.method])
            return quality.answer(self._backend, self._bound, self._plain, encoded)
        except Exception as error:
            if len(requests) == 1:
                raise self._unanswered(benchmark, requests[0], error) from error
        rows: list[Row] = []
        for request in requests:
            rows += self._rows(benchmark, [request])
        return rows

    def _unanswered(self, benchmark: Benchmark, request: Request, error: Exception) -> Unanswered:
        """One line for a question without an answer."""
        what = f"sample {request.sample_id} of {benchmark.name} with {self._asking.variant.label}"
        reason = one_line(judged(error).reason, 150)
        return Unanswered(
            f"{one_line(what, 90)}: {reason}; `prunebench sweep` notes such a sample and goes on"
        )


def _spent(rows: Sequence[Row]) -> str:
    """How many visual tokens the answers took."""
    available = sum(row["available"] for row in rows) / len(rows)
    spent = sum(row["tokens_mean"] for row in rows) / len(rows)
    return f"{spent:.1f} of {available:.1f} visual tokens a question, averaged over the layers"

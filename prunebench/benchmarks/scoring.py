"""Scoring: a task's own code at work on answers, so that what it raises, writes, prints or keeps
stays its own.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import random
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prunebench.benchmarks import judge, reviewed
from prunebench.benchmarks.quiet import quiet
from prunebench.benchmarks.reach import reached
from prunebench.benchmarks.state import ModuleState
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, one_line

SUBMISSION = "submission-"
"""How the name of a file begins that is kept in a cell's folder to be sent to a task's own server.
"""

SEEDS = (0, 1234)
"""Of Python's and numpy's generators, as lmms-eval sets them: some tasks guess where an answer
names no option.
"""

HEAVY = re.compile(
    r"^(pycocoevalcap|transformers|sentence_transformers|bert_score|bleurt|evaluate)"
)
"""Libraries an aggregation with which is too slow to be run some hundred times."""

NO_NUMBER = frozenset({"bypass_agg", "bypass"})
"""Aggregations of lmms-eval whose number (999) stands for none."""

LARGEST = 100 * 2**20
"""Bytes of a submission that is kept."""

Aggregate = Callable[[Sequence[Any]], float | None]
"""From the values of some samples to their number; None where they have none."""

Scores = dict[int, dict[str, Any]]
"""By doc_id and metric, what a task makes of one answer."""


@dataclass(frozen=True)
class Fold:
    """What a task makes of the answers to all its samples in one metric.

    `value` is None where it gives no number: `note` then says why. `parts` are the numbers of an
    aggregation that gives several. `files` are what it wrote to be sent to a server.
    """

    value: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""


class Scoring:
    """The metrics of one task; `task` is lmms-eval's, `name` the one in the grid."""

    def __init__(self, name: str, task: Any, split: str) -> None:
        self.name = name
        self._task = task
        self._split = split
        # lmms-eval's name, under which the task was reviewed wherever its file lies
        self.reviewed = reviewed.review_of(str(task.config.task))
        functions = [*task.aggregation().values(), task.config.process_results]
        self._functions = [function for function in functions if callable(function)]
        self._pristine = ModuleState(self._functions)
        self._scored = self._pristine
        self._judged: set[str] = set()
        # lmms-eval calls it five times, two seconds apart, where it raises; it would raise again
        process_results = inspect.unwrap(type(task).process_results)
        self._process_results = partial(process_results, task)

    @cached_property
    def refusal(self) -> str:
        """Why the task cannot be scored here; empty where it can."""
        has_judge = self.reviewed.judged
        if has_judge is None:
            has_judge = judge.asks(reached(self._functions))
        return judge.refusal(self.name) if has_judge else ""

    @cached_property
    def primary(self) -> str:
        """The metric that stands for the task; of one that only writes a submission, that."""
        names = list(self._task.aggregation())
        numbers = [name for name in names if self.gives_number(name)]
        return reviewed.headline(str(self._task.config.task), numbers) or names[0]

    @cached_property
    def _numbers(self) -> frozenset[str]:
        """The metrics that are more than a list of what was answered."""
        names = self._task.aggregation()
        return frozenset(name for name in names if not _is_bypass(self._function(name)))

    def gives_number(self, metric: str) -> bool:
        """Whether an aggregation returns something, as its code says; else it writes a file."""
        function = self._function(metric)
        if _is_bypass(function) or "submission" in metric.lower():
            return False
        inner = function.func if isinstance(function, partial) else function
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(inner)))
        except (OSError, TypeError, SyntaxError):  # made at runtime, built in, or a lambda
            return True
        definition = tree.body[0]
        return not isinstance(definition, ast.FunctionDef) or _returns(definition.body)

    def higher_is_better(self, metric: str) -> bool:
        """Whether more is better; an undeclared metric counts as such."""
        return bool(self._task.higher_is_better().get(metric.partition(",")[0], True))

    def repeatable(self, metric: str) -> str:
        """Why an aggregation cannot be run again and again; empty where it can."""
        names = reached([self._function(metric)])
        in_code = self.reviewed.judged is not False and judge.asks(names)
        if in_code or metric in self._judged:
            return "its aggregation asks a judge, which is not asked again for an interval"
        heavy = sorted(name for name in names if HEAVY.search(name))
        if heavy:
            library = heavy[0].partition(".")[0]
            return f"its aggregation runs {library}, too slow to be run for every draw"
        return ""

    def score(
        self, rows: Sequence[Any], answers: Mapping[int, Mapping[str, Any]]
    ) -> tuple[Scores, dict[int, str]]:
        """What the task makes of every answer, and why it makes nothing of those where it raises;
        `answers` are by doc_id, the number of a sample's row, and by filter.

        Raises NoJudge where a judge is asked that is not there.
        """
        self._scored = self._pristine
        self._pristine.restore()
        scores: Scores = {}
        faults: dict[int, str] = {}
        with self._alone(), judge.watched(self.name) as calls:
            for doc_id, filtered in answers.items():
                try:
                    scores[doc_id] = self._sample(rows[doc_id], filtered)
                except (Exception, SystemExit) as error:
                    _pass_on(error)
                    faults[doc_id] = _said_by(error)
            # an aggregation may read what process_results left behind, and is called many times
            self._scored = ModuleState(self._functions)
        silent = calls.silent()
        if silent:
            raise judge.NoJudge(silent)
        return scores, faults

    def fold(self, metric: str, values: Sequence[Any]) -> Fold:
        """The task's own aggregation over per-sample values; what it raises is the note."""
        try:
            with judge.watched(self.name) as calls:
                value, files = self._call(metric, values)
        except judge.NoJudge as error:
            return Fold(note=str(error))
        except (Exception, SystemExit) as error:
            _pass_on(error)
            return Fold(note=f"its aggregation fails: {_said_by(error)}")
        if calls.requests:
            self._judged.add(metric)
        if calls.silent():
            return Fold(note=calls.silent())
        return _folded(value, files)

    @contextlib.contextmanager
    def repeated(self, metric: str) -> Iterator[Aggregate]:
        """The number of an aggregation over any values, for many calls: each begins from the same
        state, and raises whatever the task's code raises.
        """
        with self._alone() as folder:
            yield lambda values: number(self._applied(metric, values, folder))

    def value(self, scores: Mapping[str, Any], metric: str) -> float | None:
        """A sample's own number in `metric`, None where only the aggregation has one."""
        score = scores.get(metric)
        if isinstance(score, Mapping):
            score = score.get(self._task.config.score_key)
        return number(score)

    def group(self, score: Any) -> str | None:
        """The name of the samples that a sample is scored with; None where it stands alone."""
        keys = self.reviewed.groups
        cluster = self._task.config.cluster_key
        if not keys and cluster:
            keys = (cluster,)
        name = _key(score, keys)
        beside = self.reviewed.beside
        return re.sub(beside, "", name) if name and beside else name

    def without_partners(self, scores: Scores) -> list[int]:
        """Take the metrics from samples that are scored in groups of a size and whose group lacks
        one, and say which: a task would fail on the first of them.
        """
        size = self.reviewed.size
        members: dict[tuple[str, str | None], list[int]] = {}
        for doc_id, own in scores.items() if size else ():
            for metric, score in own.items():
                members.setdefault((metric, self.group(score)), []).append(doc_id)
        alone: set[int] = set()
        for (metric, _), doc_ids in members.items():
            if len(doc_ids) != size:
                alone.update(doc_ids)
                for doc_id in doc_ids:
                    del scores[doc_id][metric]
        return sorted(alone)

    def strata(self) -> list[tuple[str, ...]]:
        """By which keys of a sample's value its parts may count alike, likeliest first."""
        if self.reviewed.strata:
            return [self.reviewed.strata]
        return [(key,) for key in reviewed.STRATA]

    def stratum(self, score: Any, keys: Sequence[str]) -> str | None:
        """The part that a sample belongs to by those keys."""
        return _key(score, keys)

    def _function(self, metric: str) -> Any:
        return self._task.aggregation()[metric.partition(",")[0]]

    def _sample(self, row: Any, answers: Mapping[str, Any]) -> dict[str, Any]:
        """The scores of one sample by metric, for every filter of the task."""
        declared = self._numbers
        scores = {}
        for position, (name, answer) in enumerate(answers.items()):
            _seed()
            for metric, value in self._process_results(row, [answer]).items():
                if metric in declared:
                    scores[metric if position == 0 else f"{metric},{name}"] = value
        return scores

    def _call(self, metric: str, values: Sequence[Any]) -> tuple[Any, dict[str, bytes]]:
        """What an aggregation returns, and the files that it writes."""
        with self._alone() as folder:
            value = self._applied(metric, values, folder)
            return value, _written(folder)

    def _applied(self, metric: str, values: Sequence[Any], folder: Path) -> Any:
        """What an aggregation returns, from the state in which the samples were scored."""
        function = self._function(metric)
        self._scored.restore()
        _seed()
        if "args" in inspect.signature(function).parameters:
            return function(list(values), args=_arguments(folder))
        return function(list(values))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Path]:
        """A folder of its own to work in, nothing on the terminal, and its own random numbers."""
        states = _generators()
        with tempfile.TemporaryDirectory(prefix="prunebench-") as name, quiet(), judge.loadable():
            before = os.getcwd()
            # some tasks write beside where they are run, whatever path they are given
            os.chdir(name)
            try:
                yield Path(name)
            finally:
                os.chdir(before)
                _restore(states)
                self._scored.restore()


def number(value: Any) -> float | None:
    """A plain or numpy number as a float, None for anything else."""
    plain = value.item() if hasattr(value, "dtype") and value.size == 1 else value
    return float(plain) if isinstance(plain, int | float) else None


def _is_bypass(function: Any) -> bool:
    return getattr(function, "__name__", "") in NO_NUMBER


def _returns(body: Sequence[ast.stmt]) -> bool:
    """Whether code returns a value, functions inside it left out."""
    for step in body:
        if isinstance(step, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(step, ast.Return) and step.value is not None:
            empty = isinstance(step.value, ast.Constant) and step.value.value is None
            return not empty
        inner = [part for part in ast.iter_child_nodes(step) if isinstance(part, ast.stmt)]
        handlers = getattr(step, "handlers", [])
        for handler in handlers:
            inner += handler.body
        if _returns(inner):
            return True
    return False


def _arguments(folder: Path) -> SimpleNamespace:
    """What lmms-eval's command line hands to an aggregation, as far as tasks read it."""
    return SimpleNamespace(
        output_path=str(folder),
        model="prunebench",
        model_args="",
        tasks="",
        log_samples=False,
        log_samples_suffix="",
        limit=None,
        seed=[0, 1234, 1234, 1234],
    )


def _folded(value: Any, files: Mapping[str, bytes]) -> Fold:
    """What an aggregation gave, as numbers where it gave any."""
    plain = number(value)
    if plain is not None:
        if plain != plain or abs(plain) == float("inf"):
            return Fold(note="its aggregation gives no finite number")
        return Fold(plain)
    parts = _parts(value)
    if parts:
        return Fold(_total(parts), parts, note="its aggregation gives several numbers")
    if files:
        names = ", ".join(sorted(files))
        return Fold(files=files, note=f"no number here, but {names} to be sent to its server")
    kind = "nothing" if value is None else f"a {type(value).__name__}"
    return Fold(note=f"its aggregation gives {kind}, and no number")


def _parts(value: Any, prefix: str = "") -> dict[str, float]:
    """The finite numbers of a mapping or a sequence, by what leads to them."""
    parts: dict[str, float] = {}
    if isinstance(value, Mapping):
        entries = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list | tuple):
        entries = [(str(place), entry) for place, entry in enumerate(value)]
    else:
        return parts
    for key, entry in entries[:100]:
        name = one_line(f"{prefix}/{key}", 100)
        plain = number(entry)
        if plain is None:
            parts |= _parts(entry, name)
        elif abs(plain) < float("inf"):
            parts[name] = plain
    return parts


def _total(parts: Mapping[str, float]) -> float | None:
    """The number of several that stands for all; None where none says that it does."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    for word in ("overall", "average", "avg", "all", "total", "accuracy", "acc", "score"):
        for name, value in parts.items():
            if name.lower().strip("/") == word:
                return value
    return None


def _written(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by a name that a cell's folder has no other file of."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            continue
        name = re.sub(r"[^A-Za-z0-9._+-]", "-", path.name)[-150:]
        files[SUBMISSION + name] = path.read_bytes()
    return files


def _key(score: Any, keys: Sequence[str]) -> str | None:
    """The values of those keys as one text; None where a value lacks one."""
    if not keys or not isinstance(score, Mapping):
        return None
    values = [score.get(key) for key in keys]
    if any(value is None or isinstance(value, list | dict) for value in values):
        return None
    return one_line("/".join(map(str, values)), 200)


def _pass_on(error: BaseException) -> None:
    """Raise again what is no doing of the task's."""
    if isinstance(error, MemoryError) or interrupts(error):
        raise error


def _said_by(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {message(error)}", 180)


def _seed() -> None:
    import numpy as np

    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])


def _generators() -> tuple[Any, Any]:
    import numpy as np

    return random.getstate(), np.random.get_state()


def _restore(states: tuple[Any, Any]) -> None:
    import numpy as np

    random.setstate(states[0])
    np.random.set_state(states[1])

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
from prunebench.benchmarks.fold import Fold, folded, number, written
from prunebench.benchmarks.quiet import quiet
from prunebench.benchmarks.reach import reached
from prunebench.benchmarks.state import ModuleState
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, one_line

SEEDS = (0, 1234)
"""Of Python's and numpy's generators, as lmms-eval sets them: some tasks guess where an answer
names no option.
"""

UNUSED = 624
"""Where in its block of numbers a Mersenne twister stands that has given none since its seeding."""

HEAVY = re.compile(
    r"^(pycocoevalcap|transformers|sentence_transformers|bert_score|bleurt|evaluate)"
)
"""Libraries an aggregation with which is too slow to be run some hundred times."""

NO_NUMBER = frozenset({"bypass_agg", "bypass"})
"""Aggregations of lmms-eval whose number (999) stands for none."""

Aggregate = Callable[[Sequence[Any]], float | None]
"""From the values of some samples to their number; None where they have none."""

Scores = dict[int, dict[str, Any]]
"""By doc_id and metric, what a task makes of one answer."""


@dataclass(frozen=True)
class Marks:
    """What a task makes of the answers, by doc_id: their scores, and why it makes nothing of those
    where it raises. `guesses` are those in whose scores a random number had a part.
    """

    scores: Scores
    faults: dict[int, str] = field(default_factory=dict)
    guesses: list[int] = field(default_factory=list)


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
        whole, count = self.reviewed.whole, len(self._task.instances)
        if count < whole:
            return (
                f"{one_line(self.name, 80)} is scored over all of its {whole} samples or not at "
                f"all, and {count} are asked; leave out limit"
            )
        return judge.refusal(self.name) if self._has_judge else ""

    @cached_property
    def _has_judge(self) -> bool:
        judged = self.reviewed.judged
        return judge.asks(reached(self._functions)) if judged is None else judged

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
        if self.reviewed.whole:
            return "its aggregation takes all of its samples or none, so they cannot be drawn anew"
        names = reached([self._function(metric)])
        in_code = self.reviewed.judged is not False and judge.asks(names)
        if in_code or metric in self._judged:
            return "its aggregation asks a judge, which is not asked again for an interval"
        heavy = sorted(name for name in names if HEAVY.search(name))
        if heavy:
            library = heavy[0].partition(".")[0]
            return f"its aggregation runs {library}, too slow to be run for every draw"
        return ""

    def score(self, rows: Sequence[Any], answers: Mapping[int, Mapping[str, Any]]) -> Marks:
        """What the task makes of every answer; `answers` are by doc_id, the number of a sample's
        row, and by filter.

        Raises NoJudge where a judge is asked that is not there.
        """
        self._scored = self._pristine
        self._pristine.restore()
        marks = Marks({})
        with self._alone(), judge.watched(self.name) as calls:
            for doc_id, filtered in answers.items():
                try:
                    marks.scores[doc_id], guessed = self._sample(rows[doc_id], filtered)
                except (Exception, SystemExit) as error:
                    _pass_on(error)
                    marks.faults[doc_id] = _said_by(error)
                    continue
                if guessed:
                    marks.guesses.append(doc_id)
            # an aggregation may read what process_results left behind, and is called many times
            self._scored = ModuleState(self._functions)
        silent = calls.silent()
        if silent:
            raise judge.NoJudge(silent)
        return marks

    def fold(self, metric: str, values: Sequence[Any]) -> Fold:
        """The task's own aggregation over per-sample values; what it raises is the note."""
        whole = self.reviewed.whole
        if whole and len(values) != whole:
            return Fold(
                note=f"its aggregation takes all of its {whole} samples or none, and "
                f"{len(values)} have an answer"
            )
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
        return folded(value, files)

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

    def groups(self, rows: Sequence[Any]) -> list[str | None]:
        """The names of the groups of all rows; None where a row stands alone, or where that is not
        known without an answer and its judge.
        """
        in_groups = self.reviewed.groups or self._task.config.cluster_key
        if not in_groups or self._has_judge:
            return [None] * len(rows)
        names: list[str | None] = []
        with self._alone():
            for row in rows:
                try:
                    own = self._process_results(row, [""])
                    names.append(next(filter(None, map(self.group, own.values())), None))
                except (Exception, SystemExit) as error:
                    _pass_on(error)
                    names.append(None)
        return names

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

    def _sample(self, row: Any, answers: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """The scores of one sample by metric, for every filter of the task, and whether a random
        number was drawn for them.
        """
        declared = self._numbers
        scores = {}
        guessed = False
        for position, (name, answer) in enumerate(answers.items()):
            _seed()
            for metric, value in self._process_results(row, [answer]).items():
                if metric in declared:
                    scores[metric if position == 0 else f"{metric},{name}"] = value
            guessed = guessed or _drawn()
        return scores, guessed

    def _call(self, metric: str, values: Sequence[Any]) -> tuple[Any, dict[str, bytes]]:
        """What an aggregation returns, and the files that it writes."""
        with self._alone() as folder:
            if not self.reviewed.sends:
                value = self._applied(metric, values, folder)
            else:
                # its file is written before; what belongs to somebody else's server is the user's
                # to send
                with contextlib.suppress(judge.Unsent), judge.sealed():
                    value = self._applied(metric, values, folder)
                value = None
            return value, written(folder)

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


def _drawn() -> bool:
    """Whether a random number was drawn since the generators were seeded."""
    import numpy as np

    numpy_state = np.random.get_state(legacy=False)["state"]
    return (random.getstate()[1][-1], numpy_state["pos"]) != (UNUSED, UNUSED)


def _generators() -> tuple[Any, Any]:
    import numpy as np

    return random.getstate(), np.random.get_state()


def _restore(states: tuple[Any, Any]) -> None:
    import numpy as np

    random.setstate(states[0])
    np.random.set_state(states[1])

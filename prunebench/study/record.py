"""Record: what cell.json of a cell says, filled by the sweep and read by the report.

The fields of `CellRecord` and `Metric` are the keys of the file, in its order; their annotations
are its checks. A key that an older or newer version does not have is no damage: what has a default
may be missing, and what is unknown is passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from prunebench.study import facts, schema
from prunebench.study.facts import (
    Amounts,
    Budget,
    Count,
    Damaged,
    Digests,
    Name,
    Number,
    Plain,
    Rule,
    Seams,
    Text,
    Truth,
    Whole,
    short,
)

Status = Literal["ok", "failed", "oom", "unsupported", "infeasible"]
"""What became of a cell."""

SampleStatus = Literal["ok", "unreadable", "infeasible", "unsupported", "failed", "timeout", "oom"]
"""How a sample fared: answered; its image or text could not be made an input; or what became of the
method on it.
"""

Kind = Literal["quality", "cost"]
"""Whether a cell's answers were scored, or its time and memory measured."""

BASELINE = "none"
"""The method that prunes nothing; what others are relative to."""

CONTROL = "random"
"""The method that any other must beat at the same budget."""

BLIND = "blind"
"""The method that drops every visual token: what is answered without the images."""

OWN = "own"
"""The budget that is each method's own: its operating point as its paper runs it."""

RIGHT = 0.5
"""The least score of an answer that counts as right, where scores are shares."""

STATUSES = get_args(Status)
TABLES: Mapping[str, str] = {"quality": "samples.parquet", "cost": "pairs.parquet"}
"""The table that every cell of a kind has."""

COUNTED = ("tokens", "bytes", "FLOP", "ms", "MiB")
"""Units of numbers that are never below zero."""


@dataclass(frozen=True)
class Metric:
    """One number of a cell with its uncertainty: an entry under "metrics", a row of metrics.csv.

    `stderr` and the 95 % interval `ci_low`, `ci_high` are None where `n` observations cannot give
    them; `higher_is_better` is None for a number that only describes.
    """

    metric: Name
    value: Number | None = None
    unit: Text = ""
    stderr: Number | None = None
    ci_low: Number | None = None
    ci_high: Number | None = None
    n: Count | None = None
    higher_is_better: Truth | None = None

    @classmethod
    def read(cls, entry: Any) -> Metric:
        """The metric that an entry holds; raises Damaged where it is none."""
        cls.check(entry)
        return cls.checked(entry)

    @classmethod
    def checked(cls, entry: Mapping[str, Any]) -> Metric:
        """The metric that an entry holds which was checked."""
        values = facts.present(cls, entry)
        # a study has the same few names in hundred thousands of entries
        for name in ("metric", "unit"):
            if name in values:
                values[name] = sys.intern(values[name])
        # a frozen class sets field by field, which takes as long as reading the file; of a fact
        # that is absent the class has the default
        metric = object.__new__(cls)
        metric.__dict__.update(values)
        return metric

    @classmethod
    def check(cls, entry: Any) -> None:
        """That an entry is what it should be; raises Damaged."""
        if _is_usual(entry):
            return
        if not isinstance(entry, dict) or not facts.is_name(entry.get("metric")):
            raise Damaged(f"metric {short(entry)} has no name")
        name = short(entry["metric"])
        facts.check_rules(cls, entry, f"metric {name} has ")
        below = entry.get("stderr") or 0.0
        if entry.get("unit") in COUNTED:
            below = min(below, entry.get("value") or 0.0)
        if below < 0:
            raise Damaged(f"metric {name} has {short(below)}, which cannot be below zero")
        low, high = entry.get("ci_low"), entry.get("ci_high")
        if low is not None and high is not None and low > high:
            raise Damaged(
                f"metric {name} has an interval whose low end {short(low)} is above its high end "
                f"{short(high)}"
            )


SampleCounts = dict[str, int]
"""How many samples the task has ("asked"), and how many of them the cell "answered"."""

Metrics = Annotated[tuple[Metric, ...], Rule("a list", lambda value: isinstance(value, list))]


@dataclass(frozen=True)
class Origin:
    """What the report shows of a cell's provenance; the rest of it is only kept.

    `dirty` says that the code had changes that are in no commit.
    """

    hardware: Text = ""
    dtype: Text = ""
    commit: Text = ""
    dirty: Truth = False


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One cell: what was run, what became of it, and its numbers.

    `schema` is the version of what its keys mean, None where it was written before it was said.
    `fingerprint` is a hash over all that decides the answers. `method` is the label that tables
    show, `pruner` the name or file behind it. `control` marks a method that stands in the study
    only to be compared with. `budget` and `task` are written as in the grid. `samples` is None
    where a cell does not say how many it was asked, as those of cost do not. `metric` is the task's
    primary one; its number also stands under the name "score". `reach` is "nearest" where the
    method could not spend the budget, and ran at the nearest that it can, and `port` says what
    stands in for something that the model lacks. `entering` are the visual tokens that enter every
    layer of the LLM, `encoder` those that are left behind a seam of the vision encoder, by its name
    ("vision:22"); both are means over samples, and cells of before they were kept have none.
    `provenance` holds versions, hardware and settings; `files` the sha256 of every table, which the
    store fills in.
    """

    schema: Count | None = None
    id: Name
    fingerprint: Text
    kind: Kind
    model: Name
    method: Name
    pruner: Text | None = None
    pruner_source: Text | None = None
    settings: Plain
    control: Truth | None = None
    budget: Budget
    budget_kind: Text
    task: Text
    seed: Whole
    status: Status
    reason: Text
    samples: SampleCounts | None = None
    reach: Text | None = None
    port: Text | None = None
    metric: Text | None = None
    higher_is_better: Truth | None = None
    entering: Amounts | None = None
    encoder: Seams | None = None
    metrics: Metrics
    provenance: Plain
    files: Digests = field(default_factory=dict)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> CellRecord:
        """The record that cell.json holds; raises Damaged that names the first fact that is not
        what it should be.
        """
        return cls(**cls.facts(content))

    @classmethod
    def facts(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of that record by name; raises Damaged as well."""
        cls.check(content)
        values = facts.present(cls, content)
        values["metrics"] = tuple(map(Metric.checked, content["metrics"]))
        return values

    @classmethod
    def check(cls, content: Mapping[str, Any]) -> None:
        """That every fact is there and is what it should be; raises Damaged."""
        schema.check(content)
        facts.check_present(cls, content, "cell.json")
        facts.check_rules(cls, content, "cell.json has ")
        # only now: from here on what is required counts as present and of its type
        facts.check_words(cls, content)
        facts.check_rules(Origin, content["provenance"], "cell.json has provenance.")
        for entry in content["metrics"]:
            Metric.check(entry)
        counts = content.get("samples")
        if counts is not None and not _is_counts(counts):
            raise Damaged(
                f"cell.json has samples {short(counts)} where counts asked and answered belong"
            )
        table = TABLES[content["kind"]]
        if table not in content["files"]:
            raise Damaged(f"cell.json does not name {table}")

    def content(self) -> dict[str, Any]:
        """What cell.json holds but for its seal: a fact that is None has no key."""
        values: dict[str, Any] = {}
        for fact in fields(CellRecord):
            value = getattr(self, fact.name)
            if value is not None:
                values[fact.name] = value
        values["metrics"] = [asdict(metric) for metric in self.metrics]
        return values

    @property
    def ok(self) -> bool:
        """Whether the cell came to its end."""
        return self.status == "ok"

    @property
    def whole(self) -> bool:
        """Whether its numbers speak for every sample of the task; a cell that does not say does."""
        return self.samples is None or self.samples["asked"] == self.samples["answered"]

    @property
    def asked(self) -> int | None:
        """How many samples the task has, where the cell says so."""
        return None if self.samples is None else self.samples["asked"]

    @property
    def origin(self) -> Origin:
        """Where its numbers come from."""
        return Origin(**facts.present(Origin, self.provenance))

    @property
    def question(self) -> tuple[Any, ...]:
        """What it answers; two cells of one study never answer the same."""
        return (
            self.kind,
            self.model,
            self.method,
            self.budget_kind,
            self.budget,
            self.task,
            self.seed,
        )

    def number(self, name: str) -> Metric | None:
        """The metric of that name, None where the cell has none or its value is missing."""
        return self._numbers.get(name)

    @cached_property
    def _numbers(self) -> dict[str, Metric]:
        """The metrics that have a value, by name, of two of a name the first: a report asks each
        cell for dozens, again and again.
        """
        numbers: dict[str, Metric] = {}
        for metric in self.metrics:
            if metric.value is not None:
                numbers.setdefault(metric.metric, metric)
        return numbers


def _is_usual(entry: Any) -> bool:
    """Whether an entry is for certain what a metric may be: most are, and it is asked of
    hundred thousands.
    """
    if type(entry) is not dict:
        return False
    name, unit, n = entry.get("metric"), entry.get("unit"), entry.get("n")
    if type(name) is not str or not name or type(unit) is not str:
        return False
    numbers: list[Any] = [entry.get(key) for key in ("value", "stderr", "ci_low", "ci_high")]
    for number in numbers:
        if type(number) is not float or not -facts.LARGEST <= number <= facts.LARGEST:
            return False
    value, stderr, low, high = numbers
    if stderr < 0 or low > high or (value < 0 and unit in COUNTED):
        return False
    better = entry.get("higher_is_better")
    return type(n) is int and 0 <= n <= facts.MOST and (better is None or type(better) is bool)


def _is_counts(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if not (facts.is_count(value.get("asked")) and facts.is_count(value.get("answered"))):
        return False
    return bool(value["answered"] <= value["asked"])

"""Headings: the columns of leaderboard.csv, in their order, and what they say.

Those of the leaderboard's own stand here; those of what was measured are rows of study/columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prunebench.study.columns import INTERVAL, on_board
from prunebench.study.machine import QUIET, RULE
from prunebench.study.pairwise import BETTER, UNSHOWN, WORSE

DIFFERENCE = (*INTERVAL, "_p")
"""A paired difference has a p-value, too."""

FAMILY = (*DIFFERENCE, "_holm")
"""And one that is corrected, where many are tested against the same reference."""

ALL = "all"
"""The task of a row that stands for all of them."""


@dataclass(frozen=True)
class Heading:
    """A column of the leaderboard's own, or several whose names end in `ends`."""

    name: str
    about: str
    text: bool = False
    ends: tuple[str, ...] = ("",)

    @property
    def names(self) -> list[str]:
        """The columns of leaderboard.csv."""
        return [self.name + end for end in self.ends]


MARK = f"{BETTER}, {WORSE}, or {UNSHOWN} at 95 % after Holm's correction"

LINE = (
    Heading("model", "what was run", text=True),
    Heading("method", "its label in the grid", text=True),
    Heading("settings", "all of the method's, as JSON", text=True),
    Heading("budget_kind", "what the budget counts", text=True),
    Heading("budget", "as written in the grid", text=True),
)
"""What names a method at a budget in tables that are read beside the leaderboard."""

HEAD = (
    *LINE[:3],
    Heading("control", "true where it is there only to be compared with", text=True),
    *LINE[3:],
    Heading("task", "as written in the grid, or all", text=True),
    Heading("seeds", "how many are pooled"),
    Heading("n", "samples behind the accuracy, of all tasks in row all"),
    Heading("n_asked", "samples that the tasks have"),
    Heading(
        "accuracy",
        "the task's primary metric, mean over seeds; in row all where tasks share a scale",
        ends=INTERVAL,
    ),
    Heading("relative_accuracy", "accuracy over that of none, same samples", ends=INTERVAL),
    Heading("difference_to_none", "accuracy less that of none, paired", ends=FAMILY),
    Heading("against_none", MARK, text=True),
    Heading("n_paired_none", "samples that it and none answered, behind both comparisons with it"),
)
TAIL = (
    Heading("difference_to_random", "accuracy less that of random, paired", ends=FAMILY),
    Heading("n_paired_random", "samples that it and random answered"),
    Heading("against_random", MARK, text=True),
    Heading("better_than_random", "yes where against_random says better, else no", text=True),
    Heading("status", "ok, failed, oom, unsupported, infeasible, or partial", text=True),
    Heading("reason", "why it is not ok, or speaks for fewer samples", text=True),
    Heading("hardware", "where the numbers come from", text=True),
    Heading("dtype", "of the model's weights", text=True),
    Heading("commit", "of the code", text=True),
)


ABOVE_BLIND = Heading(
    "above_blind", "accuracy less that of blind, which sees no image, paired", ends=DIFFERENCE
)
N_BLIND = Heading("n_paired_blind", "samples that it and blind answered, behind above_blind")
"""Only where some task has its blind value."""

PORT = Heading("port", "what stands in for something that the model lacks", text=True)
"""Only where a method runs in a way that its paper does not have."""

BESIDE = (
    Heading("fidelity", "share of samples with the very answer of the unpruned model"),
    Heading("right_to_wrong", "share of samples that none has right and the method wrong"),
    Heading("wrong_to_right", "share of samples that none has wrong and the method right"),
    Heading(
        "accuracy_evidence",
        "accuracy over the samples that evidence_recall is of, where not all have evidence",
    ),
    Heading("accuracy_blind", "accuracy of blind, which sees no image, on the same task"),
    Heading("accuracy_resize", "accuracy of resize at the same budget on the same task"),
    Heading("hard", "accuracy on what resize at the same budget has wrong", ends=INTERVAL),
    Heading("n_hard", "samples that resize at the same budget has wrong"),
    Heading("hard_none", "accuracy of none on these"),
)
"""What the same samples say elsewhere, where the study has it; right is at least half a point of 1.
"""

PRINTED = (
    Heading("published_own", "what the method's own paper prints at this budget"),
    Heading("published_least", "the least that others print of it"),
    Heading("published_most", "the most that others print of it"),
    Heading("published_count", "how many others do; of none they print the unpruned model"),
    Heading(
        "published_gap",
        "relative_accuracy less the printed share of the unpruned value, in points: of the own "
        "paper, else the median of others",
    ),
    Heading("published_why", "by what printed and measured may differ", text=True),
)
"""Only of public models and tasks of which papers print the same."""

ITSELF = Heading(
    "itself_ratio",
    "time of the unpruned model over its own, run after run, while the row's times were taken",
    ends=INTERVAL,
)
MACHINE = Heading(
    "machine",
    f"{RULE}; else {QUIET}",
    text=True,
)
CEILINGS = (
    Heading("prefill_ceiling", "the least that prefill_ratio could come to, by FLOPs"),
    Heading("prefill_reached", "the share of what prefill could save that it did"),
    Heading("total_ceiling", "the least that total_ratio could come to, by FLOPs"),
    Heading("total_reached", "the share of what the whole could save that it did"),
)
"""Only where the cost pass ran."""

SOMETIMES = (ABOVE_BLIND, N_BLIND, *BESIDE, *PRINTED, PORT, ITSELF, MACHINE, *CEILINGS)
"""Behind the others, where a row has them."""


def names(headings: Iterable[Heading]) -> list[str]:
    """The columns of a table in a row."""
    columns: list[str] = []
    for heading in headings:
        columns += heading.names
    return columns


def _names() -> Iterator[str]:
    yield from names(HEAD)
    for _, board in on_board():
        yield from board.names
    yield from names(TAIL)


COLUMNS = tuple(_names())
TEXTS = tuple(heading.name for heading in (*HEAD, *TAIL, *SOMETIMES) if heading.text)

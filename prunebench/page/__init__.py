"""Page: leaderboard.html, a study that one can sort, filter, plot and look through, in one file
that opens from disk and asks no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prunebench
from prunebench.border.text import clean, one_line
from prunebench.page import assemble, contrast, looks, pictures, questions, tables
from prunebench.report.tables import write as write_file
from prunebench.study.cells import StoredCell

__all__ = ["FILE", "Page", "chosen", "made", "write"]

FILE = "leaderboard.html"

SCHEMA = 1
"""Of the data in the page; its script reads this one alone."""

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """What was written, what cannot be shown in it, and what it leaves out because there is so
    much.
    """

    path: Path
    warnings: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def _unheard(_: str) -> None:
    """Nobody asks."""


def write(
    study: Path,
    records: Sequence[StoredCell],
    methods: Mapping[str, Facts],
    other: Path | None = None,
) -> Page:
    """Write a study's page from its tables and the cells behind them, as `made` makes it; raises
    ReportError where the folder is not writable, too.
    """
    left_out: list[str] = []
    data, warnings = made(study, records, methods, other, left_out.append)
    return Page(write_file(study / FILE, data), warnings, tuple(left_out))


def made(
    study: Path,
    records: Sequence[StoredCell],
    methods: Mapping[str, Facts],
    other: Path | None = None,
    note: questions.Warn = _unheard,
) -> tuple[bytes, tuple[str, ...]]:
    """The page of a study, and what a reader should know about it.

    `methods` says of every label what is known of the method; `other` is a study that this one is
    compared with. What cannot be shown becomes a warning, `note` is told what is left out; raises
    ReportError where the other study is none.
    """
    warnings: list[str] = []
    groups = questions.groups(records, warnings.append, note)
    content = {
        "schema": SCHEMA,
        "study": one_line(study.resolve().name, 80),
        "version": prunebench.__version__,
        "commits": sorted({cell.commit for cell in records if cell.commit}),
        "tables": tables.of_study(study, warnings.append),
        "looks": looks.of_cells(records),
        "methods": _cleaned(methods),
        "questions": pictures.added(study, groups, records, warnings.append),
        "contrast": None if other is None else contrast.of_studies(records, other, warnings.append),
    }
    return assemble.page(content), tuple(dict.fromkeys(map(one_line, warnings)))


def chosen(records: Sequence[StoredCell]) -> dict[tuple[str, str], list[str]]:
    """The samples of every model and task that the page shows, in its order; pictures are made of
    the first of them.
    """
    samples = {}
    for group in questions.groups(records, _unheard, _unheard):
        names = [question["sample"] for question in group["questions"]]
        samples[group["model"], group["task"]] = names
    return samples


def _cleaned(value: Any) -> Any:
    """The same with every text in it free of what a page would act upon."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(name)): _cleaned(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(part) for part in value]
    return value

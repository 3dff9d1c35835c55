"""Pairs: pairs.csv, every method against every other at the same budget.

A row is one pair on one task of one model, or on "all" of its tasks, each of which counts alike.
All pairs of a model, task and budget are a family, over which Holm's correction holds. Methods that
could not keep to the budget are in no pair, and neither are the two references without a budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from prunebench.border.files import opened
from prunebench.border.text import one_line
from prunebench.report import tables
from prunebench.report.comparison import Warn, cluster_codes, scale_of, vector_of
from prunebench.report.headings import ALL, MARK, Heading, names
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.columns import INTERVAL
from prunebench.study.pairwise import Comparison, Sheet, compare, holm, mark
from prunebench.study.record import BASELINE, BLIND
from prunebench.study.samples import NAN, Vector, aligned
from prunebench.study.statistics import Array

Row = dict[str, Any]

C = TypeVar("C", "_Contest", "Contested")

Point = tuple[str, str, str]
"""A method, the kind of its budget, and the budget."""

HEADINGS = (
    Heading("model", "what was run", text=True),
    Heading("task", "as written in the grid, or all", text=True),
    Heading("budget_kind", "what the budget counts", text=True),
    Heading("budget", "as written in the grid", text=True),
    Heading("method", "one of the pair", text=True),
    Heading("other", "the other", text=True),
    Heading("n", "samples that both answered"),
    Heading("clusters", "images, or groups of samples, that these are of"),
    Heading("seeds", "how many the method was run with"),
    Heading("seeds_other", "how many the other was run with"),
    Heading("difference", "accuracy of the method less that of the other", ends=INTERVAL),
    Heading("wins", "samples on which the method scores more"),
    Heading("losses", "samples on which it scores less"),
    Heading(
        "test",
        "mcnemar, exact, where every question is right or wrong and has an image and a seed of its "
        "own; else bootstrap, over images, seeds and tasks",
        text=True,
    ),
    Heading("p", "probability of a difference at least as large where there is none"),
    Heading("p_holm", "that after Holm's correction over the pairs of the family"),
    Heading("family", "pairs of the same model, task and budget, which are corrected together"),
    Heading("smallest", "the difference that as many samples show four times of five, at 5 %"),
    Heading("verdict", MARK, text=True),
)
"""Of pairs.csv."""

COLUMNS = names(HEADINGS)
TEXTS = [heading.name for heading in HEADINGS if heading.text]


MOST_PAIRS = 100_000
"""Of the table; in a study of more those on single tasks are left out where the model has several,
for the pairs on all tasks together say most.
"""


@dataclass(frozen=True)
class _Contest:
    """Where methods are paired: on one task of a model, or on all of them."""

    model: str
    task: str
    sheets: tuple[Sheet[Point], ...]
    more_is_better: bool
    part: bool
    """Whether it is one task of several, on which methods are paired together as well."""

    def pairs(self) -> list[tuple[Point, Point]]:
        """All pairs of all budgets."""
        points = set(self.sheets[0].scores)
        for sheet in self.sheets[1:]:
            points &= set(sheet.scores)
        by_budget: dict[tuple[str, str], list[Point]] = {}
        for point in sorted(points):
            by_budget.setdefault(point[1:], []).append(point)
        every: list[tuple[Point, Point]] = []
        for _, members in sorted(by_budget.items()):
            every += combinations(members, 2)
        return every


def fold(cells: Sequence[StoredCell], warn: Warn, note: Warn = lambda _: None) -> pd.DataFrame:
    """The table as text; empty where no two methods share a budget. `note` hears what is left out
    of it.
    """
    contests = _contests_of(cells, warn)
    counts = [len(contest.pairs()) for contest in contests]
    rows: list[Row] = []
    for contest in _chosen(contests, counts, note):
        rows += _rows(contest)
    return tables.texts(rows, COLUMNS)


@dataclass(frozen=True)
class Contested:
    """The lines of the table that are of one model's pairs on one of its tasks, or on all of them;
    None where there are likely too many for the table to have them.
    """

    model: str
    part: bool
    count: int
    lines: Sequence[str] | None


def contested(cells: Sequence[StoredCell], warn: Warn, share: float) -> list[Contested]:
    """The lines of some models, whose cells are that share of the study's."""
    contests = _contests_of(cells, warn)
    counts = [len(contest.pairs()) for contest in contests]
    many = sum(counts) > MOST_PAIRS * share
    every = []
    for contest, count in zip(contests, counts, strict=True):
        lines = None
        if not (many and contest.part):
            lines = [tables.line(map(row.get, COLUMNS)) for row in _rows(contest)]
        every.append(Contested(contest.model, contest.part, count, lines))
    return every


def lines(every: Sequence[Contested], note: Warn) -> list[str] | None:
    """The lines of the whole table; None where some are missing after all."""
    together: list[str] = []
    in_order = sorted(every, key=lambda one: one.model)
    for one in _chosen(in_order, [one.count for one in in_order], note):
        if one.lines is None:
            return None
        together += one.lines
    return together


def load(study: Path) -> pd.DataFrame:
    """pairs.csv of a study with numbers as floats; raises ReportError."""
    path = study / "pairs.csv"
    again = f"fold the study first: prunebench report {one_line(str(study), 120)}"
    try:
        with opened(path) as file:
            rows = pd.read_csv(file, keep_default_na=False, dtype=str)
        rows = rows[COLUMNS]
        for name in COLUMNS:
            column = rows[name]
            texts = name in TEXTS
            rows[name] = column.map(tables.unguarded) if texts else pd.to_numeric(column)
    except FileNotFoundError:
        raise ReportError(
            f"there is no {path}: no two methods share a budget, or {again}"
        ) from None
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}; {again}") from None
    except (KeyError, ValueError) as error:
        detail = one_line(str(error), 100)
        raise ReportError(f"{path} is damaged ({detail}); {again}") from None
    return rows


# ---- one model -----------------------------------------------------------------------------------


def _contests_of(cells: Sequence[StoredCell], warn: Warn) -> list[_Contest]:
    """Where the methods of every model are paired."""
    by_model: dict[str, list[StoredCell]] = {}
    for cell in cells:
        if cell.kind == "quality":
            by_model.setdefault(cell.model, []).append(cell)
    contests: list[_Contest] = []
    for model, of_model in sorted(by_model.items()):
        contests += _contests(model, of_model, warn)
    return contests


def _chosen(contests: Sequence[C], counts: Sequence[int], note: Warn) -> list[C]:
    """Those that the table has, which are of so many pairs each."""
    if sum(counts) <= MOST_PAIRS:
        return list(contests)
    left_out = 0
    for contest, count in zip(contests, counts, strict=True):
        left_out += count if contest.part else 0
    note(f"pairs.csv has the pairs on all tasks together, without {left_out:,} on single ones")
    return [contest for contest in contests if not contest.part]


def _contests(model: str, cells: Sequence[StoredCell], warn: Warn) -> list[_Contest]:
    """All of its tasks together where they can be averaged, then every task."""
    sheets: dict[str, Sheet[Point]] = {}
    upwards: dict[str, bool] = {}
    scales: set[str] = set()
    by_task: dict[str, list[StoredCell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task, []).append(cell)
    for task, of_task in sorted(by_task.items()):
        sheet = _sheet(task, of_task, warn)
        if sheet is None:
            continue
        sheets[task] = sheet
        upwards[task] = any(cell.more_is_better for cell in of_task)
        scales.add(scale_of(task, of_task))
    together = len(sheets) > 1 and len(scales) == 1 and len(set(upwards.values())) == 1
    contests = []
    if together:
        more_is_better = next(iter(upwards.values()))
        contests.append(_Contest(model, ALL, tuple(sheets.values()), more_is_better, False))
    for task, sheet in sheets.items():
        contests.append(_Contest(model, task, (sheet,), upwards[task], together))
    return contests


Table = tuple["pd.Index[str]", Array]
"""The samples of a method, and what it scored on them [n, seeds]."""


def _sheet(task: str, cells: Sequence[StoredCell], warn: Warn) -> Sheet[Point] | None:
    """What every method scored at every budget on one task; None where none did."""
    by_point: dict[Point, dict[int, Vector]] = {}
    for cell in cells:
        if cell.method in (BASELINE, BLIND) or cell.reach or cell.number("score") is None:
            continue
        of_cell = vector_of(cell, warn)
        if of_cell is not None:
            point = (cell.method, cell.budget_kind, cell.budget)
            by_point.setdefault(point, {})[cell.seed] = of_cell
    tables_of: dict[Point, Table] = {}
    for point, seeds in by_point.items():
        ids, values = aligned(list(seeds.values()))
        tables_of[point] = ids, np.column_stack(values)
    tables_of = _of_one_set(task, tables_of, cells, warn)
    if not tables_of:
        return None
    samples = _union(ids for ids, _ in tables_of.values())
    codes = cluster_codes(cells, samples, warn)
    scores: dict[Point, Array] = {}
    for point, (ids, own) in tables_of.items():
        if ids is not samples:
            whole = np.full((len(samples), own.shape[1]), NAN)
            whole[samples.get_indexer(ids)] = own
            own = whole
        scores[point] = own
    return Sheet(np.arange(len(samples)) if codes is None else codes, scores)


def _of_one_set(
    task: str, tables_of: dict[Point, Table], cells: Sequence[StoredCell], warn: Warn
) -> dict[Point, Table]:
    """Those that were asked the same questions as most."""
    counts = [cell.asked for cell in cells if cell.asked is not None]
    together = _union(ids for ids, _ in tables_of.values())
    largest = max((len(ids) for ids, _ in tables_of.values()), default=0)
    if len(together) <= max(counts, default=largest):
        return tables_of
    # of those whose questions differ, whichever of them most have
    sets = Counter(tuple(ids) for ids, _ in tables_of.values())
    common = set(sets.most_common(1)[0][0])
    same = {point: table for point, table in tables_of.items() if set(table[0]) <= common}
    odd = sorted({point[0] for point in tables_of if point not in same})
    warn(f"{task}: {', '.join(odd)} scored on other samples, and are in no pair")
    return same


def _union(indices: Iterable[pd.Index[str]]) -> pd.Index[str]:
    """The samples of all, sorted, for seeded draws are of places."""
    distinct = list({id(index): index for index in indices}.values())
    if len(distinct) == 1:
        return distinct[0]
    together: pd.Index[str] = pd.Index([], dtype=object)
    for index in distinct:
        together = together.union(index)
    return together.sort_values()


# ---- rows ----------------------------------------------------------------------------------------


def _rows(contest: _Contest) -> list[Row]:
    """A row a pair."""
    pairs = contest.pairs()
    families: dict[tuple[str, str], list[Row]] = {}
    for pair, comparison in zip(pairs, compare(contest.sheets, pairs), strict=True):
        if comparison is None:
            continue
        kind, budget_text = pair[0][1:]
        row: Row = {
            "model": contest.model,
            "task": contest.task,
            "budget_kind": kind,
            "budget": budget_text,
            **_row(pair, comparison),
        }
        for name, point in zip(("seeds", "seeds_other"), pair, strict=True):
            row[name] = max(sheet.scores[point].shape[1] for sheet in contest.sheets)
        families.setdefault((kind, budget_text), []).append(row)
    rows: list[Row] = []
    for family in families.values():
        corrected = holm([row["p"] for row in family])
        for member, p in zip(family, corrected, strict=True):
            verdict = mark(member["difference"], p, contest.more_is_better)
            rows.append(member | {"p_holm": p, "family": len(family), "verdict": verdict})
    return rows


def _row(pair: tuple[Point, Point], comparison: Comparison) -> Row:
    one, other = pair
    return {
        "method": one[0],
        "other": other[0],
        "n": comparison.n,
        "clusters": comparison.clusters,
        "difference": comparison.value,
        "difference_low": comparison.low,
        "difference_high": comparison.high,
        "wins": comparison.wins,
        "losses": comparison.losses,
        "test": comparison.test,
        "p": comparison.p,
        "smallest": comparison.smallest,
    }

"""Ranks: ranks.csv, the average rank of every method over the tasks of a study, after Demšar
(2006).

Where several methods ran on several tasks at one budget, each task ranks them, and the ranks are
averaged. Friedman's test says whether they differ at all; two methods whose average ranks are no
further apart than Nemenyi's critical difference are not told apart by these tasks. Few tasks tell
few methods apart: the critical difference says how few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from prunebench.report import panels, tables
from prunebench.report.board import budget_label, records
from prunebench.report.comparison import SCORE, average
from prunebench.report.headings import Heading, names
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.pairwise import UNSHOWN, WORSE
from prunebench.study.record import BASELINE, BLIND
from prunebench.study.statistics import LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_METHODS = 3
"""Friedman's test asks whether any of several is different; of two McNemar's does."""

LEAST_TASKS = 2

DECIMALS = 12
"""Beyond these accuracies differ by rounding alone."""

HEADINGS = (
    Heading("model", "what was run", text=True),
    Heading("budget_kind", "what the budget counts", text=True),
    Heading("budget", "as written in the grid", text=True),
    Heading("method", "its label in the grid", text=True),
    Heading("tasks", "that all of the methods ran on"),
    Heading("methods", "that are ranked"),
    Heading("average_rank", "mean over tasks of the place of its accuracy, 1 for the best"),
    Heading("friedman_p", "probability of ranks that differ as much where no method is better"),
    Heading("critical_difference", "Nemenyi's, at 5 %: ranks further apart differ"),
    Heading(
        "against_best",
        f"{WORSE} where its rank is further than that from the best one, else {UNSHOWN}",
        text=True,
    ),
)
"""Of ranks.csv."""

COLUMNS = names(HEADINGS)


def fold(cells: Sequence[StoredCell]) -> pd.DataFrame:
    """The table; empty where no budget has enough methods and tasks."""
    return table(rows(cells))


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the table."""
    return pd.DataFrame(rows, columns=COLUMNS)


def rows(cells: Sequence[StoredCell]) -> list[dict[str, Any]]:
    """The rows of the table, model by model."""
    ranked: list[dict[str, Any]] = []
    for (model, kind, budget), scores in _scores(cells).items():
        accuracies = pd.DataFrame(scores).dropna(axis="columns")
        if accuracies.shape[0] >= LEAST_TASKS and accuracies.shape[1] >= LEAST_METHODS:
            about = {"model": model, "budget_kind": kind, "budget": budget}
            ranked += [about | row for row in _ranked(accuracies)]
    return ranked


def texts(ranks: pd.DataFrame) -> pd.DataFrame:
    """The table as it is written."""
    return tables.texts(records(ranks), COLUMNS)


def critical_difference(methods: int, tasks: int) -> float:
    """How far apart two average ranks must be to differ, by Nemenyi's test."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(LEVEL, methods, np.inf)) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * tasks)))


def figure(ranks: pd.DataFrame) -> Figure:
    """A diagram a model and budget: methods on the axis of ranks, bars over those that are not
    told apart; raises ReportError where there is none.
    """
    if ranks.empty:
        raise ReportError("no budget has enough methods and tasks")
    from matplotlib.figure import Figure

    every = list(ranks.groupby(["model", "budget_kind", "budget"], sort=False))
    drawn_panels, left_out = panels.first(every, "models and budgets", "ranks.csv")
    heights = [0.95 + 0.13 * len(rows) for _, rows in drawn_panels]
    whole = Figure(figsize=(8.0, sum(heights)), layout="constrained")
    panels.label(whole, left_out)
    axes = whole.subplots(len(drawn_panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, ((model, kind, budget), rows) in zip(axes, drawn_panels, strict=True):
        _diagram(ax, rows)
        name = f"{model} at {budget_label({'budget_kind': kind, 'budget': budget})}"
        first = rows.iloc[0]
        apart = f"under one bar: at most {first['critical_difference']:.1f} apart, not told apart"
        ax.set_title(
            f"{name}: average rank over {first['tasks']} tasks, 1 is the best\n"
            f"(Friedman p = {first['friedman_p']:.2g}); {apart}",
            fontsize=8,
            parse_math=False,
        )
    return whole


# ---- one budget ----------------------------------------------------------------------------------


def _scores(cells: Sequence[StoredCell]) -> dict[tuple[str, str, str], dict[str, dict[str, float]]]:
    """By model and budget, then by method: its accuracy on every task, less being worse."""
    groups: dict[tuple[str, str, str, str, str], list[StoredCell]] = {}
    for cell in cells:
        if cell.kind == "quality" and cell.method not in (BASELINE, BLIND) and not cell.reach:
            key = (cell.model, cell.budget_kind, cell.budget, cell.method, cell.task)
            groups.setdefault(key, []).append(cell)
    scores: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for (model, kind, budget, method, task), group in sorted(groups.items()):
        value = average(group, SCORE)
        of_method = scores.setdefault((model, kind, budget), {}).setdefault(method, {})
        if value is not None:
            # methods that are as good must tie, whatever the order of a sum
            of_method[task] = round(value if group[0].more_is_better else -value, DECIMALS)
    return scores


def _ranked(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of methods, the best first, from their accuracies [tasks, methods]."""
    from scipy import stats

    tasks, methods = table.shape
    means = table.rank(axis="columns", ascending=False).mean().sort_values(kind="stable")
    apart = critical_difference(methods, tasks)
    p = float(stats.friedmanchisquare(*table.to_numpy().T).pvalue)
    if np.isnan(p):  # on every task all are as good
        p = 1.0
    rows: list[dict[str, Any]] = []
    for method, rank in means.items():
        further = rank - means.iloc[0] > apart
        rows.append(
            {
                "method": str(method),
                "tasks": tasks,
                "methods": methods,
                "average_rank": float(rank),
                "friedman_p": p,
                "critical_difference": apart,
                "against_best": WORSE if further else UNSHOWN,
            }
        )
    return rows


def _diagram(ax: Axes, rows: pd.DataFrame) -> None:
    """The methods of one budget, as scikit-posthocs draws them."""
    import scikit_posthocs

    means = rows.set_index("method")["average_rank"]
    apart = float(rows["critical_difference"].iloc[0])
    gaps = np.abs(means.to_numpy()[:, None] - means.to_numpy()[None, :])
    # the drawing asks for p-values and compares them with 5 %; the critical difference is Nemenyi's
    values = np.where(gaps > apart, 0.0, 1.0)
    significance = pd.DataFrame(values, index=means.index, columns=means.index)
    colours = dict.fromkeys(means.index, "0.25")
    scikit_posthocs.critical_difference_diagram(
        means,
        significance,
        ax=ax,
        label_fmt_left="{label} ({rank:.2f})",
        label_fmt_right="({rank:.2f}) {label}",
        color_palette=colours,
        label_props={"fontsize": 7, "parse_math": False},
        elbow_props={"linewidth": 0.8},
        crossbar_props={"linewidth": 2.0, "color": "0.1"},
        marker_props={"s": 12},
    )
    ax.tick_params(labelsize=7)

"""Slices: figures of how accurate each method is on every part of the samples, at its smallest
budget: by kind of question, and by complexity, size of the image and size of the evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunebench.border.text import one_line
from prunebench.report import panels
from prunebench.report.board import budget_label, records
from prunebench.report.by_type import HEADLINE, KIND, smallest_budgets
from prunebench.study.cells import ReportError
from prunebench.study.record import BASELINE, BLIND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = 40

TITLE: Any = {"fontsize": 8, "parse_math": False}

PANELS = 8
"""Pairs of model and task that the figure has room for."""

BRIGHT = 0.45
"""From which accuracy on a field is so bright that a black number is read better than a white
one.
"""

ASPECTS = {
    "complexity": "complexity of the question",
    "image": "size of the image (tokens)",
    "evidence": "size of its evidence (tokens)",
}
"""What stands over the groups of an aspect."""

LEAST = "every method where it keeps least of the evidence"
BELOW = "below it: what a perfect reader of the kept tokens would reach"
ABOUT_HEADLINE = "; headline: mean over kinds that the unpruned model can answer"
"""What the figure of kinds says of itself."""

UNIT = " tokens"
"""What stands over the groups, and need not stand under each."""


def figure(types: pd.DataFrame) -> Figure:
    """A grid a model and task: a method a line, a group a column, aspects side by side; raises
    ReportError where samples differ in their kind alone, or scores are no shares.
    """
    from matplotlib.figure import Figure

    rows = types[(types["by"] != KIND) & (types["method"] != BLIND)]
    if rows.empty or not rows["accuracy"].between(0, 1).all():
        raise ReportError("no sample says of which size it is")
    every = list(rows.groupby(["model", "task"], sort=False))
    drawn_panels, left_out = panels.first(every, "models and tasks", "by_type.csv", PANELS)
    grids = [(str(model), str(task), _smallest(part)) for (model, task), part in drawn_panels]
    heights = [0.9 + 0.19 * part["method"].nunique() for _, _, part in grids]
    whole = Figure(figsize=(8.0, sum(heights) + 0.6), layout="constrained")
    axes = whole.subplots(len(grids), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (model, task, part) in zip(axes, grids, strict=True):
        holes = _grid(ax, part)
        title = f"accuracy of {one_line(model, NAME)} on {one_line(task, NAME)}"
        note = "; empty: no answers there at this budget" if holes else ""
        ax.set_title(f"{title}, every method at its smallest budget{note}", **TITLE)
    panels.label(whole, left_out)
    return whole


def kinds(types: pd.DataFrame) -> Figure:
    """A grid of accuracies for each model: its methods at their smallest budget by kind of
    question, beside what a perfect reader of the same tokens would reach; raises ReportError where
    kinds are not known.
    """
    from matplotlib.figure import Figure

    types = types[types["by"] == KIND]
    if types.empty:
        raise ReportError("no sample says of which kind it is")
    every = list(types.groupby("model", sort=False))
    grids, left_out = panels.first(every, "models", "by_type.csv")
    heights = [0.9 + 0.23 * of_model["method"].nunique() for _, of_model in grids]
    whole = Figure(figsize=(8.0, sum(heights) + 0.3), layout="constrained")
    panels.label(whole, left_out)
    axes = whole.subplots(len(grids), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (model, part) in zip(axes, grids, strict=True):
        of_model = smallest_budgets(part)
        table = of_model.pivot_table("accuracy", "method", "type", sort=False)
        # without the unpruned model nothing says which kinds count, and there is no headline
        has_headline = HEADLINE in table
        order = table[HEADLINE] if has_headline else table.mean(axis="columns")
        table = table.loc[order.sort_values(ascending=False, kind="stable").index]
        # behind the kinds of all tasks
        if has_headline:
            table[HEADLINE] = table.pop(HEADLINE)
        perfect = of_model.pivot_table("perfect", "method", "type", sort=False)
        budgets = {row["method"]: _name(row) for row in records(of_model)}
        _heat(ax, table.to_numpy(), perfect.reindex_like(table).to_numpy())
        ax.set_xticks(range(table.shape[1]), list(table.columns), rotation=40, ha="right")
        ax.set_yticks(range(table.shape[0]), [budgets[name] for name in table.index])
        if has_headline:
            ax.axvline(list(table.columns).index(HEADLINE) - 0.5, color="white", linewidth=3)
        title = f"accuracy of {one_line(str(model), NAME)} by kind of question, {LEAST}"
        ax.set_title(f"{title}\n{BELOW}{ABOUT_HEADLINE if has_headline else ''}", **TITLE)
    return whole


def _name(row: dict[str, Any]) -> str:
    """A method with its budget; the unpruned model has none."""
    name = one_line(row["method"], NAME)
    return name if name == BASELINE else f"{name} {budget_label(row)}"


def _smallest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of every method at its smallest budget."""
    parts = []
    for _, of_method in rows.groupby("method", sort=False):
        budgets = pd.to_numeric(of_method["budget"], errors="coerce")
        # a method that ran at its own operating point alone is shown there
        least = of_method[budgets == budgets.min()] if budgets.notna().any() else of_method
        kind = least["budget_kind"].iloc[0]
        name = _name(records(least)[0])
        parts.append(least[least["budget_kind"] == kind].assign(line=name))
    together: pd.DataFrame = pd.concat(parts)
    return together


def _grid(ax: Axes, rows: pd.DataFrame) -> bool:
    """One model on one task, lines from the best method to the worst; whether a field is empty."""
    columns = list(dict.fromkeys(zip(rows["by"], rows["type"], strict=True)))
    order = (
        rows.groupby("line")["accuracy"].mean().sort_values(ascending=False, kind="stable").index
    )
    table = rows.pivot_table("accuracy", "line", ["by", "type"], sort=False)
    table = table.reindex(index=order, columns=pd.MultiIndex.from_tuples(columns))
    scores = table.to_numpy()
    _heat(ax, scores, np.full(scores.shape, np.nan))
    labels = [name.removesuffix(UNIT).replace(" to ", "\N{EN DASH}") for _, name in columns]
    ax.set_xticks(range(len(columns)), labels)
    ax.set_yticks(range(len(order)), list(order))
    first = 0
    for place in range(1, len(columns) + 1):
        aspect = columns[first][0]
        if place < len(columns) and columns[place][0] == aspect:
            continue
        if place < len(columns):
            ax.axvline(place - 0.5, color="white", linewidth=3)
        middle = (first + place - 1) / 2
        below = (middle, -20)
        ax.annotate(
            ASPECTS[aspect],
            below,
            xycoords=("data", "axes points"),
            ha="center",
            va="top",
            fontsize=7,
            annotation_clip=False,
        )
        first = place
    return bool(np.isnan(scores).any())


def _heat(ax: Axes, scores: NDArray[Any], below: NDArray[Any]) -> None:
    """[lines, columns] scores as colours, with their numbers and those that stand below them."""
    ax.imshow(scores, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    ax.tick_params(labelsize=7)
    for row, column in np.ndindex(scores.shape):
        value, other = float(scores[row, column]), float(below[row, column])
        if np.isnan(value):
            continue
        words = f"{value:.2f}" if np.isnan(other) else f"{value:.2f}\n{other:.2f}"
        colour = "black" if value > BRIGHT else "white"
        text = ax.text(column, row, words, ha="center", va="center", fontsize=5.5, color=colour)
        # it lies in its field, and measuring thousands of them takes longer than drawing them
        text.set_in_layout(False)

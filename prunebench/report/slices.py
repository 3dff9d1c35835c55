"""Slices: a figure of what each method keeps of every part of the samples, by complexity, size of
the image and size of the evidence, at its smallest budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from prunebench.border.text import one_line
from prunebench.report import panels
from prunebench.report.by_type import KIND
from prunebench.study.cells import ReportError
from prunebench.study.record import BASELINE, BLIND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = 40

PANELS = 8
"""Pairs of model and task that the figure has room for."""

BRIGHT = 0.6
"""From which accuracy on a field is so bright that its number is black."""


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
        _grid(ax, part)
        title = f"{one_line(model, NAME)} on {one_line(task, NAME)}, every method at its smallest"
        ax.set_title(f"{title} budget", fontsize=8, parse_math=False)
    panels.label(whole, left_out)
    return whole


def _smallest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of every method at its smallest budget."""
    parts = []
    for method, of_method in rows.groupby("method", sort=False):
        budgets = pd.to_numeric(of_method["budget"], errors="coerce")
        # a method that ran at its own operating point alone is shown there
        least = of_method[budgets == budgets.min()] if budgets.notna().any() else of_method
        kind = least["budget_kind"].iloc[0]
        budget = f"{kind}:{least['budget'].iloc[0]}" if kind not in ("", "mean") else ""
        name = f"{one_line(str(method), NAME)} {budget or least['budget'].iloc[0]}"
        name = BASELINE if method == BASELINE else name
        parts.append(least[least["budget_kind"] == kind].assign(line=name))
    together: pd.DataFrame = pd.concat(parts)
    return together


def _grid(ax: Axes, rows: pd.DataFrame) -> None:
    """One model on one task; lines from the best method to the worst."""
    columns = list(dict.fromkeys(zip(rows["by"], rows["type"], strict=True)))
    order = rows.groupby("line")["accuracy"].mean().sort_values(ascending=False).index
    table = rows.pivot_table("accuracy", "line", ["by", "type"], sort=False)
    table = table.reindex(index=order, columns=pd.MultiIndex.from_tuples(columns))
    scores = table.to_numpy()
    ax.imshow(scores, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    labels = [f"{aspect} {name}" for aspect, name in columns]
    ax.set_xticks(range(len(columns)), labels, rotation=30, ha="right")
    ax.set_yticks(range(len(order)), list(order))
    ax.tick_params(labelsize=6)
    for place, (aspect, _) in enumerate(columns):
        if place and columns[place - 1][0] != aspect:
            ax.axvline(place - 0.5, color="white", linewidth=3)
    for row, column in np.ndindex(scores.shape):
        value = float(scores[row, column])
        if not np.isnan(value):
            colour = "black" if value > BRIGHT else "white"
            ax.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=5.5, color=colour
            )

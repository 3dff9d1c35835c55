"""Panels: how many a figure has, and what it says of those that it leaves out.

A figure with a panel a model, a task or a budget would have hundreds in a large study: too small to
read, and minutes to draw. So a figure shows the first ones, in the order of the table that it is
drawn from, says so below them, and bears the same words as its label for whoever prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from prunebench.border.text import number_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

MOST = 12
"""Of a figure with a panel a model, or a model and task, or a model and budget."""


def first(panels: Sequence[T], what: str, table: str, most: int = MOST) -> tuple[list[T], str]:
    """The panels that are drawn, and what is to be said of the others: empty where there are none.

    `what` the panels are of, and which `table` has all: "models and tasks", "leaderboard.csv".
    """
    if len(panels) <= most:
        return list(panels), ""
    return list(panels[:most]), f"the first {most} of {len(panels)} {what}; {table} has all"


def grid(
    count: int, size: tuple[float, float], more_height: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels of `size` inches, two in a line, that share their y axis; and
    these panels, line by line.
    """
    from matplotlib.figure import Figure

    columns = min(2, count)
    lines = -(-count // columns)
    inches = size[0] * columns, size[1] * lines + more_height
    figure = Figure(figsize=inches, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False, sharey=True).ravel())
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def others(count: int) -> str:
    """How many of something are not named: "1 other", "7 others"."""
    return number_of(count, "other")


def label(figure: Figure, note: str, axis: str = "") -> None:
    """Put the note below all panels, under what their common axis is called."""
    text = "\n".join(filter(None, [axis, note]))
    if text:
        figure.supxlabel(text, fontsize="medium" if axis else "small", parse_math=False)
    figure.set_label(note)

"""Staircase: the figure of layers.csv, the visual tokens alive in every layer, method by method.

Methods that thin tokens inside the model have their colour, and their name where their steps end.
Those that keep as many throughout the LLM are flat lines in grey that are named together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from prunebench.border.text import one_line
from prunebench.report import labels, panels
from prunebench.report.board import budget_label, overall, records
from prunebench.report.layers import ENCODER
from prunebench.report.palette import PLAIN, Look, looks
from prunebench.study.cells import ReportError
from prunebench.study.record import BASELINE, BLIND, OWN
from prunebench.study.samples import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = 40

SIZE = (4.4, 2.9)
"""Inches of a panel with the names beside it."""

MOST_IN_COLOUR = 8
"""Methods of a panel that a reader can tell apart."""

MOST_NAMES = 3
"""Of methods with one name, before the others are counted."""

ZONE = 0.3
"""How wide the vision encoder is drawn where tokens are lost there, as a share of the LLM."""

MOST_BLOCKS = 2
"""Of the vision encoder that have a tick."""

AXIS = "layer of the LLM"
ENCODER_AXIS = "layer of the LLM; left of the line: from which block v of the vision encoder on"

SAME_LEVEL = 2.0
"""Percent between flat lines that are named together: budgets are met to within about so much."""

GREY = "0.45"
"""Of names of grey lines, which would be too pale in the lines' own."""

FONT = 7.0
"""Points of a name."""

SPACING = 1.3
"""From one name to the next, in their height."""

AS_THEY_ARE: Mapping[str, str] = {}


@dataclass(frozen=True)
class _Stairs:
    """One method's staircase: [n] percent of the tokens between [n + 1] edges."""

    method: str
    edges: Array
    percent: Array

    @property
    def is_flat(self) -> bool:
        """Whether it has no step."""
        return len(self.percent) == 1

    @property
    def end(self) -> float:
        """The percent that reach the last layer."""
        return float(self.percent[-1])

    @property
    def shape(self) -> tuple[Any, ...]:
        """What two have in common that lie on each other."""
        return tuple(self.edges), tuple(np.round(self.percent, 1))


@dataclass(frozen=True)
class _Name:
    """What is written beside a panel, at the percent at which its lines end."""

    percent: float
    text: str
    colour: str


@dataclass(frozen=True)
class _Style:
    """Looks of methods, what they are called, and which of them come first."""

    looks: Mapping[str, Look]
    renamed: Mapping[str, str]
    order: tuple[str, ...]

    def names(self, methods: Sequence[str]) -> str:
        """Methods as one text, those that come first by name and the others by their number."""
        ordered = sorted(methods, key=self.place)
        words = [one_line(self.renamed.get(name, name), NAME) for name in ordered[:MOST_NAMES]]
        count = len(ordered) - len(words)
        if count:
            words.append(panels.others(count))
        return ", ".join(words)

    def place(self, method: str) -> tuple[int, bool, str]:
        """Where a method stands: as ordered, else by name, controls last."""
        place = self.order.index(method) if method in self.order else len(self.order)
        return place, self.looks[method].control, method


def figure(
    table: pd.DataFrame,
    renamed: Mapping[str, str] = AS_THEY_ARE,
    order: Sequence[str] = (),
    size: tuple[float, float] = SIZE,
) -> Figure:
    """A panel a model and budget at which some method thins tokens inside the model; raises
    ReportError where none does.

    `renamed` says what methods are called, where not as they are; of more than there are colours
    for, those have theirs that stand first in `order`. `size` are the inches of a panel.
    """
    every = list(_panels(overall(table)))
    if not every:
        raise ReportError("no method thins tokens inside the model")
    places, left_out = panels.first(every, "models and budgets", "layers.csv")
    whole, grid = panels.grid(len(places), size)
    controls = list(table.loc[table["control"], "method"].unique())
    style = _Style(looks(list(table["method"].unique()), controls), renamed, tuple(order))
    grid[0].set_ylim(0, 104)
    several = len({model for model, _, _ in places}) > 1
    for ax, (model, budget, rows) in zip(grid, places, strict=True):
        _panel(ax, rows, style)
        title = f"{one_line(model, NAME)}, {budget}" if several else budget
        ax.set_title(title, fontsize=9, parse_math=False)
    whole.supylabel("visual tokens alive (% of unpruned)", fontsize=9)
    has_encoder = any(_blocks(rows) for _, _, rows in places)
    panels.label(whole, left_out, ENCODER_AXIS if has_encoder else AXIS)
    # last: names find their height on the finished layout
    whole.draw_without_rendering()
    for ax, (_, _, rows) in zip(grid, places, strict=True):
        _write(ax, _names(_stairs(rows), style))
    return whole


# ---- panels --------------------------------------------------------------------------------------


def _panels(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Model, budget and rows of every panel in which there is a step, the largest budget first."""
    rows = table[~table["method"].isin([BASELINE, BLIND])].dropna(subset=["share"])
    for model, of_model in rows.groupby("model", sort=False):
        budgets = list(of_model.groupby(["budget_kind", "budget"]))
        budgets.sort(key=lambda one: _size(str(one[0][1])), reverse=True)
        for (_, budget), part in budgets:
            if any(not stairs.is_flat for stairs in _stairs(part)):
                label = budget_label(records(part)[0])
                own = "own operating points"
                yield str(model), own if budget == OWN else f"budget {label}", part


def _size(budget: str) -> tuple[bool, float]:
    """What budgets are sorted by: a method's own is the smallest."""
    try:
        return True, float(budget)
    except ValueError:
        return False, 0.0


def _stairs(rows: pd.DataFrame) -> list[_Stairs]:
    """The staircase of every method and its settings.

    Layer 3 lies between 3 and 4. What is left behind the seams of the vision encoder stands to the
    left of 0, one stage after the other, all of them equally wide.
    """
    blocks = _blocks(rows)
    width = _width(rows)
    every = []
    for (method, _), own in rows.groupby(["method", "settings"], sort=False):
        of_encoder = own[own["part"] == ENCODER].sort_values("first_layer")
        of_llm = own[own["part"] != ENCODER].sort_values("first_layer")
        edges = [float(first) for first in of_llm["first_layer"]]
        edges.append(float(of_llm["last_layer"].max()) + 1)
        percent = [100 * float(share) for share in of_llm["share"]]
        if len(of_encoder):
            # ahead of the first seam nothing is lost yet
            places = of_encoder["first_layer"].map(blocks.index)
            edges = [-width * (len(blocks) + 1), *(width * (places - len(blocks))), *edges]
            percent = [100.0, *(100 * of_encoder["share"]), *percent]
        every.append(_Stairs(str(method), np.array(edges), np.array(percent)))
    return every


def _blocks(rows: pd.DataFrame) -> list[int]:
    """The blocks of the vision encoder in front of which some method loses tokens."""
    return sorted(rows.loc[rows["part"] == ENCODER, "first_layer"].unique())


def _width(rows: pd.DataFrame) -> float:
    """How many layers a stage of the encoder is drawn wide, and what is ahead of its first."""
    return ZONE * (float(rows["last_layer"].max()) + 1) / (len(_blocks(rows)) + 1)


def _panel(ax: Axes, rows: pd.DataFrame, style: _Style) -> None:
    """The methods of one model at one budget."""
    every = _stairs(rows)
    coloured = _coloured(every, style)
    # of lines that lie on each other the one that is named first is seen
    for stairs in sorted(every, key=lambda one: style.place(one.method), reverse=True):
        look = style.looks[stairs.method]
        bright = stairs.method in coloured
        ax.stairs(
            stairs.percent,
            stairs.edges,
            baseline=None,
            color=look.colour if bright else PLAIN,
            linewidth=1.8 if bright else 0.9,
            zorder=3 if bright else 2,
        )
    ax.axhline(100, color="black", linewidth=1.0, linestyle=style.looks[BASELINE].linestyle)
    last = max(float(stairs.edges[-1]) for stairs in every)
    _layer_axis(ax, rows, last)
    ax.grid(color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def _layer_axis(ax: Axes, rows: pd.DataFrame, layers: float) -> None:
    """Ticks in the middle of layers, and one for each stage of the vision encoder."""
    from matplotlib.ticker import MaxNLocator

    blocks, width = _blocks(rows), _width(rows)
    numbers = MaxNLocator(6, integer=True).tick_values(0, layers - 1)
    inside = [int(number) for number in numbers if 0 <= number < layers]
    places = [number + 0.5 for number in inside]
    texts = [str(number) for number in inside]
    for place in sorted(set(np.linspace(0, len(blocks) - 1, MOST_BLOCKS, dtype=int))):
        if blocks:
            places.append(width * (place - len(blocks) + 0.5))
            # on a line of their own, for they stand close
            texts.append(f"\nv{int(blocks[place])}")
    ax.set_xticks(places, texts)
    ax.set_xlim(-width * (len(blocks) + 1) if blocks else 0, layers)
    if blocks:
        ax.axvline(0, color="0.6", linewidth=0.8)


# ---- names ---------------------------------------------------------------------------------------


def _coloured(every: Sequence[_Stairs], style: _Style) -> set[str]:
    """The methods that have their colour: those with steps, as far as a reader tells them apart."""
    stepped = {stairs.method for stairs in every if not stairs.is_flat}
    return set(sorted(stepped, key=style.place)[:MOST_IN_COLOUR])


def _names(every: Sequence[_Stairs], style: _Style) -> list[_Name]:
    """What is written beside a panel, from the bottom: staircases that lie on each other share a
    name, flat lines of about one level as well.
    """
    coloured = _coloured(every, style)
    together: dict[tuple[Any, ...], list[_Stairs]] = {}
    flat: list[_Stairs] = []
    for stairs in every:
        if stairs.is_flat:
            flat.append(stairs)
        else:
            together.setdefault((stairs.method in coloured, *stairs.shape), []).append(stairs)
    names = [_Name(100.0, style.renamed.get(BASELINE, BASELINE), "black")]
    for (bright, *_), group in together.items():
        methods = sorted({stairs.method for stairs in group}, key=style.place)
        colour = style.looks[methods[0]].colour if bright else GREY
        names.append(_Name(group[0].end, style.names(methods), colour))
    for level in _levels(flat):
        middle = float(np.mean([stairs.end for stairs in level]))
        text = style.names(list({stairs.method for stairs in level}))
        names.append(_Name(middle, f"flat: {text}", GREY))
    return sorted(names, key=lambda name: name.percent)


def _levels(flat: Sequence[_Stairs]) -> list[list[_Stairs]]:
    """Flat lines, those of about one level together."""
    levels: list[list[_Stairs]] = []
    for stairs in sorted(flat, key=lambda one: one.end):
        if levels and stairs.end - levels[-1][-1].end <= SAME_LEVEL:
            levels[-1].append(stairs)
        else:
            levels.append([stairs])
    return levels


def _write(ax: Axes, names: Sequence[_Name]) -> None:
    """Write the names right of a panel, as near to their lines as they do not cover each other."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    points = 72 * ax.get_window_extent().height / figure.dpi
    low, high = ax.get_ylim()
    gap = SPACING * FONT * (high - low) / points
    heights = labels.apart([name.percent for name in names], gap, low, high)
    across = ax.get_yaxis_transform()
    for name, height in zip(names, heights, strict=True):
        ax.plot(
            [1.0, 1.03],
            [name.percent, height],
            transform=across,
            color=name.colour,
            linewidth=0.7,
            clip_on=False,
        )
        ax.text(
            1.04,
            height,
            name.text,
            transform=across,
            color=name.colour,
            fontsize=FONT,
            va="center",
            parse_math=False,
        )

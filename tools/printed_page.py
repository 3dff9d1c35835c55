"""Printed page: docs/published.md and its figure, made from the printed numbers that the package
holds; tools/pages.py writes them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from prunebench import published
from prunebench.published import KEY, Agreement, Entry
from prunebench.published.agreement import MME

DISPUTES = 12
"""Rows of the table of what is most disputed."""

LEAD = 1.5
"""Points of printed average by which a method's own paper has it ahead of the best untrained
baseline, the median of 208 comparisons (prunebench/published/README.md).
"""

METHODS = 12
"""Methods that the figure shows, those that most keys are of."""

TICKS = (0, 0.1, 1, 10)
"""Of the axis of points."""

BLUE, ORANGE, GREY = "#0173b2", "#de8f05", "#8c8c8c"

Row = list[str]


def text() -> str:
    """The page, without its tables."""
    table = published.read()
    points, *_ = published.agreements()
    share = 100 * points.beyond / points.keys
    return PAGE.format(
        rows=f"{len(table):,}",
        sources=table["source"].nunique(),
        methods=table["method"].nunique(),
        keys=f"{points.keys:,}",
        share=f"{share:.0f}",
        maximum=f"{points.maximum:.0f}",
        typical=f"{points.median_beyond:g}",
        lead=f"{LEAD:g}",
    )


PAGE = """# What papers print

*Made by `tools/pages.py` from the printed numbers that the package holds.*

prunebench holds {rows} numbers that papers, READMEs and one rerun print about {methods} methods,
read from {sources} sources (how: `prunebench/published/README.md`). They are shown beside what is
measured: the own paper's value, the range and number of others, and by what they may differ.
Never one number, because there is none: of {keys} pairs of method and budget on a benchmark that
at least two sources print, {share} % differ by more than 0.1 points, and up to {maximum}. Where
they differ, the median is {typical} points. The typical lead that a paper claims over the best
untrained baseline is {lead}.

```
prunebench published model=llava-1.5-7b method=fastv task=pope budget=64
```

![How far apart printed values are](published.png)

*Left: the share of pairs whose printed values are at most so far apart. Right: the same for the
methods that most tables have: a dot a pair, the line at the median. The dashed line is the
typical claimed lead.*
"""


def agreement_rows() -> Iterator[Row]:
    """The table of spreads."""
    for one in published.agreements():
        yield [
            one.name,
            f"{one.keys:,}",
            share(one.differing, one),
            share(one.beyond, one),
            *(f"{value:.1f}" for value in (one.median, one.median_beyond, one.ninetieth)),
            f"{one.maximum:.1f}",
            *(f"{count}" for count in one.above),
        ]


AGREEMENT_HEAD = [
    "",
    "pairs",
    "differ",
    "beyond rounding",
    "median",
    "median of those beyond",
    "90th percentile",
    "largest",
    "> 1",
    "> 5",
    "> 10",
]


def share(count: int, one: Agreement) -> str:
    """A count with its share of all."""
    return f"{count:,} ({100 * count / one.keys:.0f} %)"


def dispute_rows() -> Iterator[Row]:
    """What is most disputed, with every value that is printed and how often."""
    table = published.read()
    for _, row in published.disputes(DISPUTES).iterrows():
        mask = pd.Series(True, index=table.index)
        for name in KEY:
            mask &= table[name] == row[name]
        for entry in published.entries(table[mask]):
            yield dispute(entry)


def dispute(entry: Entry) -> Row:
    """The row of an entry."""
    what = f"{entry.budget:g}" if entry.budget_kind == "tokens" else f"{100 * entry.budget:g} %"
    values = []
    for value, count in sorted(Counter(entry.others).items()):
        values.append(f"{value:g}" + (f" ({count})" if count > 1 else ""))
    own = ", ".join(f"{value:g}" for value in entry.own)
    every_value = (*entry.own, *entry.others)
    return [
        f"`{entry.method}`",
        entry.model,
        entry.benchmark,
        what,
        own or "none",
        " · ".join(values),
        f"{max(every_value) - min(every_value):.1f}",
    ]


DISPUTE_HEAD = ["method", "model", "benchmark", "budget", "own paper", "others (sources)", "apart"]


# ---- the figure ----------------------------------------------------------------------------------


def figure() -> bytes:
    """The spread, as PNG."""
    table = published.spread()
    table = table[table["benchmark"] != MME]
    whole = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = whole.subplots(1, 2, width_ratios=(2, 3))
    _draw_share(left, table)
    _draw_methods(right, table)
    for ax in (left, right):
        ax.axvline(LEAD, color=ORANGE, linestyle="--", linewidth=1)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(FixedLocator(TICKS))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    place = (LEAD, 0.02)
    style = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 7}
    left.annotate("typical claimed lead", place, (3, 0), color=ORANGE, **style)
    content = io.BytesIO()
    FigureCanvasAgg(whole).print_figure(content, dpi=160, format="png")
    return content.getvalue()


def _draw_share(ax: Axes, table: pd.DataFrame) -> None:
    """The share of pairs up to every spread."""
    values = table["spread"].sort_values().to_numpy()
    shares = [(place + 1) / len(values) for place in range(len(values))]
    ax.step(values, shares, where="post", color=BLUE)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_xlim(0, None)
    ax.set_ylim(0, 1)
    ax.set_xlabel("points between the least and the most that is printed", fontsize=8)
    ax.set_ylabel(f"share of {len(values):,} pairs", fontsize=8)


def _draw_methods(ax: Axes, table: pd.DataFrame) -> None:
    """A line of dots a method, the most printed ones."""
    names = list(table["method"].value_counts().index[:METHODS])
    for place, name in enumerate(reversed(names)):
        values = table.loc[table["method"] == name, "spread"]
        # spread a little, in their order, so that equal ones do not hide each other
        heights = [place + 0.3 * ((number % 7) / 3 - 1) for number in range(len(values))]
        ax.plot(values, heights, ".", color=GREY, markersize=2.5, alpha=0.6)
        ax.plot([values.median()] * 2, [place - 0.4, place + 0.4], color=BLUE, linewidth=2)
    counts = table["method"].value_counts()
    labels = [f"{name} ({counts[name]})" for name in reversed(names)]
    ax.set_yticks(range(len(names)), labels)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_xlim(-0.02, None)
    ax.set_xlabel("points between the least and the most that is printed", fontsize=8)

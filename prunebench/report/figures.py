"""Figures: accuracy against tokens, cost and surviving evidence, drawn from the leaderboard."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from prunebench.border.text import one_line, percent
from prunebench.report import drawing, labels, panels, slices, tables
from prunebench.report.board import budget_kind, budget_label, overall, records
from prunebench.report.clock import on_busy_machine
from prunebench.report.drawing import Drawing, Helper
from prunebench.report.frontier import frontier
from prunebench.report.leaderboard import ALL
from prunebench.report.palette import PLAIN, Look, looks
from prunebench.study.cells import ReportError
from prunebench.study.record import BASELINE, BLIND, OWN

DPI = 160
TOKENS = {
    "mean": "visual tokens entering an LLM layer, mean (share)",
    "input": "visual tokens entering the first LLM layer (share)",
    "kv": "visual tokens in the KV cache, mean (share)",
}
"""The axis of tokens, by the kind of budget that a study asks for."""

COSTS = {
    "flops_ratio": "prefill FLOPs over unpruned",
    "total_ratio": "total time over unpruned",
}
"""The axes of cost, by the leaderboard's column."""

BOARD = "leaderboard.csv"

NAME, TITLE = 40, 60
"""Characters of a name and of a title that a figure bears."""

TICK_DISTANCE = 1.25
"""The least ratio between two ticks of the token axis; labels need room."""

NAME_ROOM = 0.12, 0.06
"""What is left free for names of the frontier: left of the cheapest point and above the most
accurate one, as shares of the axes.
"""

RING: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "markeredgewidth": 1.1,
}
"""What stands around the marker of an operating point of a method's own."""

MOST_IN_COLOUR = 8
"""Methods that a reader can tell apart; of more the most accurate have their colour, the others are
grey.
"""

MOST_BANDS = 4
"""Of a panel: more bands cover each other, and whiskers say the same."""

MOST_METHODS = 30
"""Panels of a figure with a panel a method."""

VECTORS: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "0"}
"""Text stays text, and the same figure is the same file."""

CAPTIONS = {
    "accuracy": "Accuracy against the visual tokens that a run spends; bands are intervals.",
    "accuracy_by_method": "The same, a panel a method, all others in grey.",
    "accuracy_by_task": "Accuracy against the visual tokens that a run spends, task by task.",
    "pareto": "Accuracy against cost; the line joins what is more accurate than all that costs no "
    "more, and than every control at its budget, by more than its 95 % interval.",
    "evidence": "Accuracy against the share of the evidence's tokens that survives.",
    "by_type": "Accuracy by kind of question, above what a perfect reader would reach.",
    "staircase": "Visual tokens alive in every layer, as a share of those of the unpruned model; "
    "grey: as many in all layers of the LLM.",
    "retention": "What methods keep that keep more of one image than of another, by how much there "
    "is to see; whiskers are intervals.",
}


@dataclass(frozen=True)
class Plan:
    """How figures are drawn: `size` inches of a panel, `names` what methods are called, `order` how
    the legend lists them, and the `format` of the file.
    """

    size: tuple[float, float] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    format: str = "png"


USUAL = Plan()
NO_OTHERS: Mapping[str, Callable[[], Figure]] = {}

Note = Callable[[str, str], None]
"""Hears the name of a figure, and what it leaves out."""


@dataclass(frozen=True)
class Style:
    """The look of every method, which of them stay in the background, and what they are called."""

    looks: Mapping[str, Look]
    faded: frozenset[str]
    plan: Plan

    def __getitem__(self, method: str) -> Look:
        look = self.looks[method]
        if method in self.faded:
            return Look(PLAIN, look.marker, (), False)
        return look

    def name(self, method: str) -> str:
        """What a figure calls it."""
        return one_line(self.plan.names.get(method, method), NAME)

    def place(self, method: str) -> tuple[Any, ...]:
        """Where the legend lists it: as the plan says, else by name, controls and the unpruned
        model last.
        """
        if method in self.plan.order:
            return (self.plan.order.index(method),)
        return len(self.plan.order), method == BASELINE, self[method].control, method


def draw(
    board: pd.DataFrame,
    types: pd.DataFrame,
    folder: Path,
    plan: Plan = USUAL,
    others: Mapping[str, Callable[[], Figure]] = NO_OTHERS,
    note: Note = lambda *_: None,
    helper: Helper | None = None,
) -> list[Path]:
    """Every figure that the leaderboard, and the table of kinds of questions, have the numbers for,
    and the `others` of further tables; one that they have not is removed if it was there. `note`
    hears of figures that leave panels out; `helper` is another process that draws some.
    """
    if folder.is_symlink():
        raise ReportError(
            f"cannot write {one_line(str(folder), 120)}: "
            "it is a link to another folder; remove it first"
        )
    makers: dict[str, Callable[[], Figure]] = {
        "accuracy": partial(accuracy, board, plan),
        "accuracy_by_method": partial(by_method, board, plan),
        "accuracy_by_task": partial(by_task, board, plan),
        "pareto": partial(pareto, board, plan),
        "evidence": partial(evidence, board, plan),
        "by_type": partial(slices.kinds, types),
        "slices": partial(slices.figure, types),
        **others,
    }
    paths = []
    for one in drawing.together(makers, folder, plan.format, helper).values():
        paths.append(one.path)
        if one.note:
            note(one.path.name, one.note)
    return paths


def made(makers: Mapping[str, Callable[[], Figure]], folder: Path, kind: str) -> dict[str, Drawing]:
    """The figures of these makers, but for those that have no numbers."""
    drawings = {}
    # whatever a library, or a notebook, has set in this process
    with warnings.catch_warnings(), matplotlib.style.context("default"):
        warnings.simplefilter("ignore", UserWarning)  # a name in letters that the font lacks
        for name, make in makers.items():
            path = folder / f"{name}.{kind}"
            try:
                figure = make()
            except ReportError:
                remove(path)
                continue
            drawings[name] = Drawing(save(figure, path), str(figure.get_label() or ""))
    return drawings


def accuracy(board: pd.DataFrame, plan: Plan = USUAL) -> Figure:
    """Accuracy against the tokens a run really spent: a line per method, the unpruned model as
    reference.
    """
    kind = budget_kind(board)
    rows = _having(overall(board), ["accuracy", f"tokens_{kind}"])
    models, left_out = panels.first(list(rows["model"].unique()), "models", BOARD)
    figure, axes, style = _canvas(board, plan, len(models))
    panels.label(figure, left_out)
    for ax, model in zip(axes, models, strict=True):
        of_model = rows[rows["model"] == model]
        _lines(ax, of_model, style, kind)
        _title(ax, _subject(of_model))
    axes[0].set_ylabel("accuracy")
    _legend(figure, rows, style, line=True)
    return figure


def by_method(board: pd.DataFrame, plan: Plan = USUAL) -> Figure:
    """The same with a panel a method, all others grey behind it; raises ReportError where there are
    few enough for one panel, or several models.
    """
    kind = budget_kind(board)
    column = f"tokens_{kind}"
    rows = _having(overall(board), ["accuracy", column])
    style = _style(board, plan)
    methods = [name for name in rows["method"].unique() if _is_compared(style, str(name))]
    if len(methods) <= MOST_IN_COLOUR or rows["model"].nunique() > 1:
        raise ReportError("one panel shows every method")
    methods = sorted(methods, key=style.place)
    methods, left_out = panels.first(methods, "methods", BOARD, MOST_METHODS)
    figure, axes, _ = _canvas(board, plan, len(methods), columns=5, size=(2.1, 1.7))
    for ax, method in zip(axes, methods, strict=True):
        for other, points in rows.sort_values(column).groupby("method"):
            if other not in (BASELINE, method):
                ax.plot(points[column], points["accuracy"], color=PLAIN, linewidth=0.7, zorder=1)
        own = rows[(rows["method"] == method) | (rows["method"] == BASELINE)]
        _lines(ax, own, Style(style.looks, frozenset(), plan), kind)
        _token_axis(ax, rows, column)  # the same ticks in every panel
        ax.set_xlabel("")
        ax.tick_params(labelsize="x-small")
        _title(ax, style.name(str(method)))
    figure.supylabel("accuracy", fontsize="medium")
    panels.label(figure, left_out, TOKENS[kind])
    return figure


def _has_band(style: Style, method: str) -> bool:
    """Whether a method's interval may be shown as a band: it is compared, and has its colour."""
    return _is_compared(style, method) and method not in style.faded


def _is_compared(style: Style, method: str) -> bool:
    """Whether it is neither a control nor the unpruned model."""
    return method != BASELINE and not style[method].control


def by_task(board: pd.DataFrame, plan: Plan = USUAL) -> Figure:
    """The same for every task, one small figure each; raises ReportError for a single task."""
    kind = budget_kind(board)
    rows = _having(board[board["task"] != ALL], ["accuracy", f"tokens_{kind}"])
    if rows["task"].nunique() < 2:
        raise ReportError("there is one task only")
    every = list(rows.groupby(["model", "task"], sort=False))
    drawn_panels, left_out = panels.first(every, "models and tasks", BOARD)
    figure, axes, style = _canvas(board, plan, len(drawn_panels), columns=3, size=(3.4, 2.9))
    several = rows["model"].nunique() > 1
    for ax, ((model, task), of_panel) in zip(axes, drawn_panels, strict=True):
        _lines(ax, of_panel, style, kind)
        ax.set_xlabel("")
        ax.tick_params(axis="x", labelsize="small")
        _title(ax, f"{model}: {task}" if several else str(task))
    figure.supylabel("accuracy", fontsize="medium")
    panels.label(figure, left_out, TOKENS[kind])
    _legend(figure, rows, style, line=True)
    return figure


def pareto(board: pd.DataFrame, plan: Plan = USUAL) -> Figure:
    """Accuracy against FLOPs and, where the cost pass ran, against time, with the frontier."""
    rows = _having(overall(board), ["accuracy"])
    drawn_panels, left_out = panels.first(_cost_panels(rows), "models and costs", BOARD)
    figure, axes, style = _canvas(board, plan, len(drawn_panels))
    panels.label(figure, left_out)
    for ax, (column, of_panel) in zip(axes, drawn_panels, strict=True):
        _points(ax, of_panel, column, style)
        ax.set_xlim(left=_beyond(*ax.get_xlim(), -NAME_ROOM[0]))
        ax.set_xlabel(_cost_label(of_panel, column))
        _title(ax, _subject(of_panel))
    axes[0].set_ylim(top=_beyond(*axes[0].get_ylim(), 1 + NAME_ROOM[1]))
    axes[0].set_ylabel("accuracy")
    line = Line2D([], [], color="black", linewidth=1, label="frontier (beyond intervals)")
    _legend(figure, rows, style, more=[line])
    # last: names are placed on the finished layout
    for ax, (column, of_panel) in zip(axes, drawn_panels, strict=True):
        _frontier(ax, of_panel, column, style)
    return figure


def evidence(board: pd.DataFrame, plan: Plan = USUAL) -> Figure:
    """Accuracy against the share of the evidence's tokens that survive."""
    rows = _having(overall(board), ["accuracy", "evidence_recall"])
    models, left_out = panels.first(list(rows["model"].unique()), "models", BOARD)
    figure, axes, style = _canvas(board, plan, len(models), size=(4.6, 3.8))
    panels.label(figure, left_out)
    for ax, model in zip(axes, models, strict=True):
        of_model = rows[rows["model"] == model]
        _points(ax, of_model, "evidence_recall", style)
        ax.set_xlabel("evidence recall (share of its tokens alive, mean over layers)")
        _title(ax, _subject(of_model))
    axes[0].set_ylabel("accuracy")
    _legend(figure, rows, style)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write the figure in the format that the file's name says."""
    content = io.BytesIO()
    kind = path.suffix.removeprefix(".")
    # without the time of day, so that drawing again gives the same bytes
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with matplotlib.rc_context(VECTORS):
        figure.savefig(
            content,
            format=kind,
            dpi=DPI,
            bbox_inches="tight",
            pad_inches=0.12,
            metadata=undated.get(kind),
        )
    return tables.write(path, content.getvalue())


def remove(path: Path) -> None:
    """Let no figure stay of numbers that are gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(
            f"cannot remove {one_line(str(path), 120)}: {error.strerror}; remove it by hand"
        ) from None


# ---- rows ----------------------------------------------------------------------------------------


def _having(board: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows that have these numbers; raises ReportError where none but the unpruned model
    has.
    """
    # without tokens it has no place on an axis of them
    rows = board[board["method"] != BLIND].dropna(subset=list(columns))
    if not (rows["method"] != BASELINE).any():
        raise ReportError(f"no method has {' and '.join(columns)}")
    return rows


def _cost_panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The column and the rows of a panel, for every model and cost that some method of it has."""
    every = []
    for model in rows["model"].unique():
        of_model = rows[rows["model"] == model]
        for column in COSTS:
            if of_model.loc[of_model["method"] != BASELINE, column].notna().any():
                every.append((column, _timed(of_model, column)))
    return every


def _cost_label(rows: pd.DataFrame, column: str) -> str:
    """The axis, with a word on times that say nothing."""
    count = int(on_busy_machine(rows, column).sum())
    if not count:
        return COSTS[column]
    return f"{COSTS[column]}\n(busy machine: {count} of {len(rows)} not on the frontier)"


def _timed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows with the unpruned model at one, where the cost pass had no reason to run it against
    itself.
    """
    rows = rows.copy()
    rows.loc[(rows["method"] == BASELINE) & rows[column].isna(), column] = 1.0
    return rows.dropna(subset=[column])


def _subject(rows: pd.DataFrame) -> str:
    tasks = rows["task"].unique()
    of_tasks = "mean over tasks" if ALL in tasks else ", ".join(tasks)
    models = rows["model"].unique()
    return f"{models[0]}, {of_tasks}" if len(models) == 1 else of_tasks


# ---- panels --------------------------------------------------------------------------------------


def _canvas(
    board: pd.DataFrame,
    plan: Plan,
    count: int,
    columns: int = 2,
    size: tuple[float, float] = (5.2, 4.2),
) -> tuple[Figure, list[Axes], Style]:
    """Panels that share their accuracy axis, and the look of every method of the leaderboard, drawn
    or not.
    """
    if not count:
        raise ReportError("there is nothing to draw")
    import seaborn as sns  # here, as it takes a second that a study without figures need not wait

    size = plan.size or size
    columns = min(columns, count)
    rows = -(-count // columns)
    light = {"grid.linewidth": 0.6, "axes.linewidth": 0.8}
    with (
        # axes take their style when they are made, so that nothing global changes
        sns.axes_style("whitegrid", {"grid.color": "0.9"}),
        sns.plotting_context("notebook", 0.85, light),
    ):
        inches = size[0] * columns, size[1] * rows
        figure = Figure(figsize=inches, layout="constrained")
        # what pyplot would do; `labels` needs its renderer to measure names
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for spare in grid[count:]:
        spare.remove()
    for ax in grid[:count]:
        sns.despine(ax=ax)
    return figure, list(grid[:count]), _style(board, plan)


def _style(board: pd.DataFrame, plan: Plan) -> Style:
    """The look of every method; of more than a reader can tell apart the less accurate are grey."""
    controls = list(board.loc[board["control"] == "true", "method"].unique())
    by_method = looks(list(board["method"].unique()), controls)
    rows = overall(board)
    compared = rows[~rows["method"].isin([BASELINE, *controls])]
    # where a budget was out of reach the mean over the others says too much
    means = compared.groupby("method")["accuracy"].agg(["count", "mean"]).reset_index()
    means = means.sort_values(["count", "mean", "method"], ascending=[False, False, True])
    return Style(by_method, frozenset(means["method"][MOST_IN_COLOUR:]), plan)


def _title(ax: Axes, text: str) -> None:
    # a $ in a name begins no formula
    ax.set_title(one_line(text, TITLE), fontsize="medium", parse_math=False)


def _lines(ax: Axes, rows: pd.DataFrame, style: Style, kind: str) -> None:
    """A line per method from budget to budget, with its intervals as a band."""
    tokens = f"tokens_{kind}"
    banded = sum(_has_band(style, str(method)) for method in rows["method"].unique()) <= MOST_BANDS
    # groupby keeps the order inside a group, so lines run from left to right
    for method, points in rows.sort_values(tokens).groupby("method"):
        look = style[str(method)]
        if method == BASELINE:
            _reference(ax, points.iloc[0], look)
            continue
        _own(ax, points, tokens, look)
        points = points[points["budget"] != OWN]
        if points.empty:
            continue
        if banded and _has_band(style, str(method)):
            _band(ax, points, tokens, look)
        ax.plot(
            points[tokens],
            points["accuracy"],
            color=look.colour,
            linestyle=look.linestyle,
            linewidth=_width(look),
            zorder=2 if look.control or look.colour == PLAIN else 3,
            label=str(method),
        )
        _whiskers(ax, points, tokens, look)
    _token_axis(ax, rows, tokens)
    ax.margins(x=0.07)
    ax.set_xlabel(TOKENS[kind])
    ax.set_ylabel("")


def _width(look: Look) -> float:
    """Of a method's line."""
    if look.colour == PLAIN:
        return 0.8
    return 1.3 if look.control else 1.9


def _band(ax: Axes, points: pd.DataFrame, column: str, look: Look) -> None:
    ax.fill_between(
        points[column],
        points["accuracy_low"],
        points["accuracy_high"],
        color=look.colour,
        alpha=0.1,
        linewidth=0,
        zorder=1,
    )


def _reference(ax: Axes, row: pd.Series[Any], look: Look) -> None:
    """The unpruned model as a line across, with its interval as a band."""
    ax.axhline(
        row["accuracy"],
        color=look.colour,
        linewidth=1.2,
        linestyle=look.linestyle,
        zorder=1,
        label=BASELINE,
    )
    if not pd.isna(row["accuracy_low"]):
        ax.axhspan(
            row["accuracy_low"],
            row["accuracy_high"],
            color=look.colour,
            alpha=0.06,
            linewidth=0,
            zorder=0,
        )


def _points(ax: Axes, rows: pd.DataFrame, column: str, style: Style) -> None:
    """A marker per method and budget with its intervals, joined by a thin line from budget to
    budget.
    """
    for method, points in rows.dropna(subset=[column]).sort_values(column).groupby("method"):
        look = style[str(method)]
        _own(ax, points, column, look)
        points = points[points["budget"] != OWN]
        ax.plot(
            points[column],
            points["accuracy"],
            color=look.colour,
            linewidth=0.8,
            alpha=0.45,
            zorder=2,
        )
        _whiskers(ax, points, column, look)


def _own(ax: Axes, points: pd.DataFrame, column: str, look: Look) -> None:
    """A method's own operating point, which is no budget of a line: its marker in a ring."""
    own = points[points["budget"] == OWN]
    if own.empty:
        return
    _whiskers(ax, own, column, look)
    ax.plot(own[column], own["accuracy"], color=look.colour, **RING)


def _whiskers(ax: Axes, points: pd.DataFrame, column: str, look: Look) -> None:
    """Markers with their 95 % intervals; in the background the markers alone."""
    if look.colour == PLAIN:
        ax.plot(points[column], points["accuracy"], look.marker, color=PLAIN, markersize=3)
        return
    # of what stands across only times have intervals
    across = _reach(points, column) if f"{column}_low" in points else None
    size = 5.5 if look.control else 6.5
    ax.errorbar(
        points[column],
        points["accuracy"],
        yerr=_reach(points, "accuracy"),
        xerr=across,
        fmt=look.marker,
        color=look.colour,
        ecolor=look.colour,
        markerfacecolor=look.face,
        markeredgecolor=look.edge,
        elinewidth=0.9,
        markersize=size * look.marker_scale,
        markeredgewidth=1.3 if look.control else 0.6,
        zorder=3 if look.control else 4,
    )


def _reach(points: pd.DataFrame, column: str) -> Any:
    """[2, n] how far the interval reaches below and above; zero where there is none."""
    value = points[column]
    reach = np.stack([value - points[f"{column}_low"], points[f"{column}_high"] - value])
    # matplotlib refuses a negative reach, and a mean over seeds may lie outside its interval
    return np.nan_to_num(reach).clip(min=0)


def _token_axis(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    """A logarithmic axis whose ticks stand at the tokens the budgets came to, with their share."""
    ax.set_xscale("log")
    # at one budget methods come to slightly different tokens
    budgets = rows[rows["budget"] != OWN] if (rows["budget"] != OWN).any() else rows
    places = budgets.groupby(["budget_kind", "budget"])[[column, f"{column}_share"]].median()
    places = places.sort_values(column, ascending=False)
    ticks: list[float] = []
    texts: list[str] = []
    # from the right: of two that are too close the larger keeps its label
    for tokens, share in places.itertuples(index=False):
        if ticks and tokens > ticks[-1] / TICK_DISTANCE:
            continue
        ticks.append(tokens)
        texts.append(f"{tokens:.3g}" + ("" if pd.isna(share) else f"\n({percent(share)})"))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter(texts))
    ax.xaxis.set_minor_locator(NullLocator())


# ---- frontier and legend -------------------------------------------------------------------------


def _frontier(ax: Axes, rows: pd.DataFrame, column: str, style: Style) -> None:
    """The points of the frontier, joined and named; times of a busy machine are no part of it."""
    best = frontier(rows[~on_busy_machine(rows, column)], column)
    points = [(row[column], row["accuracy"]) for row in best]
    # steps: up to the next point the cheaper one is the best there is, the last one to the end
    steps = [*points, *((rows[column].max(), height) for _, height in points[-1:])]
    x, y = [cost for cost, _ in steps], [height for _, height in steps]
    ax.plot(x, y, color="black", linewidth=1, drawstyle="steps-post", zorder=1)
    every_point = list(zip(rows[column], rows["accuracy"], strict=True))
    lines = [*_steps(steps), *_whisker_ends(rows, column, style)]
    labels.place(ax, points, [_point_name(row, style) for row in best], every_point, lines)


def _beyond(low: float, high: float, share: float) -> float:
    """A place on an axis: 0 is its low end, 1 its high end."""
    return low + share * (high - low)


def _steps(points: Sequence[labels.Point]) -> Iterator[labels.Line]:
    """The lines of a staircase through the points."""
    for (x, y), (next_x, next_y) in pairwise(points):
        yield (x, y), (next_x, y)
        yield (next_x, y), (next_x, next_y)


def _whisker_ends(rows: pd.DataFrame, column: str, style: Style) -> Iterator[labels.Line]:
    """The intervals of the accuracy that are drawn: those of methods that have their colour."""
    for row in records(rows):
        if row["method"] not in style.faded and not pd.isna(row["accuracy_low"]):
            x = row[column]
            yield (x, row["accuracy_low"]), (x, row["accuracy_high"])


def _point_name(row: dict[str, Any], style: Style) -> str:
    name = style.name(row["method"])
    return name if row["method"] == BASELINE else f"{name} {budget_label(row)}"


def _legend(
    figure: Figure,
    rows: pd.DataFrame,
    style: Style,
    line: bool = False,
    more: Sequence[Line2D] = (),
) -> None:
    """Right of the panels: methods in their order, then controls; `line` where the reference is no
    point.
    """
    handles = []
    methods = sorted(rows["method"].unique(), key=style.place)
    for name in methods:
        if name not in style.faded:
            handles.append(_handle(style.name(name), style[name], line and name == BASELINE, line))
    count = len(style.faded.intersection(methods))
    if count:
        handles.append(Line2D([], [], color=PLAIN, linewidth=1, label=panels.others(count)))
    if (rows["budget"] == OWN).any():
        handles.append(Line2D([], [], color="#5a5a5a", label="own operating point", **RING))
    legend = figure.legend(
        handles=[*handles, *more],
        loc="outside right upper",
        frameon=False,
        fontsize="small",
        handlelength=4,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    # it stands beside the panels, which keep their size
    extent = legend.get_window_extent()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + extent.width / figure.dpi, height)


def _handle(name: str, look: Look, is_line: bool, line: bool) -> Line2D:
    """A method's entry in the legend, as it is drawn in the panels; without a marker where it is a
    line alone.
    """
    return Line2D(
        [],
        [],
        color=look.colour,
        linestyle=look.linestyle if line else "-",
        linewidth=1.6 if line else 0.8,
        marker="" if is_line else look.marker,
        markersize=9 if look.marker == "*" else 6,
        markerfacecolor=look.face,
        markeredgecolor=look.edge,
        markeredgewidth=1.2 if look.control else 0.6,
        label=name,
    )

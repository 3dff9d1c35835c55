"""Retention: retention.csv, what a method that keeps more of one image than of another keeps by how
much there is to see.

Only those have rows: methods whose kept tokens differ between samples that offer as many. What
there is to see is the complexity of the question, as the data say it, and the share of the image
that its evidence takes. Sizes fall into groups of about as many samples, the same for every method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from prunebench.border.text import one_line
from prunebench.report import panels, tables
from prunebench.report.board import budget_label, records
from prunebench.report.comparison import Warn, cluster_codes
from prunebench.report.headings import LINE, Heading, names
from prunebench.report.palette import Look, looks
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.columns import INTERVAL
from prunebench.study.record import BASELINE
from prunebench.study.samples import NAN, Array, Codes, coded
from prunebench.study.statistics import spreads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUNDING = 1.0
"""Tokens by which what is kept of two samples may differ through rounding alone."""

PARTS = 5
"""Groups that sizes fall into, where there are more."""

LEAST = 3
"""Samples of a group that is worth a point."""

MEASURES = {
    "complexity": "complexity of the question",
    "evidence": "share of the image's tokens that its evidence takes",
}
"""By aspect, what stands on its axis."""

PANELS = 8
"""Pairs of model, task and aspect that the figure has room for."""

NAME = 40

SIZE = (4.4, 3.2)
"""Inches of a panel."""

SAME: Mapping[str, str] = {}


@dataclass(frozen=True)
class _Kept:
    """What was kept of the samples of a cell that were answered."""

    cell: StoredCell
    places: Codes  # [n] of these samples in the cell
    columns: dict[str, Array]  # by name, [n] what was kept and the sizes, NaN where not known


KEY = [*names(LINE), "task"]

HEADINGS = (
    *LINE,
    Heading("task", "as written in the grid", text=True),
    Heading("by", "complexity, or evidence: the share of the tokens under its boxes", text=True),
    Heading("size", "mean of the group's samples"),
    Heading("size_least", "the least of them"),
    Heading("size_most", "the largest"),
    Heading("n", "samples of the group"),
    Heading("kept", "share of the visual tokens in an LLM layer, mean over layers", ends=INTERVAL),
)
"""Of retention.csv."""

COLUMNS = names(HEADINGS)


def fold(cells: Sequence[StoredCell], warn: Warn) -> pd.DataFrame:
    """The table; empty where every method keeps as much of every sample."""
    return table(rows(cells, warn))


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the table."""
    return pd.DataFrame(rows, columns=COLUMNS)


def rows(cells: Sequence[StoredCell], warn: Warn) -> list[dict[str, Any]]:
    """The rows of the table, model by model."""
    groups: dict[tuple[str, ...], list[_Kept]] = {}
    for cell in cells:
        if cell.kind != "quality" or not cell.ok or cell.method == BASELINE:
            continue
        try:
            kept = _kept(cell)
        except ReportError as error:
            warn(str(error))
            continue
        groups.setdefault(cell.line, []).append(kept)
    kept_rows: list[dict[str, Any]] = []
    for of_line, parts in sorted(groups.items()):
        columns = {}
        for name in parts[0].columns:
            columns[name] = np.concatenate([part.columns[name] for part in parts])
        if is_dynamic(columns["kept"], columns["available"]):
            samples = pd.DataFrame(columns, index=_ids(parts))
            codes = cluster_codes([part.cell for part in parts], samples.index, warn)
            # all seeds ask the same questions
            samples["drawn_with"] = coded(samples.index.tolist()) if codes is None else codes
            about = dict(zip(KEY, of_line, strict=True))
            for aspect in MEASURES:
                kept_rows += _rows(
                    {**about, "by": aspect}, samples[[aspect, "kept", "drawn_with"]].dropna()
                )
    return kept_rows


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is written."""
    return tables.texts(records(table), COLUMNS)


def is_dynamic(kept: Array, available: Array) -> bool:
    """Whether the share [n] that is kept differs between samples that offer as many tokens [n]."""
    if not len(kept):
        return False
    order = np.argsort(available, kind="stable")
    offered, spent = available[order], (kept * available)[order]
    # where samples that offer as many begin
    starts = np.flatnonzero(np.diff(offered, prepend=NAN))
    ranges = np.maximum.reduceat(spent, starts) - np.minimum.reduceat(spent, starts)
    return bool((ranges > ROUNDING).any())


def figure(
    table: pd.DataFrame, renamed: Mapping[str, str] = SAME, size: tuple[float, float] = SIZE
) -> Figure:
    """A panel a model, task and aspect: the kept share of every method and budget against the
    size; raises ReportError where there is no such method.

    `renamed` says what methods are called, where not as they are, `size` the inches of a panel.
    """
    if table.empty:
        raise ReportError("no method keeps more of one sample than of another")
    every = list(table.groupby(["model", "task", "by"], sort=False))
    places, left_out = panels.first(every, "models, tasks and sizes", "retention.csv", PANELS)
    whole, grid = panels.grid(len(places), size, 0.4)
    for ax, ((model, task, aspect), rows) in zip(grid, places, strict=True):
        _panel(ax, rows, looks(sorted(table["method"].unique()), ()), renamed)
        ax.set_xlabel(MEASURES[str(aspect)], fontsize=8)
        title = f"{one_line(str(model), NAME)} on {one_line(str(task), NAME)}"
        ax.set_title(title, fontsize=9, parse_math=False)
    # one axis for all, with room above for the names
    grid[0].set_ylim(0, 100 * min(1.0, 1.3 * float(table["kept"].max())))
    whole.supylabel("visual tokens kept, mean over layers (%)", fontsize=9)
    panels.label(whole, left_out)
    return whole


def _kept(cell: StoredCell) -> _Kept:
    """What was kept of every sample that was answered."""
    own = cell.samples_read
    unknown = np.full(len(own.ids), NAN)
    spent, available = (own.numbers.get(name, unknown) for name in ("tokens_mean", "available"))
    # a comparison with NaN is false
    mask = (available > 0) & ~np.isnan(spent)
    offered = available[mask]
    columns = {
        "kept": spent[mask] / offered,
        "available": offered,
        "complexity": own.numbers.get("complexity", unknown)[mask],
        "evidence": own.numbers.get("evidence_tokens", unknown)[mask] / offered,
    }
    return _Kept(cell, np.flatnonzero(mask), columns)


def _ids(parts: Sequence[_Kept]) -> pd.Index[str]:
    """The names of the samples, cell by cell."""
    first, *others = (part.cell.samples_read.ids[part.places] for part in parts)
    return first.append(others) if others else first


def _rows(about: dict[str, Any], samples: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a group of sizes; none where all are of one size."""
    sizes = samples[about["by"]]
    if sizes.nunique() < 2:
        return []
    groups = sizes
    if sizes.nunique() > PARTS:
        groups = pd.qcut(sizes, PARTS, labels=False, duplicates="drop")
    every, codes = np.unique(groups.to_numpy(), return_inverse=True)
    kept = samples["kept"].to_numpy(dtype=float)
    spread_of_groups = spreads(kept, codes, samples["drawn_with"].to_numpy())
    rows = []
    for code in range(len(every)):
        group = samples[codes == code]
        count = group.index.nunique()  # a question that several seeds ask counts once
        if count < LEAST:
            continue
        own = group[about["by"]]
        mean = float(group["kept"].mean())
        ends = zip(INTERVAL, (mean, *spread_of_groups[code][1:]), strict=True)
        rows.append(
            {
                **about,
                "size": float(own.mean()),
                "size_least": float(own.min()),
                "size_most": float(own.max()),
                "n": count,
                **{f"kept{end}": value for end, value in ends},
            }
        )
    return rows


def _panel(
    ax: Axes, rows: pd.DataFrame, by_method: Mapping[str, Look], renamed: Mapping[str, str]
) -> None:
    """The methods of one model on one task against one measure."""
    for (method, _, _, _), line in rows.groupby(["method", "settings", "budget_kind", "budget"]):
        line = line.sort_values("size")
        look = by_method[str(method)]
        share = 100 * line[["kept", "kept_low", "kept_high"]].astype(float)
        reach = np.stack([share["kept"] - share["kept_low"], share["kept_high"] - share["kept"]])
        name = one_line(renamed.get(str(method), str(method)), NAME)
        ax.errorbar(
            line["size"],
            share["kept"],
            yerr=np.nan_to_num(reach).clip(min=0),
            color=look.colour,
            marker=look.marker,
            markersize=5,
            linewidth=1.4,
            elinewidth=0.9,
            label=f"{name} {budget_label(records(line)[0])}",
        )
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    if rows["by"].iloc[0] == "complexity" and rows["size"].nunique() <= PARTS:
        ax.set_xticks(sorted(rows["size"].unique()))
    for text in ax.legend(frameon=False, fontsize=7).get_texts():
        text.set_parse_math(False)

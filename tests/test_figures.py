"""Figures show every method, are files, and their labels do not overlap."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hand_written import board_of, cell, golden_study
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from prunebench import report
from prunebench.report import figures, labels
from prunebench.report.frontier import frontier


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return golden_study(tmp_path / "study")


def test_figures_show_every_method(study: Path) -> None:
    board = board_of(study)
    ax = figures.accuracy(board).axes[0]
    lines = {str(line.get_label()) for line in ax.get_lines()}
    own = {label for label in lines if not label.startswith("_")}
    assert own == {"none", "random", "fastv"}
    assert ax.get_xscale() == "log"
    assert "visual tokens entering an LLM layer" in ax.get_xlabel()
    assert len(figures.by_task(board).axes) == 2
    flops, time = figures.pareto(board).axes
    assert flops.get_xlabel() == "prefill FLOPs over unpruned"
    assert time.get_xlabel() == "total time over unpruned"
    names = {text.get_text() for text in time.texts}
    # 17 of 20 right: the interval of the unpruned model holds what fastv has for less time
    assert names == {"fastv 50 %"}, "what is on the frontier is named"


def _row(
    method: str, cost: float, accuracy: float, reach: float = 0.02, **facts: Any
) -> dict[str, Any]:
    ends = {"accuracy_low": accuracy - reach, "accuracy_high": accuracy + reach}
    about = {"method": method, "control": "false", "budget_kind": "mean", "budget": "0.5"}
    return {**about, "flops_ratio": cost, "accuracy": accuracy, **ends, **facts}


CONTROL: dict[str, Any] = {"control": "true"}
NEXT: dict[str, Any] = {"budget": "0.7"}
FRONTIERS = {
    "beyond its interval": ([_row("a", 0.2, 0.5), _row("b", 0.4, 0.6)], "ab"),
    "within its interval": ([_row("a", 0.2, 0.59), _row("b", 0.4, 0.6)], "a"),
    "cheaper and better": ([_row("a", 0.2, 0.7), _row("b", 0.4, 0.6)], "a"),
    "as costly, less accurate": ([_row("a", 0.2, 0.5), _row("b", 0.2, 0.6)], "b"),
    "a control that was timed slower": ([_row("a", 0.2, 0.6), _row("r", 0.3, 0.6, **CONTROL)], ""),
    "a control of another budget": (
        [_row("a", 0.2, 0.6), _row("r", 0.5, 0.6, **CONTROL, **NEXT)],
        "a",
    ),
    "a cheaper control": ([_row("r", 0.1, 0.59, **CONTROL, **NEXT), _row("a", 0.2, 0.6)], "r"),
    "not on it, but in the way": (
        [_row("a", 0.2, 0.59), _row("b", 0.3, 0.6), _row("c", 0.4, 0.615, reach=0.02)],
        "a",
    ),
    "no interval": ([_row("a", 0.2, 0.59), _row("b", 0.4, 0.6, reach=float("nan"))], "ab"),
}


@pytest.mark.parametrize(("rows", "names"), FRONTIERS.values(), ids=FRONTIERS.keys())
def test_a_step_of_the_frontier_is_more_than_chance(rows: list[dict[str, Any]], names: str) -> None:
    line = frontier(pd.DataFrame(rows), "flops_ratio")
    assert "".join(row["method"] for row in line) == names


def test_figures_are_files(study: Path) -> None:
    files = report.build(study)
    names = [path.stem for path in files.figures]
    assert names == ["accuracy", "accuracy_by_task", "pareto", "evidence"]
    for path in files.figures:
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert image.info["dpi"][0] >= 150


def test_labels_do_not_overlap() -> None:
    figure = Figure(figsize=(5, 4))
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    points = [(0.3 + 0.04 * i, 0.5 + 0.03 * i) for i in range(12)]
    ax.plot(*zip(*points, strict=True), "o")
    labels.place(ax, points, [f"method{i} 50 %" for i in range(12)], points)
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert len(boxes) == 12
    for box, other in combinations(boxes, 2):
        assert not box.overlaps(other)
    for box, point in product(boxes, points):
        x, y = ax.transData.transform(point)
        assert not box.contains(x, y)


def test_a_method_looks_the_same_in_every_figure(study: Path) -> None:
    board = board_of(study)
    by_figure = []
    for figure in (figures.accuracy(board), figures.pareto(board)):
        legend = figure.legends[0]
        colours = {}
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True):
            colours[text.get_text()] = to_hex(line.get_color())
        by_figure.append(colours)
    first, second = by_figure
    assert first["fastv"] == second["fastv"]


@pytest.mark.parametrize(("more", "words"), [(1, "1 other"), (2, "2 others")])
def test_methods_that_are_grey_are_counted(study: Path, more: int, words: str) -> None:
    for number in range(figures.MOST_IN_COLOUR - 1 + more):
        for task in ("color", "count"):
            cell(study, f"m{number}", task, [1.0] * 5 + [0.0] * 5)
    legend = figures.accuracy(board_of(study)).legends[0]
    assert words in [text.get_text() for text in legend.get_texts()]

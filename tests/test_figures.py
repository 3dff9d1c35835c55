"""Figures show every method, are files, and their labels do not overlap."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hand_written import board_of, cell, golden_study
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
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


def _crowd(seed: int) -> tuple[Axes, list[tuple[float, float]]]:
    """A panel with a frontier of six named points among thirty others below it, with whiskers."""
    random = np.random.default_rng(seed)
    figure = Figure(figsize=(5, 4))
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    costs = np.sort(random.uniform(0.2, 1.0, 6))
    points = list(zip(costs.tolist(), (0.4 + 0.5 * np.sqrt(costs)).tolist(), strict=True))
    below = random.uniform(0.2, 1.0, 30)
    heights = 0.4 + 0.5 * np.sqrt(below) - random.uniform(0.01, 0.3, 30)
    obstacles = [*points, *zip(below.tolist(), heights.tolist(), strict=True)]
    whiskers = [((x, y - 0.03), (x, y + 0.03)) for x, y in obstacles]
    ax.plot(*zip(*obstacles, strict=True), "o")
    ax.margins(0.15)
    names = [f"method{number} 50 %" for number in range(6)]
    labels.place(ax, points, names, obstacles, whiskers)
    return ax, obstacles


@pytest.mark.parametrize("seed", range(12))
def test_labels_are_read_at_a_glance(seed: int) -> None:
    ax, obstacles = _crowd(seed)
    notes = [text for text in ax.texts if isinstance(text, Annotation)]
    boxes = [Text.get_window_extent(note) for note in notes]
    assert len(boxes) == 6
    for box, other in combinations(boxes, 2):
        assert not box.overlaps(other)
    for box, point in product(boxes, obstacles):
        assert not box.contains(*ax.transData.transform(point))
    frame = ax.get_window_extent()
    for note, box in zip(notes, boxes, strict=True):
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        x, y = ax.transData.transform(note.xy)
        end = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
        far = float(np.hypot(end[0] - x, end[1] - y))
        assert far < 75, "a name stands near its point"
        assert note.arrow_patch is not None
        assert far < 24 or note.arrow_patch.get_visible(), "a line from those that do not"
        if note.arrow_patch.get_visible():
            path = np.linspace((x, y), end, 50)
            others = [one for one in boxes if one is not box]
            assert not any(one.contains(*place) for one in others for place in path)


def test_the_frontier_goes_on_where_it_cannot_be_beaten(study: Path) -> None:
    _, time = figures.pareto(board_of(study)).axes
    (line,) = [line for line in time.get_lines() if line.get_drawstyle() == "steps-post"]
    points = np.asarray(line.get_xydata())
    assert len(points) == 2, "it has a single point, and is a line all the same"
    assert points[0, 0] < points[1, 0]
    assert points[0, 1] == points[1, 1]


@pytest.mark.parametrize("size", [None, (4.0, 3.0)])
def test_a_legend_takes_nothing_from_the_panels(
    study: Path, size: tuple[float, float] | None
) -> None:
    board = board_of(study)
    board["method"] = board["method"].replace(
        "fastv", "a method with a name of forty letters at all"
    )
    figure = figures.accuracy(board, figures.Plan(size=size))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert ax.get_window_extent().width / figure.dpi > 3.2


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

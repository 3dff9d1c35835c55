"""Figures show every method, are files, and their labels do not overlap."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import pytest
from hand_written import board_of, golden_study
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from prunebench import report
from prunebench.report import figures, labels


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
    assert names == {"fastv 50%", "none"}, "both are on the frontier, and named"


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
    labels.place(ax, points, [f"method{i} 50%" for i in range(12)], points)
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

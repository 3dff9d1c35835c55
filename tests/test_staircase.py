"""Staircases: what cells say of the tokens in every layer, the table of it, and its figure."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hand_written import cell
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from prunebench import report
from prunebench.report import layers as table_of_layers
from prunebench.report import leaderboard, paper, staircase
from prunebench.run import layers
from prunebench.study import cells
from prunebench.study.cells import ReportError

STEPS: dict[str, list[float]] = {
    "none": [16.0] * 4,
    "random": [8.0] * 4,
    "divprune": [8.0] * 4,
    "fastv": [16.0, 16.0, 4.0, 4.0],
}


# ---- a cell --------------------------------------------------------------------------------------


def sample(stages: dict[str, int], entering: list[int], error: str | None = None) -> dict[str, Any]:
    """A row of 16 tokens."""
    return {
        "error": error,
        "available": 16,
        "stages": list(stages.values()),
        "sites": " ".join(stages),
        "entering": entering,
    }


def test_layers_are_means_over_the_samples_that_were_answered() -> None:
    rows = [
        sample({"llm:1": 4}, [16, 4]),
        sample({"llm:1": 2}, [16, 2]),
        sample({"llm:1": 9}, [16, 9], error="broken"),
        {"error": "unreadable"},
    ]
    assert layers.entering(rows) == [16.0, 3.0]
    assert layers.encoder(rows) is None
    assert layers.entering(rows[3:]) is None


def test_of_the_vision_encoder_it_is_what_was_left_behind_every_seam() -> None:
    """A sample that lost nothing there has at a seam what it had in front of it."""
    rows = [
        sample({"vision:4": 12, "vision:10": 6, "llm:1": 2}, [6, 2]),
        sample({"vision:10": 4}, [4, 4]),
    ]
    assert layers.encoder(rows) == {"vision:4": 14.0, "vision:10": 5.0}
    assert list(layers.encoder(rows) or ()) == ["vision:4", "vision:10"]


# ---- the table -----------------------------------------------------------------------------------


def study(folder: Path, **more: list[float]) -> Path:
    for method, entering in (STEPS | more).items():
        cell(folder, method, "t", [1.0] * 4, entering=entering)
    return folder


def folded(study: Path) -> pd.DataFrame:
    records, warnings = cells.read(study)
    table = table_of_layers.fold(records, warnings.append)
    assert warnings == []
    return table


def runs(table: pd.DataFrame, **where: str) -> list[tuple[Any, ...]]:
    for name, value in where.items():
        table = table[table[name] == value]
    numbers = table[["part", "first_layer", "last_layer", "tokens", "share"]]
    return list(numbers.itertuples(index=False, name=None))


def test_a_row_is_a_run_of_layers_with_as_many_tokens(tmp_path: Path) -> None:
    table = folded(study(tmp_path))
    assert runs(table, method="divprune") == [("llm", 0, 3, 8.0, 0.5)]
    assert runs(table, method="fastv") == [("llm", 0, 1, 16.0, 1.0), ("llm", 2, 3, 4.0, 0.25)]
    assert table.groupby("method")["control"].first().to_dict() == {
        "divprune": False, "fastv": False, "none": True, "random": True
    }  # fmt: skip


def test_seams_of_the_encoder_have_rows_of_their_own(tmp_path: Path) -> None:
    seams = {"vision:4": 12.0, "vision:10": 6.0}
    cell(tmp_path, "mine", "t", [1.0] * 4, entering=[6.0, 2.0], encoder=seams)
    own = folded(tmp_path)
    assert own["part"].tolist() == ["vision", "vision", "llm", "llm"]
    assert own["first_layer"].tolist() == [4, 10, 0, 1]
    assert own["last_layer"].fillna(-1).tolist() == [9, -1, 0, 1]
    assert own["share"].tolist() == [0.75, 0.375, 0.375, 0.125]


def test_numbers_are_means_over_seeds_and_over_tasks_that_all_count_alike(tmp_path: Path) -> None:
    for seed, last in ((0, 4.0), (1, 8.0)):
        cell(tmp_path, "fastv", "a", [1.0] * 4, seed=seed, entering=[16.0, last])
    cell(tmp_path, "fastv", "b", [1.0] * 90, entering=[16.0, 2.0])
    cell(tmp_path, "other", "a", [1.0] * 4, entering=[16.0, 2.0])
    table = folded(tmp_path)
    fastv = table[table["method"] == "fastv"]
    assert [row[3] for row in runs(fastv, task="a")] == [16.0, 6.0]
    assert [row[3] for row in runs(fastv, task="all")] == [16.0, 4.0]
    assert set(table.loc[table["method"] == "other", "task"]) == {"a"}, "it did not run on all"


def test_cells_that_do_not_say_have_no_rows(tmp_path: Path) -> None:
    cell(tmp_path, "none", "t", [1.0] * 4)
    cell(tmp_path, "fastv", "t", [1.0] * 4)
    assert folded(tmp_path).empty
    report.build(tmp_path)
    assert not (tmp_path / "layers.csv").exists()
    assert not (tmp_path / "figures" / "staircase.png").exists()


def test_cells_of_different_depths_are_left_out_with_a_word(tmp_path: Path) -> None:
    study(tmp_path)
    cell(tmp_path, "fastv", "t", [1.0] * 4, seed=1, entering=[16.0] * 3)
    records, warnings = cells.read(tmp_path)
    table = table_of_layers.fold(records, warnings.append)
    assert "fastv" not in set(table["method"])
    assert warnings == ["fastv on tiny is not in layers.csv: its cells are of 3 and 4 layers"]


def test_the_report_writes_the_table_and_the_figure(tmp_path: Path) -> None:
    outcome = report.build(study(tmp_path))
    assert tmp_path / "figures" / "staircase.png" in outcome.figures
    written = pd.read_csv(tmp_path / "layers.csv", dtype={"budget": str}, keep_default_na=False)
    assert list(written.columns) == table_of_layers.COLUMNS
    assert runs(written, method="fastv") == runs(folded(tmp_path), method="fastv")


# ---- the figure ----------------------------------------------------------------------------------


def names(ax: Axes) -> dict[str, str]:
    """The colour of every name beside a panel."""
    return {text.get_text(): str(text.get_color()) for text in ax.texts}


def stairs(ax: Axes) -> list[Any]:
    """Values, edges and baseline of every line."""
    return [patch.get_data() for patch in ax.patches if isinstance(patch, StepPatch)]


def drawn(table: pd.DataFrame, **more: Any) -> tuple[Figure, list[Axes]]:
    figure = staircase.figure(table, **more)
    return figure, figure.axes


def test_steps_are_named_and_flat_lines_share_a_name(tmp_path: Path) -> None:
    _, (ax,) = drawn(folded(study(tmp_path)))
    assert ax.get_title() == "budget 50 %"
    assert list(names(ax)) == ["fastv", "flat: divprune, random", "none"]
    colours = names(ax)
    assert colours["fastv"] != colours["flat: divprune, random"]
    heights = [text.get_position()[1] for text in ax.texts]
    assert heights == pytest.approx([25.0, 50.0, 100.0])
    steps = stairs(ax)
    assert any(list(values) == [100.0, 25.0] for values, _, _ in steps)
    assert any(list(edges) == [0.0, 2.0, 4.0] for _, edges, _ in steps)


def test_names_of_ends_that_are_close_do_not_cover_each_other(tmp_path: Path) -> None:
    more = {f"m{last}": [16.0, 16.0, 16.0, last / 4] for last in (0, 1, 2, 3, 4)}
    figure, (ax,) = drawn(folded(study(tmp_path, **more)))
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 8
    gaps = [above.y0 - below.y1 for below, above in pairwise(boxes)]
    assert min(gaps) >= 0


def test_methods_are_chosen_renamed_and_ordered(tmp_path: Path) -> None:
    more = {f"m{number}": [16.0, 16.0, 8.0 - number / 2, 1.0] for number in range(9)}
    table = folded(study(tmp_path, **more))
    _, (ax,) = drawn(table, renamed={"m8": "Eight"}, order=["m8", "m7"])
    bright = {name for name, colour in names(ax).items() if colour.startswith("#")}
    assert "Eight" in bright
    assert len(bright) == staircase.MOST_IN_COLOUR
    assert "m6" not in bright, "by name it comes too late, and is grey"
    assert names(ax)["m6"] == staircase.GREY


def test_lines_that_lie_on_each_other_share_a_name(tmp_path: Path) -> None:
    more = {name: [16.0, 8.0, 8.0, 1.0] for name in ("a", "b", "c", "d")}
    _, (ax,) = drawn(folded(study(tmp_path, **more)))
    assert "a, b, c, 1 other" in names(ax)


def test_the_encoder_stands_left_of_the_language_model(tmp_path: Path) -> None:
    seams = {"vision:4": 12.0, "vision:10": 6.0}
    cell(study(tmp_path), "mine", "t", [1.0] * 4, entering=[6.0] * 4, encoder=seams)
    _, (ax,) = drawn(folded(tmp_path))
    steps = next(one for one in stairs(ax) if one.edges[0] < 0)
    assert steps.values.tolist() == [100.0, 75.0, 37.5, 37.5]
    assert (np.diff(steps.edges) > 0).all()
    assert steps.edges[-2:].tolist() == [0.0, 4.0]
    labels = [label.get_text().strip() for label in ax.get_xticklabels()]
    assert {"v4", "v10", "0", "3"} <= set(labels)
    assert "mine" in names(ax)


def test_without_a_step_there_is_no_figure(tmp_path: Path) -> None:
    for method in ("none", "random"):
        cell(tmp_path, method, "t", [1.0] * 4, entering=STEPS[method])
    with pytest.raises(ReportError, match="no method thins tokens inside the model"):
        staircase.figure(folded(tmp_path))


def test_a_paper_has_it_of_the_methods_that_are_wanted(tmp_path: Path) -> None:
    study(tmp_path / "study", other=[16.0, 2.0, 2.0, 2.0])
    outcome = report.build(tmp_path / "study")
    wish = paper.Wish(methods=("fastv",), rename={"fastv": "FastV"}, format="svg", size=(3, 2))
    board = leaderboard.load(outcome.leaderboard)
    paths = paper.write(board, outcome.records, wish, tmp_path / "paper")
    assert tmp_path / "paper" / "staircase.svg" in paths
    text = (tmp_path / "paper" / "staircase.svg").read_text()
    assert "FastV" in text
    assert "other" not in text
    assert "**staircase.svg**" in (tmp_path / "paper" / "captions.md").read_text()

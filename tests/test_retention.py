"""What dynamic methods keep by how much there is to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hand_written import board_of, cell

from prunebench import report
from prunebench.report import paper, retention
from prunebench.study import cells
from prunebench.study.cells import ReportError

COMPLEXITY = [1] * 4 + [2] * 4 + [3] * 4


def write(study: Path, method: str, kept: list[float], **facts: Any) -> None:
    """Twelve questions of 16 tokens, the harder the more of them with evidence."""
    columns: dict[str, Any] = {
        "available": [16] * 12,
        "tokens_mean": kept,
        "complexity": COMPLEXITY,
        "evidence_tokens": [2.0 * level for level in COMPLEXITY],
    }
    cell(study, method, "t", [1.0] * 12, columns=columns, **facts)


def table_of(study: Path) -> pd.DataFrame:
    records, _ = cells.read(study)
    return retention.fold(records, lambda _: None)


def test_a_method_that_keeps_more_of_hard_questions_shows_it(tmp_path: Path) -> None:
    write(tmp_path, "adaptive", [4.0] * 4 + [8.0] * 4 + [12.0] * 4)
    table = table_of(tmp_path)
    by_complexity = table[table["by"] == "complexity"]
    assert by_complexity["size"].tolist() == [1, 2, 3]
    assert by_complexity["kept"].tolist() == [0.25, 0.5, 0.75]
    assert by_complexity["n"].tolist() == [4, 4, 4]
    by_evidence = table[table["by"] == "evidence"]
    assert by_evidence["size"].tolist() == [0.125, 0.25, 0.375]
    axes = retention.figure(table).axes
    assert [ax.get_xlabel() for ax in axes] == list(retention.MEASURES.values())
    points = np.asarray(axes[0].get_lines()[0].get_ydata())
    assert points.tolist() == [25, 50, 75]


def test_methods_that_keep_as_much_of_everything_have_no_rows(tmp_path: Path) -> None:
    write(tmp_path, "static", [8.0] * 12)
    write(tmp_path, "rounded", [8.0, 8.5] * 6)
    table = table_of(tmp_path)
    assert table.empty
    with pytest.raises(ReportError, match="no method keeps more of one sample than of another"):
        retention.figure(table)


def test_images_of_two_sizes_make_no_method_dynamic() -> None:
    assert not retention.is_dynamic(kept=np.array([0.5, 0.25]), available=np.array([16.0, 64.0]))


def test_seeds_are_one_line(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path, "adaptive", [4.0] * 4 + [8.0] * 8, seed=seed)
    table = table_of(tmp_path)
    assert table[table["by"] == "complexity"]["n"].tolist() == [4, 4, 4]


@pytest.mark.parametrize("seeds", [1, 2])
def test_intervals_draw_the_questions_of_an_image_and_all_seeds_together(
    tmp_path: Path, seeds: int
) -> None:
    """As wide as if every image had been asked once."""
    kept = [2.0, 4.0, 6.0, 4.0, 8.0, 12.0]
    for copies, folder in ((1, tmp_path / "once"), (2, tmp_path / "twice")):
        columns: dict[str, Any] = {
            "available": [16] * 6 * copies,
            "tokens_mean": [one for one in kept for _ in range(copies)],
            "complexity": [level for level in (1, 1, 1, 2, 2, 2) for _ in range(copies)],
            "image": [f"{number:x}" for number in range(6) for _ in range(copies)],
        }
        for seed in range(seeds):
            cell(folder, "adaptive", "t", [1.0] * 6 * copies, columns=columns, seed=seed)
    once, twice = table_of(tmp_path / "once"), table_of(tmp_path / "twice")
    assert twice["n"].tolist() == [2 * n for n in once["n"]] == [6, 6]
    ends = ["kept", "kept_low", "kept_high"]
    assert np.allclose(once[ends].astype(float), twice[ends].astype(float))
    # Student's of three images that keep 1/8, 2/8 and 3/8
    assert once["kept_high"].iloc[0] == pytest.approx(0.25 + 4.302652730 * 0.125 / 3**0.5)


def test_the_report_writes_table_and_figure_and_takes_them_back(tmp_path: Path) -> None:
    write(tmp_path, "none", [16.0] * 12)
    write(tmp_path, "adaptive", [4.0] * 4 + [8.0] * 8)
    report.build(tmp_path)
    files = tmp_path / "retention.csv", tmp_path / "figures" / "retention.png"
    assert all(file.is_file() for file in files)
    for part in (tmp_path / "cells" / "tiny__adaptive__0.5__t__s0").iterdir():
        part.unlink()
    (tmp_path / "cells" / "tiny__adaptive__0.5__t__s0").rmdir()
    write(tmp_path, "static", [8.0] * 12)
    report.build(tmp_path)
    assert not any(file.exists() for file in files)


def test_a_paper_gets_it_under_the_names_that_it_wants(tmp_path: Path) -> None:
    write(tmp_path / "study", "none", [16.0] * 12)
    write(tmp_path / "study", "adaptive", [4.0] * 4 + [8.0] * 8)
    write(tmp_path / "study", "other", [4.0] * 4 + [9.0] * 8)
    records, _ = cells.read(tmp_path / "study")
    wish = paper.Wish(methods=("adaptive",), rename={"adaptive": "Ours"}, format="svg")
    paper.write(board_of(tmp_path / "study"), records, wish, tmp_path / "out")
    text = (tmp_path / "out" / "retention.svg").read_text()
    assert ">Ours 50 %<" in text
    assert "other" not in text
    assert "**retention.svg** What methods keep" in (tmp_path / "out" / "captions.md").read_text()

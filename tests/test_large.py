"""Large studies: what a report leaves out of figures and tables, and that it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from prunebench.cli import main
from prunebench.report import figures, leaderboard, pairs, panels, ranks
from prunebench.study import cells, draws
from prunebench.study.contrasts import FLIPS, difference


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More tasks than a figure has panels."""
    folder = tmp_path_factory.mktemp("large")
    shape = synthetic.Shape(models=1, tasks=panels.MOST + 2, methods=5, seeds=1, samples=4)
    synthetic.write(folder, shape)
    return folder


@pytest.fixture(scope="module")
def board(study: Path) -> pd.DataFrame:
    assert main(["report", str(study)]) == 0
    return leaderboard.load(study / "leaderboard.csv")


def test_a_figure_has_its_first_panels_and_says_how_many_there_are(board: pd.DataFrame) -> None:
    figure = figures.by_task(board)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"task{number:02}" for number in range(panels.MOST)]
    note = f"the first {panels.MOST} of {panels.MOST + 2} models and tasks; leaderboard.csv has all"
    assert figure.get_label() == note
    assert note in figure.get_supxlabel()


def test_a_report_prints_what_its_figures_leave_out(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(study)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert "figures/accuracy_by_task.png shows the first 12 of 14 models and tasks; "\
        "leaderboard.csv has all" in said  # fmt: skip
    # a figure that has all its panels says nothing
    assert not [line for line in said if "figures/accuracy.png" in line]


def test_captions_for_a_paper_say_it_too(study: Path, tmp_path: Path) -> None:
    assert main(["report", str(study), f"paper={tmp_path}", "format=svg"]) == 0
    lines = (tmp_path / "captions.md").read_text().splitlines()
    (caption,) = [line for line in lines if "accuracy_by_task" in line]
    assert "Shown: the first 12 of 14 models and tasks" in caption


def test_a_diagram_of_ranks_has_a_limit() -> None:
    one = {"budget_kind": "mean", "budget": "0.5", "tasks": 3, "methods": 3, "friedman_p": 0.5}
    one |= {"critical_difference": 2.0, "against_best": ""}
    rows = []
    for model in range(panels.MOST + 1):
        for place, method in enumerate(("a", "b", "c")):
            rows.append(one | {"model": f"m{model}", "method": method, "average_rank": 1.0 + place})
    figure = ranks.figure(pd.DataFrame(rows))
    assert len(figure.axes) == panels.MOST
    assert figure.get_label() == "the first 12 of 13 models and budgets; ranks.csv has all"
    assert all("at 50 %" in ax.get_title() for ax in figure.axes)


def test_pairs_of_single_tasks_are_left_out_of_too_many(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, _ = cells.read(study)
    every = pairs.fold(records, pytest.fail)
    # four methods at three budgets, on each task and on all together
    assert len(every) == 6 * 3 * (panels.MOST + 2 + 1)
    monkeypatch.setattr(pairs, "MOST_PAIRS", len(every) - 1)
    notes: list[str] = []
    together = pairs.fold(records, pytest.fail, notes.append)
    assert set(together["task"]) == {"all"}
    assert together.equals(every[every["task"] == "all"].reset_index(drop=True))
    assert notes == ["pairs.csv has the pairs on all tasks together, without 252 on single ones"]


# ---- draws that are kept -------------------------------------------------------------------------


def test_kept_draws_are_those_of_a_fresh_generator() -> None:
    """Whatever was asked before, and whether they fit in memory at once."""
    scores = np.random.default_rng(1).random((30, 1))
    rng = np.random.default_rng(0)
    expected = scores[:, 0][rng.integers(0, 30, (200, 30))].mean(axis=1)
    for _ in range(2):
        own = draws.resampled([scores], lambda mean: mean[:, 0], 0, 200)
        assert own == pytest.approx(expected)
    in_parts = draws.resampled([scores], lambda mean: mean[:, 0], 0, 200, batch=90)
    assert in_parts == pytest.approx(expected)


@pytest.mark.parametrize("count", [5, 40, 300])
def test_the_sign_flip_test_is_scipys(count: int) -> None:
    """Exact for few samples, and as near as so many random signs come for more."""
    method = np.random.default_rng(count).random(count)
    own = difference([(method, np.full(count, 0.45))])
    test = stats.permutation_test(
        ((method - 0.45) / count,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, draws.BATCH // count),
        rng=np.random.default_rng(0),
    )
    p = float(test.pvalue)
    exact = 2**count <= FLIPS
    assert own.p == pytest.approx(p, abs=1e-12 if exact else 5 * (p * (1 - p / 2) / FLIPS) ** 0.5)


def test_sums_that_are_nothing_but_for_rounding_are_alike() -> None:
    """Thirds that cancel: every pattern of signs is as far from zero as what was seen."""
    scores = np.array([1 / 3, 2 / 3, 1 / 3, 2 / 3, 1 / 3, 2 / 3])
    gap = difference([(scores, scores[::-1].copy())])
    assert gap.p == 1.0

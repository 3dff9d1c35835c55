"""pairs.csv, ranks.csv and the marks of the leaderboard, of hand-written studies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_written import cell, fold, printed, row

from prunebench import report
from prunebench.report import pairs, ranks
from prunebench.run.grid import load
from prunebench.run.runner import sweep
from prunebench.study import cells

Row = dict[Any, Any]


def table(study: Path) -> dict[tuple[str, str, str, str], Row]:
    """The rows by task, budget and the two methods."""
    records, warnings = cells.read(study)
    rows = pairs.fold(records, warnings.append)
    assert warnings == []
    by_pair = {}
    for line in rows.to_dict("records"):
        by_pair[line["task"], line["budget"], line["method"], line["other"]] = line
    return by_pair


def three_methods(study: Path, task: str = "color", **facts: Any) -> Path:
    """Among twenty questions alpha is right on all, beta on ten, gamma on nine of these."""
    cell(study, "none", task, [1.0] * 20, **facts)
    cell(study, "alpha", task, [1.0] * 20, **facts)
    cell(study, "beta", task, [1.0] * 10 + [0.0] * 10, **facts)
    cell(study, "gamma", task, [1.0] * 9 + [0.0] * 11, **facts)
    return study


def test_every_pair_of_a_budget_is_compared(tmp_path: Path) -> None:
    rows = table(three_methods(tmp_path))
    assert list(rows) == [
        ("color", "0.5", "alpha", "beta"),
        ("color", "0.5", "alpha", "gamma"),
        ("color", "0.5", "beta", "gamma"),
    ]
    first = rows[("color", "0.5", "alpha", "beta")]
    assert (first["wins"], first["losses"], first["n"], first["family"]) == ("10", "0", "20", "3")
    assert float(first["p"]) == pytest.approx(2 / 2**10)
    # of three p-values the second smallest counts twice
    assert float(first["p_holm"]) == pytest.approx(2 * 2 / 2**10)
    assert [line["verdict"] for line in rows.values()] == [
        "better",
        "better",
        "no difference shown",
    ]


def test_budgets_are_families_of_their_own(tmp_path: Path) -> None:
    study = three_methods(tmp_path)
    cell(study, "alpha", "color", [1.0] * 20, budget="0.25")
    cell(study, "beta", "color", [0.0] * 20, budget="0.25")
    cell(study, "delta", "color", [0.0] * 20, budget="0.25", reach="nearest")
    rows = table(study)
    small = rows[("color", "0.25", "alpha", "beta")]
    assert (small["family"], small["p"]) == ("1", small["p_holm"])
    assert not [pair for pair in rows if "delta" in pair], "it did not keep to the budget"


def test_where_less_is_better_the_verdict_turns(tmp_path: Path) -> None:
    rows = table(three_methods(tmp_path, higher_is_better=False))
    assert rows[("color", "0.5", "alpha", "beta")]["verdict"] == "worse"


def test_all_tasks_of_one_scale_are_averaged(tmp_path: Path) -> None:
    three_methods(tmp_path)
    three_methods(tmp_path, "count")
    rows = table(tmp_path)
    assert float(rows[("all", "0.5", "alpha", "beta")]["difference"]) == 0.5
    assert rows[("all", "0.5", "alpha", "beta")]["test"] == "bootstrap"
    for method in ("alpha", "beta"):
        cell(tmp_path, method, "points", [50.0, 90.0])
    assert not [pair for pair in table(tmp_path) if "all" in pair]


def test_questions_of_one_image_count_as_one_in_both_tables(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"image": [f"i{number // 5}" for number in range(20)]}
    three_methods(tmp_path, columns=columns)
    fold(tmp_path)
    pair = table(tmp_path)[("color", "0.5", "alpha", "beta")]
    assert (pair["clusters"], pair["test"]) == ("4", "bootstrap")
    assert float(pair["p"]) == pytest.approx(0.5)
    # two of the four images differ
    assert row(tmp_path, "beta", "color")["difference_to_none_p"] == pytest.approx(0.5)


def test_methods_that_were_asked_other_questions_are_in_no_pair(tmp_path: Path) -> None:
    for method in ("alpha", "beta"):
        cell(tmp_path, method, "color", [1.0, 0.0])
    cell(tmp_path, "gamma", "color", [1.0, 0.0], ids=["color/0", "odd"])
    records, warnings = cells.read(tmp_path)
    rows = pairs.fold(records, warnings.append)
    assert list(rows["other"]) == ["beta"]
    assert warnings == ["color: gamma scored on other samples, and are in no pair"]


def test_the_leaderboard_has_three_marks_that_are_corrected(tmp_path: Path) -> None:
    """Six wins in a row are shown of one method, of three methods they are not."""
    wins = [1.0] * 6 + [0.0] * 4
    for place, method_scores, random_scores in (
        ("up", wins, [0.0] * 10),
        ("down", [0.0] * 10, wins),
    ):
        cell(tmp_path / place, "random", "color", random_scores)
        cell(tmp_path / place, "alpha", "color", method_scores)
        fold(tmp_path / place)
    up, down = (row(tmp_path / place, "alpha", "color") for place in ("up", "down"))
    assert (up["against_random"], up["better_than_random"]) == ("better", "yes")
    assert (down["against_random"], down["better_than_random"]) == ("worse", "no")
    assert "+0.600 ▲" in printed(tmp_path / "up")
    assert "-0.600 ▼" in printed(tmp_path / "down")
    tmp_path /= "up"
    for method in ("beta", "gamma"):
        cell(tmp_path, method, "color", [0.0] * 10)
    fold(tmp_path)
    assert "+0.600 ≈" in printed(tmp_path)
    line = row(tmp_path, "alpha", "color")
    assert line["difference_to_random_p"] == pytest.approx(2 / 2**6)
    assert line["difference_to_random_holm"] == pytest.approx(3 * 2 / 2**6)
    assert (line["against_random"], line["better_than_random"]) == ("no difference shown", "no")


def test_ranks_over_tasks(tmp_path: Path) -> None:
    """Three methods in the same order on four tasks: ranks 1, 2 and 3."""
    for task in ("a", "b", "c", "d"):
        three_methods(tmp_path, task)
    records, _ = cells.read(tmp_path)
    rows = ranks.fold(records).set_index("method")
    assert rows["average_rank"].to_dict() == {"alpha": 1, "beta": 2, "gamma": 3}
    assert set(rows["tasks"]) == {4}
    # Nemenyi's quantile for three methods is 2.343 (Demšar, 2006, table 5a)
    assert rows["critical_difference"].iloc[0] == pytest.approx(2.343 * 0.5**0.5, rel=1e-3)
    assert rows["against_best"].to_dict() == {
        "alpha": "no difference shown",
        "beta": "no difference shown",
        "gamma": "worse",
    }
    outcome = report.build(tmp_path)
    assert tmp_path / "figures" / "ranks.png" in outcome.figures
    assert (tmp_path / "ranks.csv").is_file()


def test_means_that_are_the_same_but_for_rounding_share_a_rank(tmp_path: Path) -> None:
    """.3, .4 and .5 come to .4 of three seeds, if not to the last bit."""
    rights = {"alpha": (3, 4, 5), "beta": (4, 4, 4), "gamma": (0, 0, 0)}
    for task in ("a", "b"):
        for method, counts in rights.items():
            for seed, right in enumerate(counts):
                cell(tmp_path, method, task, [1.0] * right + [0.0] * (10 - right), seed=seed)
    records, _ = cells.read(tmp_path)
    rows = ranks.fold(records).set_index("method")
    assert rows["average_rank"].to_dict() == {"alpha": 1.5, "beta": 1.5, "gamma": 3}


@pytest.mark.filterwarnings("ignore:invalid value")
def test_methods_that_are_all_as_good_differ_by_no_test(tmp_path: Path) -> None:
    for task in ("a", "b"):
        for method in ("alpha", "beta", "gamma"):
            cell(tmp_path, method, task, [1.0, 0.0] * 5)
    records, _ = cells.read(tmp_path)
    assert set(ranks.fold(records)["friedman_p"]) == {1.0}


def test_critical_difference_agrees_with_scikit_posthocs() -> None:
    import scikit_posthocs

    scores = np.random.default_rng(5).random((12, 4))
    scores += np.array([0.0, 0.1, 0.5, 0.9])
    values = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    means = np.argsort(np.argsort(scores, axis=1), axis=1).mean(axis=0)
    gaps = np.abs(means[:, None] - means[None, :])
    assert ((gaps > ranks.critical_difference(4, 12)) == (values < 0.05)).all()
    assert (values < 0.05).any()


def test_one_task_has_no_ranks_and_old_ones_go(tmp_path: Path) -> None:
    three_methods(tmp_path)
    (tmp_path / "ranks.csv").write_text("old")
    report.build(tmp_path)
    assert not (tmp_path / "ranks.csv").exists()
    assert not (tmp_path / "figures" / "ranks.png").exists()


def prunebench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prunebench.cli", "pairs", *words]
    env = {**os.environ, "COLUMNS": "240"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_the_command_shows_what_is_better_than_what(tmp_path: Path) -> None:
    study = three_methods(tmp_path)
    assert "prunebench report" in prunebench(str(study)).stderr
    report.build(study)
    standings = prunebench(str(study)).stdout.splitlines()
    assert standings[1].split()[0] == "alpha"
    assert standings[1].split()[4:7] == ["2", "0", "0"]
    (line,) = prunebench(str(study), "method=gamma", "other=alpha").stdout.splitlines()[1:2]
    assert line.startswith("gamma - alpha")
    assert " worse " in line
    assert " 0:11 " in line
    wrong = prunebench(str(study), "method=delta")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "there are: alpha, beta, gamma" in wrong.stderr


def test_a_sweep_says_which_samples_share_an_image(tmp_path: Path) -> None:
    words = ["methods=divprune", "budgets=0.5", "limit=3", "cost=false", f"out={tmp_path}"]
    sweep(load(None, words))
    records, _ = cells.read(tmp_path)
    images = [cell.labels["image"].to_dict() for cell in records if cell.ok]
    assert len(images) > 2
    assert all(of_cell == images[0] for of_cell in images)
    assert all(isinstance(image, str) for image in images[0].values())
    # every scene of the embedded task is another image
    assert len(set(images[0].values())) == 3
    assert records[0].cluster_labels is None

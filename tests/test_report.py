"""The report: golden tables from hand-written cells, partial and damaged studies."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hand_written import (
    cell,
    change,
    cost,
    facts_of,
    fold,
    golden_study,
    metrics_of,
    printed,
    row,
    write_facts,
)

from prunebench import report
from prunebench.report import by_type, leaderboard, pairs, ranks, retention
from prunebench.report.headings import SOMETIMES, names
from prunebench.study import cells
from prunebench.study.cells import ReportError
from prunebench.study.statistics import clustered_interval

GOLDEN = Path(__file__).parent / "golden_report"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return golden_study(tmp_path / "study")


# ---- tables ------------------------------------------------------------------------------------


def test_metrics_equal_the_golden_table(study: Path) -> None:
    files = report.build(study)
    assert files.metrics.read_text() == (GOLDEN / "metrics.csv").read_text()
    assert files.warnings == ()


def test_leaderboard_equals_the_golden_table(study: Path) -> None:
    """To the letter, but for the ends of bootstrapped intervals: numpy may draw otherwise in
    another version.
    """
    fold(study)
    board = pd.read_csv(study / "leaderboard.csv", dtype=str, keep_default_na=False)
    golden = pd.read_csv(GOLDEN / "leaderboard.csv", dtype=str, keep_default_na=False)
    # the samples of this study have no answers but scores, and no blind or resized control
    assert list(board.columns) == [*leaderboard.COLUMNS, "right_to_wrong", "wrong_to_right"]
    ends = []
    for name in leaderboard.COLUMNS:
        compared = name.startswith(("relative", "difference"))
        if compared and name.endswith(("_low", "_high")):
            ends.append(name)
    pd.testing.assert_frame_equal(board.drop(columns=ends), golden.drop(columns=ends))
    for name in ends:
        own, expected = board[name], golden[name]
        assert ((own == "") == (expected == "")).all()
        numbers = pd.to_numeric(own), pd.to_numeric(expected)
        pd.testing.assert_series_equal(*numbers, atol=0.06, rtol=0)


def test_folding_again_gives_the_same_bytes(study: Path) -> None:
    files = report.build(study)
    paths = [files.metrics, files.leaderboard, *files.figures]
    before = [path.read_bytes() for path in paths]
    assert report.build(study) == files
    assert [path.read_bytes() for path in paths] == before
    assert not list(study.rglob("*.part"))


def test_known_numbers_of_a_row(study: Path) -> None:
    fold(study)
    color = row(study, "fastv", "color")
    pooled = row(study, "fastv", "all")
    assert color["difference_to_random"] == pytest.approx(0.8)
    assert color["difference_to_random_p"] == pytest.approx(2 / 2**8)  # eight wins, no loss
    assert color["better_than_random"] == "yes"
    assert row(study, "fastv", "count")["better_than_random"] == "no"
    assert pooled["accuracy"] == pytest.approx((0.9 + 0.4) / 2)
    assert pooled["relative_accuracy"] == pytest.approx((1.0 + 0.5) / 2)
    assert pooled["tokens_mean_share"] == pytest.approx(0.5)
    assert pooled["flops_ratio"] == pytest.approx(0.625)
    assert (pooled["prefill_ratio"], pooled["total_ratio_high"]) == pytest.approx((0.7, 0.84))
    assert pooled["evidence_recall_random"] == pytest.approx(0.5)
    assert pooled["n"] == 20


def test_rows_that_did_not_run_keep_their_reason(study: Path) -> None:
    report.build(study)
    infeasible = row(study, "fastv", "color", "0.05")
    assert infeasible["status"] == "infeasible"
    assert infeasible["reason"] == "budget 0.05 is out of reach at llm:2"
    failed = row(study, "pool", "color")
    assert failed["status"] == "failed"
    assert failed["reason"] == "RuntimeError: broken"
    assert np.isnan(failed["accuracy"])
    pooled = row(study, "fastv", "all", "0.05")
    assert pooled["status"] == "infeasible"
    assert pooled["reason"] == "budget 0.05 is out of reach at llm:2; not run on count"
    metrics = pd.read_csv(study / "metrics.csv", dtype=str, keep_default_na=False)
    without_number = metrics[metrics["metric"] == "status"]
    assert set(without_number["status"]) == {"infeasible", "failed"}


# ---- partial and damaged studies ---------------------------------------------------------------


def test_damaged_cells_are_named_and_the_others_kept(study: Path) -> None:
    folders = study / "cells"
    (folders / "tiny__fastv__0.5__color__s0" / "cell.json").write_text("{not json")
    (folders / "tiny__fastv__0.5__count__s0" / "samples.parquet").write_bytes(b"PAR1")
    (folders / "tiny__random__0.5__color__s0" / "cell.json").unlink()
    (folders / "no folder").write_text("")
    text = "\n".join(fold(study))
    assert "cell tiny__fastv__0.5__color__s0 is damaged" in text
    assert "cell tiny__fastv__0.5__count__s0 is damaged: samples.parquet was changed" in text
    assert "cell tiny__random__0.5__color__s0 has no cell.json" in text
    assert "cell no folder is damaged: it is no folder" in text
    assert row(study, "none", "color", "1.0")["accuracy"] == pytest.approx(0.9)
    assert row(study, "random", "count")["accuracy"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"status": "fine"}, "status 'fine' is unknown"),
        ({"method": None}, "lacks method"),
        ({"id": "other"}, "belongs to cell 'other'"),
        ({"metrics": [{"metric": "score", "value": "high"}]}, "'high' where a number belongs"),
        ({"files": {"samples.parquet": "0"}}, "samples.parquet was changed"),
        ({"budget": "nan"}, "budget 'nan' where a budget belongs"),
        ({"samples": {"asked": 10}}, "where counts asked and answered belong"),
    ],
)
def test_a_changed_cell_is_refused_though_its_seal_fits(
    study: Path, facts: dict[str, Any], message: str
) -> None:
    folder = study / "cells" / "tiny__fastv__0.5__color__s0"
    change(folder, **facts)
    records, warnings = cells.read(study)
    assert message in "".join(warnings)
    assert folder.name not in {c.id for c in records}


def test_a_cell_without_its_seal_or_with_another_is_refused(study: Path) -> None:
    first, second = (
        study / "cells" / f"tiny__fastv__0.5__{task}__s0" for task in ("color", "count")
    )
    write_facts(first, json.loads((first / "cell.json").read_text()), "seal")
    (second / "cell.json").write_text((second / "cell.json").read_text().replace("0.4", "0.9"))
    records, warnings = cells.read(study)
    assert [text.partition(" is damaged: ")[2].partition(";")[0] for text in warnings] == [
        "cell.json has no seal",
        "cell.json was changed by hand",
    ]
    assert not {first.name, second.name} & {c.id for c in records}


def test_a_copy_of_a_cell_is_not_counted_twice(study: Path) -> None:
    copy = study / "cells" / "tiny__fastv__0.5__color__s0-copy"
    shutil.copytree(study / "cells" / "tiny__fastv__0.5__color__s0", copy)
    assert "belongs to cell" in "".join(cells.read(study)[1])
    change(copy, id=copy.name)
    warnings = fold(study)
    assert "answers what tiny__fastv__0.5__color__s0 does, and is left out" in "".join(warnings)
    assert row(study, "fastv", "color")["n"] == 10


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="is no study"):
        report.build(tmp_path)
    (tmp_path / "cells" / "half").mkdir(parents=True)
    with pytest.raises(ReportError, match=r"no finished cell; cell half has no cell\.json"):
        report.build(tmp_path)
    with pytest.raises(ReportError, match="fold the study first"):
        report.terminal(tmp_path)


def test_an_unwritable_table_is_one_clear_error(study: Path) -> None:
    (study / "metrics.csv" / "in_the_way").mkdir(parents=True)
    with pytest.raises(ReportError, match=r"cannot write .*metrics\.csv"):
        report.build(study)
    assert not list(study.rglob("*.part"))


def test_missing_baseline_and_control_leave_their_columns_empty(tmp_path: Path) -> None:
    cell(tmp_path, "fastv", "color", [1, 0, 1, 1])
    fold(tmp_path)
    alone = row(tmp_path, "fastv", "color")
    assert alone["accuracy"] == pytest.approx(0.75)
    for name in (
        "relative_accuracy",
        "difference_to_none",
        "flops_ratio",
        "difference_to_random",
        "total_ratio",
    ):
        assert np.isnan(alone[name])
    assert alone["better_than_random"] == ""
    assert alone["tokens_mean_share"] == pytest.approx(0.5)


def test_a_study_of_cost_alone_is_folded(tmp_path: Path) -> None:
    cost(tmp_path, "fastv", "color", 0.7, 0.8)
    files = report.build(tmp_path)
    numbers = row(tmp_path, "fastv", "color")
    assert numbers["total_ratio"] == pytest.approx(0.8)
    assert numbers["peak_memory_mib"] == pytest.approx(120.5)
    assert numbers["status"] == "ok"
    assert files.figures == ()
    assert "no figures" in files.warnings[0]
    assert "0.80" in printed(tmp_path)


def test_a_figure_without_numbers_goes(study: Path) -> None:
    figure = study / "figures" / "evidence.png"
    report.build(study)
    assert figure.exists()
    for folder in (study / "cells").iterdir():
        metrics = facts_of(folder)["metrics"]
        change(folder, metrics=[one for one in metrics if one["metric"] != "evidence_recall"])
    report.build(study)
    assert not figure.exists()


def test_different_samples_are_not_compared(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", [1, 1, 1], ids=["a", "b", "c"])
    cell(tmp_path, "fastv", "color", [1, 0, 1], ids=["a", "b", "x"])
    assert "not compared: scored on different samples" in "".join(fold(tmp_path))
    assert np.isnan(row(tmp_path, "fastv", "color")["difference_to_none"])


def test_samples_without_an_answer_are_left_out_of_both(tmp_path: Path) -> None:
    """Old cells do not say how many samples were asked."""
    cell(tmp_path, "none", "color", [1, 1, 1, 0])
    facts: dict[str, Any] = {
        "metrics": [{"metric": "score", "value": 2 / 3}],
        "status": "failed",
        "reason": "1 of 4 samples",
    }
    cell(tmp_path, "fastv", "color", [1, 0, 1, float("nan")], **facts)
    fold(tmp_path)
    numbers = row(tmp_path, "fastv", "color")
    assert numbers["status"] == "failed"
    assert list(numbers[["n", "n_asked", "n_paired_none"]]) == [3, 3, 3]
    assert numbers["difference_to_none"] == pytest.approx(-1 / 3)


PARTLY = "speaks for 2 of 4 samples; sample a: its image [/] is truncated"


def partly_answered(study: Path) -> None:
    """Of four samples `none` does not answer the last, fastv the first (a row without score) and
    the second (no row).
    """
    hole = float("nan")
    cell(
        study,
        "none",
        "color",
        [1, 0, 1, hole],
        ids=list("abcd"),
        columns={
            "flops_total": [100, 200, 300, 400],
            "available": [10, 20, 30, 40],
            "tokens_mean": [10, 20, 30, 40],
        },
        samples={"asked": 4, "answered": 3},
        metrics=metrics_of(
            {"score": 2 / 3, "flops_total": 200, "tokens_mean": 20, "tokens_available": 20}
        ),
    )
    cell(
        study,
        "fastv",
        "color",
        [hole, 0, 1],
        ids=list("acd"),
        columns={
            "flops_total": [100, 150, 200],
            "available": [10, 30, 40],
            "tokens_mean": [5, 15, 30],
        },
        samples={"asked": 4, "answered": 2},
        metrics=metrics_of(
            {"score": 0.5, "flops_total": 175, "tokens_mean": 22.5, "tokens_available": 35}
        ),
        reason=PARTLY,
    )
    cell(
        study,
        "random",
        "color",
        [0, 0, 0, 1],
        ids=list("abcd"),
        samples={"asked": 4, "answered": 4},
    )


def test_cells_that_speak_for_fewer_samples_are_compared_on_those_both_answered(
    tmp_path: Path,
) -> None:
    partly_answered(tmp_path)
    assert fold(tmp_path) == []
    numbers = row(tmp_path, "fastv", "color")
    assert numbers["status"] == "ok"
    assert list(numbers[["n", "n_asked"]]) == [2, 4]
    assert list(numbers[["n_paired_none", "difference_to_none", "relative_accuracy"]]) == [1, -1, 0]
    assert list(numbers[["n_paired_random", "difference_to_random"]]) == [2, 0]
    assert numbers["flops_ratio"] == pytest.approx(150 / 300)  # sample c alone
    assert numbers["tokens_mean_share"] == pytest.approx(15 / 30)
    assert "speaks for 2 of 4 samples" in numbers["reason"]
    assert "compared with none on the 1 samples that both answered" in numbers["reason"]
    assert "compared with random on the 2 samples that both answered" in numbers["reason"]
    whole = row(tmp_path, "none", "color", "1.0")
    assert list(whole[["n", "n_asked"]]) == [3, 4]
    assert f"fastv at 50 % ok: {PARTLY}" in printed(tmp_path, 200)


def test_a_metric_that_is_no_mean_is_not_related_to_one_of_other_samples(tmp_path: Path) -> None:
    theirs, own = metrics_of({"score": 400.0}), metrics_of({"score": 310.0}, n=3)
    counts = {"asked": 4, "answered": 3}
    cell(tmp_path, "none", "color", [1, 1, 1, 0], metrics=theirs)
    cell(tmp_path, "fastv", "color", [1, 0, 1, float("nan")], metrics=own, samples=counts)
    fold(tmp_path)
    assert np.isnan(row(tmp_path, "fastv", "color")["relative_accuracy"])


def test_a_metric_that_is_no_mean_of_samples_keeps_its_own_interval(tmp_path: Path) -> None:
    own = metrics_of({"score": 310.0}, ci_low=300.0, ci_high=330.0, n=4)
    cell(tmp_path, "none", "color", [1, 1, 1, 0], metrics=metrics_of({"score": 400.0}))
    cell(tmp_path, "fastv", "color", [1, 0, 1, 0], metrics=own)
    fold(tmp_path)
    numbers = row(tmp_path, "fastv", "color")
    assert list(numbers[["accuracy", "accuracy_low", "accuracy_high"]]) == [310, 300, 330]
    assert numbers["relative_accuracy"] == pytest.approx(310 / 400)
    assert np.isnan(numbers["difference_to_none"])


def test_seeds_are_pooled_by_sample(tmp_path: Path) -> None:
    for seed, scores in enumerate(([1, 1, 0, 0], [1, 0, 0, 0])):
        cell(tmp_path, "none", "color", [1 - seed] * 4, seed=seed)
        cell(tmp_path, "fastv", "color", scores, seed=seed)
    fold(tmp_path)
    numbers = row(tmp_path, "fastv", "color")
    assert list(numbers[["seeds", "n"]]) == [2, 4]
    assert numbers["accuracy"] == pytest.approx(0.375)
    assert numbers["difference_to_none"] == pytest.approx(((0.5 - 1) + (0.25 - 0)) / 2)


def test_budgets_of_different_kinds_have_their_own_control(tmp_path: Path) -> None:
    cell(tmp_path, "random", "color", [0] * 8)
    cell(tmp_path, "fastv", "color", [1] * 8)
    folder = cell(tmp_path, "fastv", "color", [1] * 8, budget="0.25", budget_kind="kv")
    fold(tmp_path)
    assert folder.exists()
    assert row(tmp_path, "fastv", "color")["better_than_random"] == "yes"
    assert row(tmp_path, "fastv", "color", "0.25")["better_than_random"] == ""


def test_a_metric_where_less_is_better_turns_the_flag(tmp_path: Path) -> None:
    cell(tmp_path, "random", "loss", [1] * 8, higher_is_better=False)
    cell(tmp_path, "fastv", "loss", [0] * 8, higher_is_better=False)
    cell(tmp_path, "worse", "loss", [2] * 8, higher_is_better=False)
    fold(tmp_path)
    assert row(tmp_path, "fastv", "loss")["better_than_random"] == "yes"
    assert row(tmp_path, "worse", "loss")["better_than_random"] == "no"


@pytest.mark.parametrize(
    "name", ["metrics.csv", "leaderboard.csv", "figures", "figures/accuracy.png"]
)
def test_a_report_is_not_written_through_a_link(study: Path, name: str) -> None:
    outside = study.parent / "outside"
    outside.mkdir()
    target = outside if name == "figures" else outside / "file"
    if target != outside:
        target.write_text("theirs")
    (study / name).parent.mkdir(exist_ok=True)
    (study / name).symlink_to(target)
    with pytest.raises(ReportError, match=r"cannot write .* link"):
        report.build(study)
    assert [path.read_text() for path in outside.iterdir()] == ["theirs"] * (target != outside)


def test_a_report_tidies_up_after_one_that_was_killed(tmp_path: Path) -> None:
    cost(tmp_path, "fastv", "color", 0.7, 0.8)
    (tmp_path / "figures").mkdir()
    for folder in (tmp_path, tmp_path / "figures"):
        (folder / ".0123456789abcdef.part").write_text("half")
    report.build(tmp_path)
    assert not list(tmp_path.rglob("*.part"))


# ---- layers ------------------------------------------------------------------------------------


PARTS = ("border", "published", "report", "study")


def imported_names(path: Path) -> list[str]:
    """Every module that a file imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


def test_the_report_imports_no_model_code() -> None:
    for path in Path(str(report.__file__)).parent.glob("*.py"):
        for name in imported_names(path):
            package, _, inside = name.partition(".")
            assert package not in ("torch", "transformers"), path
            if package == "prunebench" and inside:
                assert inside.partition(".")[0] in PARTS, path


# ---- tasks of different scales, and samples in groups --------------------------------------------


def test_all_tasks_have_no_mean_accuracy_over_different_scales(tmp_path: Path) -> None:
    """A share, a percentage, and a task of another kind of number: what each keeps of the unpruned
    model's is averaged, what each has is not.
    """
    for method, share, percent in (("none", 1.0, 80.0), ("random", 0.25, 20.0), ("fastv", 0.5, 60)):
        cell(tmp_path, method, "color", [share] * 4)
        cell(tmp_path, method, "count", [percent] * 4)
    fold(tmp_path)
    pooled = row(tmp_path, "fastv", "all")
    assert pooled["relative_accuracy"] == pytest.approx((0.5 + 0.75) / 2)
    for name in ("accuracy", "accuracy_low", "difference_to_none", "difference_to_random"):
        assert np.isnan(pooled[name]), name
    assert pooled["better_than_random"] == ""
    assert "no mean accuracy over different scales (0..1; 0..100)" in pooled["reason"]
    assert pooled["n"] == 8
    assert row(tmp_path, "fastv", "count")["difference_to_none"] == pytest.approx(-20)


def test_a_unit_of_its_own_is_averaged_with_no_other(tmp_path: Path) -> None:
    points: dict[str, Any] = {
        "metrics": [{"metric": "score", "value": 0.5, "unit": "points", "n": 2}]
    }
    for method in ("none", "fastv"):
        cell(tmp_path, method, "color", [0.5, 0.5], **points)
        cell(tmp_path, method, "count", [0.5, 0.5])
    fold(tmp_path)
    reason = row(tmp_path, "fastv", "all")["reason"]
    assert "different scales (0..1; points of color)" in reason


def test_seeds_of_the_same_questions_make_no_interval_narrower(tmp_path: Path) -> None:
    """Where only the cells have intervals: two seeds that are as sure as one are no surer."""
    for seed, value in enumerate((310.0, 330.0)):
        own = metrics_of({"score": value}, ci_low=value - 10, ci_high=value + 20, n=4)
        cell(tmp_path, "fastv", "color", [1, 0, 1, 0], metrics=own, seed=seed)
    fold(tmp_path)
    numbers = row(tmp_path, "fastv", "color")
    assert list(numbers[["accuracy", "accuracy_low", "accuracy_high"]]) == [320, 310, 340]
    assert numbers["n"] == 4


def test_tasks_that_disagree_on_what_is_better_have_no_mean_of_ratios(tmp_path: Path) -> None:
    for method, score in (("none", 0.5), ("fastv", 0.25)):
        cell(tmp_path, method, "color", [score] * 4)
        metrics = [{"metric": "score", "value": score, "n": 4, "higher_is_better": False}]
        cell(tmp_path, method, "count", [score] * 4, metrics=metrics, higher_is_better=False)
    fold(tmp_path)
    pooled = row(tmp_path, "fastv", "all")
    assert np.isnan(pooled["relative_accuracy"])
    assert np.isnan(pooled["accuracy"])


def test_samples_of_a_group_count_as_one_where_methods_are_compared(tmp_path: Path) -> None:
    """Five pairs, each lost as a whole: the test has five signs, not ten."""
    groups = [f"image {number // 2}" for number in range(10)]
    for method, scores in (("none", [1.0] * 10), ("random", [0.0] * 10), ("fastv", [0.0] * 10)):
        alone: dict[str, Any] = {} if method == "random" else {"group": groups}
        cell(tmp_path, method, "color", scores, columns=alone)
    fold(tmp_path)
    line = row(tmp_path, "fastv", "color")
    assert line["difference_to_none"] == pytest.approx(-1)
    assert line["difference_to_none_p"] == pytest.approx(2 / 2**5)
    assert line["n_paired_none"] == 10
    assert line["n"] == 10
    # Wilson's of no success among five, not among ten
    assert line["accuracy_high"] == pytest.approx(0.4345, abs=1e-3)
    assert row(tmp_path, "random", "color")["accuracy_high"] == pytest.approx(0.2775, abs=1e-3)


def test_equal_answers_give_a_difference_no_interval(tmp_path: Path) -> None:
    """Twenty answers of which none differs do not say how far others would."""
    for method in ("none", "random", "fastv"):
        cell(tmp_path, method, "color", [1.0, 0.0] * 10)
    fold(tmp_path)
    line = row(tmp_path, "fastv", "color")
    assert (line["difference_to_none"], line["difference_to_none_p"]) == (0, 1)
    assert line["relative_accuracy"] == 1
    for name in ("difference_to_none", "difference_to_random", "relative_accuracy"):
        assert np.isnan(line[f"{name}_low"]), name
        assert np.isnan(line[f"{name}_high"]), name
    assert line["against_none"] == "no difference shown"


def test_what_is_lost_every_time_is_worse_without_an_interval(tmp_path: Path) -> None:
    for method, score in (("none", 1.0), ("random", 1.0), ("fastv", 0.0)):
        cell(tmp_path, method, "color", [score] * 20)
    fold(tmp_path)
    line = row(tmp_path, "fastv", "color")
    assert np.isnan(line["difference_to_none_low"])
    assert line["against_none"] == line["against_random"] == "worse"


def test_an_interval_is_the_same_in_cell_and_leaderboard(tmp_path: Path) -> None:
    """Images of one to four questions, graded: one rule for both."""
    images = [f"{image:02}" for image in range(12) for _ in range(1 + image % 4)]
    scores = [0.25 * (number % 5) for number in range(len(images))]
    cell(tmp_path, "fastv", "color", scores, columns={"image": images})
    fold(tmp_path)
    line = row(tmp_path, "fastv", "color")
    _, low, high = clustered_interval(scores, images)
    assert (line["accuracy_low"], line["accuracy_high"]) == pytest.approx((low, high))


def test_low_and_high_are_the_ends_of_an_interval_and_nothing_else() -> None:
    """In every table a column of which there are these two is a number of its own."""
    sometimes = names(SOMETIMES)
    every = [[*leaderboard.COLUMNS, *sometimes], pairs.COLUMNS, retention.COLUMNS]
    for columns in [*every, ranks.COLUMNS, by_type.COLUMNS]:
        for name in columns:
            if name.endswith(("_low", "_high")):
                assert name.rpartition("_")[0] in columns, name

"""The report: golden tables from hand-written cells, statistics with known answers, figures and the
picture of kept tokens.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from pyarrow import parquet
from rich.console import Console

from prunebench import report
from prunebench.border.text import clean
from prunebench.report import figures, labels, leaderboard, screen, tables
from prunebench.report import overlay as show
from prunebench.study import cells, statistics
from prunebench.study.cells import ReportError
from prunebench.study.columns import schema
from prunebench.study.seal import seal

GOLDEN = Path(__file__).parent / "golden_report"
FACTS = {"tokens_available": 16, "tokens_input": 16, "tokens_kv": 16, "kv_bytes": 4096}
WORK: dict[str, dict[str, float]] = {
    "none": {"tokens_mean": 16, "flops_total": 2_000_000, "evidence_recall": 1.0},
    "random": {"tokens_mean": 8, "flops_total": 1_200_000, "evidence_recall": 0.5},
    "fastv": {"tokens_mean": 8, "flops_total": 1_250_000, "evidence_recall": 0.875},
}
SCORES = {
    ("none", "color"): "1111111110",
    ("none", "count"): "1111111100",
    ("random", "color"): "1000000000",
    ("random", "count"): "1100110000",
    ("fastv", "color"): "1111111110",
    ("fastv", "count"): "1111000000",
}
PROVENANCE = {"hardware": "2 cores", "dtype": "float32", "commit": "abc1234", "dirty": False}


def cell(
    study: Path,
    method: str,
    task: str,
    scores: Sequence[float] | None,
    budget: str = "0.5",
    seed: int = 0,
    ids: Sequence[str] | None = None,
    columns: dict[str, Sequence[float]] | None = None,
    **facts: Any,
) -> Path:
    """Write a cell as a sweep does; without scores it has no metrics either."""
    budget = "1.0" if method == "none" else budget
    name = f"tiny__{method}__{budget}__{task}__s{seed}" + (
        "__cost" if facts.get("kind") == "cost" else ""
    )
    values: dict[str, float] = {}
    if scores is not None:
        values = {"score": float(np.mean(scores)), **FACTS, **WORK.get(method, WORK["fastv"])}
    content = {
        "id": name,
        "fingerprint": "f",
        "kind": "quality",
        "model": "tiny",
        "method": method,
        "settings": {"layer": 2} if method == "fastv" else {},
        "budget": budget,
        "budget_kind": "" if method == "none" else "mean",
        "task": task,
        "seed": seed,
        "status": "ok",
        "reason": "",
        "higher_is_better": True,
        "metric": "exact_match",
        "metrics": [
            {"metric": key, "value": value, "unit": "", "n": 10} for key, value in values.items()
        ],
        "provenance": PROVENANCE,
        **facts,
    }
    folder = study / "cells" / name
    folder.mkdir(parents=True)
    rows = []
    for number, score in enumerate(scores or []):
        sample = (ids or [f"{task}/{i}" for i in range(len(scores or []))])[number]
        unanswered = np.isnan(score)
        per_sample = (
            {}
            if unanswered or columns is None
            else {key: values[number] for key, values in columns.items()}
        )
        rows.append({
            "sample_id": sample, "doc_id": number, "score": None if unanswered else float(score),
            "error": "broken" if unanswered else None, **per_sample,
        })  # fmt: skip
    table = "pairs" if content["kind"] == "cost" else "samples"
    parquet.write_table(
        pyarrow.Table.from_pylist(rows, schema=schema(table)), folder / f"{table}.parquet"
    )
    write_facts(folder, content)
    return folder


def write_facts(folder: Path, content: dict[str, Any], *drop: str) -> None:
    """Write cell.json sealed, as a sweep does, but without the keys in `drop`."""
    files = {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.parquet"))
    }
    content = {
        key: value
        for key, value in ({"files": files} | content).items()
        if key not in ("seal", *drop)
    }
    content |= {} if "seal" in drop else {"seal": seal(content)}
    (folder / "cell.json").write_text(json.dumps(content))


def change(folder: Path, **facts: Any) -> None:
    """Give a cell other facts, under a seal that fits."""
    write_facts(folder, json.loads((folder / "cell.json").read_text()) | facts)


def cost(study: Path, method: str, task: str, prefill: float, total: float, **facts: Any) -> Path:
    """Write a cost cell."""
    metrics = [
        {
            "metric": f"latency_{phase}_ratio",
            "value": v,
            "unit": "ratio",
            "ci_low": v - 0.02,
            "ci_high": v + 0.04,
            "n": 9,
        }
        for phase, v in (("prefill", prefill), ("total", total))
    ]
    metrics.append({"metric": "peak_memory_mib", "value": 120.5, "unit": "MiB", "n": 9})
    return cell(study, method, task, None, kind="cost", metrics=metrics, **facts)


def golden_study(study: Path) -> Path:
    """Six ok cells on two tasks, one infeasible, one failed, and one cost cell."""
    for (method, task), scores in SCORES.items():
        cell(study, method, task, [int(score) for score in scores])
    reason = "budget 0.05 is out of reach at llm:2"
    cell(study, "fastv", "color", None, budget="0.05", status="infeasible", reason=reason)
    cell(
        study,
        "pool",
        "color",
        None,
        status="failed",
        reason="RuntimeError: broken\nTraceback ...",
        control=True,
    )
    cost(study, "fastv", "color", 0.7, 0.8)
    return study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return golden_study(tmp_path / "study")


def fold(study: Path) -> list[str]:
    """The leaderboard without figures, which take a second; the warnings."""
    found, warnings = cells.read(study)
    tables.write_csv(study / "leaderboard.csv", leaderboard.fold(found, warnings.append))
    return warnings


def board_of(study: Path) -> pd.DataFrame:
    fold(study)
    return leaderboard.load(study / "leaderboard.csv")


def row(study: Path, method: str, task: str, budget: str = "0.5") -> pd.Series[Any]:
    board = leaderboard.load(study / "leaderboard.csv")
    found = board[
        (board["method"] == method) & (board["task"] == task) & (board["budget"] == budget)
    ]
    assert len(found) == 1
    return found.iloc[0]


# ---- tables --------------------------------------------------------------------------------------


def test_metrics_equal_the_golden_table(study: Path) -> None:
    built = report.build(study)
    assert built.metrics.read_text() == (GOLDEN / "metrics.csv").read_text()
    assert built.warnings == ()


def test_leaderboard_equals_the_golden_table(study: Path) -> None:
    """To the letter, but for the ends of bootstrapped intervals: numpy may draw otherwise in
    another version.
    """
    fold(study)
    found = pd.read_csv(study / "leaderboard.csv", dtype=str, keep_default_na=False)
    golden = pd.read_csv(GOLDEN / "leaderboard.csv", dtype=str, keep_default_na=False)
    assert list(found.columns) == list(leaderboard.COLUMNS)
    drawn = [
        name
        for name in found
        if name.startswith(("relative", "difference")) and name.endswith(("_low", "_high"))
    ]
    pd.testing.assert_frame_equal(found.drop(columns=drawn), golden.drop(columns=drawn))
    for name in drawn:
        assert ((found[name] == "") == (golden[name] == "")).all()
        ends = pd.to_numeric(found[name]), pd.to_numeric(golden[name])
        pd.testing.assert_series_equal(*ends, atol=0.06, rtol=0)


def test_folding_again_gives_the_same_bytes(study: Path) -> None:
    first = report.build(study)
    before = [path.read_bytes() for path in (first.metrics, first.leaderboard, *first.figures)]
    again = report.build(study)
    assert before == [
        path.read_bytes() for path in (again.metrics, again.leaderboard, *again.figures)
    ]
    assert not list(study.rglob("*.part"))


def test_known_numbers_of_a_row(study: Path) -> None:
    fold(study)
    color, pooled = row(study, "fastv", "color"), row(study, "fastv", "all")
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
    infeasible, failed = row(study, "fastv", "color", "0.05"), row(study, "pool", "color")
    assert (infeasible["status"], infeasible["reason"]) == (
        "infeasible",
        "budget 0.05 is out of reach at llm:2",
    )
    assert (failed["status"], failed["reason"]) == ("failed", "RuntimeError: broken")
    assert np.isnan(failed["accuracy"])
    pooled = row(study, "fastv", "all", "0.05")
    assert (pooled["status"], pooled["reason"]) == (
        "infeasible",
        f"{infeasible['reason']}; not run on count",
    )
    metrics = pd.read_csv(study / "metrics.csv", dtype=str, keep_default_na=False)
    assert set(metrics.loc[metrics["metric"] == "status", "status"]) == {"infeasible", "failed"}


# ---- partial and damaged studies -----------------------------------------------------------------


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
    built = report.build(tmp_path)
    found = row(tmp_path, "fastv", "color")
    assert (found["total_ratio"], found["peak_memory_mib"]) == pytest.approx((0.8, 120.5))
    assert found["status"] == "ok"
    assert built.figures == ()
    assert "no figures" in built.warnings[0]
    assert "0.80" in printed(tmp_path)


def test_a_figure_without_numbers_goes(study: Path) -> None:
    report.build(study)
    assert (study / "figures" / "evidence.png").exists()
    for path in (study / "cells").glob("*/cell.json"):
        facts = json.loads(path.read_text())
        change(
            path.parent, metrics=[m for m in facts["metrics"] if m["metric"] != "evidence_recall"]
        )
    report.build(study)
    assert not (study / "figures" / "evidence.png").exists()


def test_different_samples_are_not_compared(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", [1, 1, 1], ids=["a", "b", "c"])
    cell(tmp_path, "fastv", "color", [1, 0, 1], ids=["a", "b", "x"])
    assert "not compared: scored on different samples" in "".join(fold(tmp_path))
    assert np.isnan(row(tmp_path, "fastv", "color")["difference_to_none"])


def test_samples_without_an_answer_are_left_out_of_both(tmp_path: Path) -> None:
    """Old cells do not say how many samples were asked."""
    cell(tmp_path, "none", "color", [1, 1, 1, 0])
    facts = {
        "metrics": [{"metric": "score", "value": 2 / 3}],
        "status": "failed",
        "reason": "1 of 4 samples",
    }
    cell(tmp_path, "fastv", "color", [1, 0, 1, float("nan")], **facts)
    fold(tmp_path)
    numbers = row(tmp_path, "fastv", "color")
    assert (numbers["status"], numbers["n"], numbers["n_asked"], numbers["n_paired"]) == (
        "failed",
        3,
        3,
        3,
    )
    assert numbers["difference_to_none"] == pytest.approx(-1 / 3)


def partly_answered(study: Path) -> None:
    """Of four samples `none` does not answer the last, fastv the first (a row without score) and
    the second (no row).
    """
    hole = float("nan")
    work = {
        "flops_total": [100, 200, 300, 400],
        "available": [10, 20, 30, 40],
        "tokens_mean": [10, 20, 30, 40],
    }
    half = {"flops_total": [100, 150, 200], "available": [10, 30, 40], "tokens_mean": [5, 15, 30]}
    said = {
        "status": "ok",
        "reason": "speaks for 2 of 4 samples; sample a: its image [/] is truncated",
    }

    def metrics(
        scores: Sequence[float], flops: float, tokens: float, available: float
    ) -> dict[str, Any]:
        values = {
            "score": np.nanmean(scores),
            "flops_total": flops,
            "tokens_mean": tokens,
            "tokens_available": available,
        }
        return {
            "metrics": [{"metric": name, "value": float(value)} for name, value in values.items()]
        }

    cell(study, "none", "color", [1, 0, 1, hole], ids=list("abcd"), columns=work, samples={"asked": 4, "answered": 3},
         **metrics([1, 0, 1], 200, 20, 20))  # fmt: skip
    cell(study, "fastv", "color", [hole, 0, 1], ids=list("acd"), columns=half, samples={"asked": 4, "answered": 2},
         **metrics([0, 1], 175, 22.5, 35), **said)  # fmt: skip
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
    assert (numbers["status"], numbers["n"], numbers["n_asked"]) == ("ok", 2, 4)
    assert (numbers["n_paired"], numbers["difference_to_none"], numbers["relative_accuracy"]) == (
        1,
        -1,
        0,
    )
    assert (numbers["n_paired_random"], numbers["difference_to_random"]) == (2, 0)
    assert numbers["flops_ratio"] == pytest.approx(150 / 300)  # sample c alone
    assert numbers["tokens_mean_share"] == pytest.approx(15 / 30)
    assert "speaks for 2 of 4 samples" in numbers["reason"]
    assert "compared with none on the 1 samples that both answered" in numbers["reason"]
    assert "compared with random on the 2 samples that both answered" in numbers["reason"]
    whole = row(tmp_path, "none", "color", "1.0")
    assert (whole["n"], whole["n_asked"]) == (3, 4)
    assert (
        "fastv at 50% ok: speaks for 2 of 4 samples; sample a: its image [/] is truncated"
        in printed(tmp_path, 200)
    )


def test_a_metric_that_is_no_mean_is_not_related_to_one_of_other_samples(tmp_path: Path) -> None:
    own = {
        "metrics": [{"metric": "score", "value": 310.0, "n": 3}],
        "samples": {"asked": 4, "answered": 3},
    }
    cell(tmp_path, "none", "color", [1, 1, 1, 0], metrics=[{"metric": "score", "value": 400.0}])
    cell(tmp_path, "fastv", "color", [1, 0, 1, float("nan")], **own)
    fold(tmp_path)
    assert np.isnan(row(tmp_path, "fastv", "color")["relative_accuracy"])


def test_a_metric_that_is_no_mean_of_samples_keeps_its_own_interval(tmp_path: Path) -> None:
    own = {
        "metrics": [{"metric": "score", "value": 310.0, "ci_low": 300.0, "ci_high": 330.0, "n": 4}]
    }
    cell(tmp_path, "none", "color", [1, 1, 1, 0], metrics=[{"metric": "score", "value": 400.0}])
    cell(tmp_path, "fastv", "color", [1, 0, 1, 0], **own)
    fold(tmp_path)
    found = row(tmp_path, "fastv", "color")
    assert (found["accuracy"], found["accuracy_low"], found["accuracy_high"]) == (310, 300, 330)
    assert found["relative_accuracy"] == pytest.approx(310 / 400)
    assert np.isnan(found["difference_to_none"])


def test_seeds_are_pooled_by_sample(tmp_path: Path) -> None:
    for seed, scores in enumerate(([1, 1, 0, 0], [1, 0, 0, 0])):
        cell(tmp_path, "none", "color", [1 - seed] * 4, seed=seed)
        cell(tmp_path, "fastv", "color", scores, seed=seed)
    fold(tmp_path)
    found = row(tmp_path, "fastv", "color")
    assert (found["seeds"], found["n"]) == (2, 4)
    assert found["accuracy"] == pytest.approx(0.375)
    assert found["difference_to_none"] == pytest.approx(((0.5 - 1) + (0.25 - 0)) / 2)


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


# ---- statistics ----------------------------------------------------------------------------------


def test_wilson_known_answer() -> None:
    """Wilson (1927) for 8 of 10."""
    found = statistics.wilson(8, 10)
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.8, 0.4901625, 0.9433178), abs=1e-6
    )
    assert statistics.wilson(10, 10).high == pytest.approx(1.0)
    with pytest.raises(ValueError, match="11 successes of 10"):
        statistics.wilson(11, 10)


def test_difference_known_answer() -> None:
    """Nine wins and one loss among 100: McNemar's exact p is 2 (1 + 10) / 2^10, the interval close
    to the normal one.
    """
    method, reference = np.zeros(100), np.zeros(100)
    method[:9], reference[9] = 1, 1
    found = statistics.difference([(method, reference)])
    assert (found.value, found.n, found.p) == (pytest.approx(0.08), 100, pytest.approx(22 / 1024))
    normal = 1.96 * np.std(method - reference) / 10
    assert (found.low, found.high) == pytest.approx((0.08 - normal, 0.08 + normal), abs=0.015)
    assert found.sure
    assert statistics.difference([(method, reference)]) == found


def test_difference_of_graded_scores_is_tested_by_flipping_signs() -> None:
    """[3, 1, 2] less zeros: of eight sign patterns two are as extreme."""
    found = statistics.difference([(np.array([3.0, 1.0, 2.0]), np.zeros(3))])
    assert (found.value, found.p) == (pytest.approx(2.0), pytest.approx(2 / 8))
    assert not found.sure


def test_no_difference() -> None:
    scores = np.array([1.0, 0.0, 1.0])
    found = statistics.difference([(scores, scores)])
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.sure


def test_tasks_count_alike() -> None:
    big, small = (np.ones(100), np.zeros(100)), (np.zeros(4), np.zeros(4))
    assert statistics.difference([big, small]).value == pytest.approx(0.5)


def test_relative_known_answer() -> None:
    """Half of what the reference solves, whichever samples are drawn: the mean is a half, the
    interval holds it.
    """
    method, reference = np.tile([1.0, 0.0], 50), np.ones(100)
    found = statistics.relative([(method, reference)])
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.4, 0.6), abs=0.02)
    same = statistics.relative([(reference, reference)])
    assert (same.value, same.low, same.high) == (1, 1, 1)
    assert np.isnan(statistics.relative([(method, np.zeros(100))]).value)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        draws = rng.random((2, 120)) < np.array([[0.7], [0.5]])
        found = statistics.difference([(draws[0].astype(float), draws[1].astype(float))], seed)
        hits += found.low <= 0.2 <= found.high
    assert 88 <= hits <= 100


def test_pooling_independent_numbers() -> None:
    part = statistics.Interval(0.5, 0.4, 0.7, 10)
    found = statistics.pool([part] * 4)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.5, 0.45, 0.6, 40))


def test_join_refuses_different_samples() -> None:
    left = pd.Series([1.0, 2.0], index=["a", "b"])
    method, reference = statistics.join(left, pd.Series([4.0, 3.0], index=["b", "a"]))
    assert (method.tolist(), reference.tolist()) == ([1, 2], [3, 4])
    method, reference = statistics.join(left, left.iloc[:1])
    assert (method.tolist(), reference.tolist()) == ([1], [1])
    other = pd.Series([1.0, 2.0], index=["a", "c"])
    with pytest.raises(
        statistics.SampleMismatch, match=r"2 stand in only one of the two, such as 'b'"
    ):
        statistics.join(left, other)
    assert len(statistics.join(left, other, total=3)[0]) == 1


# ---- terminal and figures ------------------------------------------------------------------------


def printed(study: Path, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(screen.terminal(study, width))
    return console.export_text()


def test_a_narrow_terminal_keeps_what_identifies_a_row(study: Path) -> None:
    fold(study)
    console = Console(width=62, file=io.StringIO(), record=True)
    console.print(screen.terminal(study, 62))
    text = console.export_text()
    heading = next(line for line in text.splitlines() if "method" in line)
    assert all(word in heading for word in ("budget", "accuracy", "tokens"))
    assert "vs random" in heading
    assert "rel." not in heading
    assert "…" not in text


PIPED = """
import sys
from pathlib import Path
from rich.console import Console
from prunebench.report import terminal
console = Console()
console.print(terminal(Path(sys.argv[1]), console.width))
"""


def piped(study: Path, columns: int) -> list[str]:
    """The lines that a process with COLUMNS in its environment writes into a pipe."""
    done = subprocess.run(
        [sys.executable, "-c", PIPED, str(study)],
        env=os.environ | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def wide_study(study: Path) -> Path:
    """Budgets of the cache, a method with a long name, and a cost cell for every column."""
    for method in ("none", "random", "glimpseprune_plus"):
        for task in ("color", "count"):
            budget_kind = "" if method == "none" else "kv"
            cell(study, method, task, [1, 1, 0, 1], budget_kind=budget_kind)
    cost(study, "glimpseprune_plus", "color", 0.7, 0.8, budget_kind="kv")
    cell(
        study,
        "glimpseprune_plus",
        "color",
        None,
        budget="0.1",
        budget_kind="kv",
        status="unsupported",
        reason="glimpseprune_plus needs a model that was trained for it",
    )
    fold(study)
    return study


@pytest.mark.parametrize("columns", [100, 80, 60, 40])
def test_a_table_in_a_pipe_has_the_columns_that_are_asked_for_and_cuts_no_number(
    tmp_path: Path, columns: int
) -> None:
    lines = piped(wide_study(tmp_path), columns)
    assert max(map(len, lines)) <= columns
    assert "…" not in "\n".join(lines)
    numbers = [line for line in lines if "0.750 ±" in line]
    assert len(numbers) == 3
    assert all(("50%" in line) or ("100%" in line) for line in numbers)
    assert any("unsupported" in line for line in lines[:15])


def headings(study: Path, width: int) -> list[str]:
    """The headings of the table at a width, in their order."""
    return [str(column.header) for column in screen.terminal(study, width).columns]


def test_a_table_that_narrows_loses_its_columns_in_the_stated_order(tmp_path: Path) -> None:
    study = wide_study(tmp_path)
    before = headings(study, 200)
    assert len(before) == len(screen.HEADINGS), "nothing is missing"
    lost = []
    for width in range(120, 20, -1):
        now = headings(study, width)
        lost += [heading for heading in before if heading not in now]
        before = now
    assert lost == [*screen.LESSER, "vs random", "KV tokens"]
    assert before == ["method", "budget", "accuracy"]


def test_columns_without_a_number_go_first(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", [1, 1])
    cell(tmp_path, "fastv", "color", [1, 0])
    fold(tmp_path)
    assert headings(tmp_path, 100) == list(screen.HEADINGS)
    narrow = headings(tmp_path, 78)
    assert [name for name in screen.HEADINGS if name not in narrow] == [
        "prefill",
        "total",
        "vs random",
    ]
    text = " ".join(printed(tmp_path, 78).split())
    assert "without prefill, total, vs random: leaderboard.csv has all columns" in text


def test_terminal_fits_and_flags(study: Path) -> None:
    cell(study, "uniform", "color", [0] * 10, control=True)
    cell(study, "uniform", "count", [0] * 10, control=True)
    fold(study)
    text = printed(study)
    assert max(map(len, text.splitlines())) <= 100
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert screen.NO_BETTER in lines["uniform"]
    assert "…" not in lines["method"] + lines["uniform"]
    assert "not better than random at 95 %" in text
    assert "fastv at 5% infeasible: budget 0.05 is out of reach" in " ".join(text.split())


HOSTILE = "[/bold] [red]x[/red] \x1b[31m$\\frac{1$ \u202eabc \ud7ff 名前"


@pytest.mark.filterwarnings("ignore::UserWarning")  # letters that the font lacks
def test_what_others_wrote_cannot_act_on_terminal_figures_or_spreadsheets(tmp_path: Path) -> None:
    reason = f"=HYPERLINK(1) {HOSTILE}\nmore"
    texts = {"model": f"@{HOSTILE}", "settings": {"key": HOSTILE}}
    for number, method in enumerate(("none", f"-{HOSTILE}", "pool")):
        facts = {"status": "failed", "reason": reason} if method == "pool" else {}
        folder = cell(
            tmp_path, "none", f"t{number}", None if facts else [1, 0, 1], **texts, **facts
        )
        change(folder, method=method, task=f"+{HOSTILE}")
    records, _ = cells.read(tmp_path)
    tables.write_csv(tmp_path / "metrics.csv", tables.metrics(records))
    board = board_of(tmp_path)
    figures.save(figures.pareto(board), tmp_path / "pareto.png")
    for name in ("metrics.csv", "leaderboard.csv"):
        text = (tmp_path / name).read_text()
        assert "\x1b" not in text
        assert "\u202e" not in text
        fields = {field for line in csv.reader(io.StringIO(text)) for field in line}
        assert {field[:2] for field in fields if field[1:2] in "=+-@" and field[:1] == "'"} == {
            "'@",
            "'+",
            "'-",
        } | ({"'="} if name == "leaderboard.csv" else set())
        for field in fields:
            assert field[:1] not in "=+-@" or not field or is_number(field)
    assert set(board["model"]) == {clean(f"@{HOSTILE}")}
    text = printed(tmp_path, 400)
    assert "[/bold] [red]x[/red]" in text
    assert "\x1b" not in text
    assert "=HYPERLINK(1) [/bold] [red]x[/red]" in text
    assert "$\\frac{1$" in figures.accuracy(board).axes[0].get_title()


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_an_apostrophe_of_ones_own_survives_the_tables() -> None:
    for text in ("'=1", "'", "''", "=1+1", "-0.5", "plain", "", "\t=1"):
        assert tables.unguarded(tables.text(text)) == text
        assert not tables.text(text).startswith(("=", "-", "\t"))
    assert tables.text(-0.5) == "-0.5"


def test_a_reason_is_said_once_for_all_budgets(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", [1, 1])
    for budget in ("0.5", "0.25", "0.1"):
        cell(
            tmp_path,
            "hero",
            "color",
            None,
            budget=budget,
            status="unsupported",
            reason="hero needs tiles",
        )
        reason = f"budget {budget} is out of reach at llm:2"
        cell(tmp_path, "fastv", "color", None, budget=budget, status="infeasible", reason=reason)
        cell(
            tmp_path,
            "pool",
            "color",
            None,
            budget=budget,
            status="failed",
            reason=f"broke at {budget}",
        )
    fold(tmp_path)
    text = printed(tmp_path)
    assert text.count("hero needs tiles") == 1
    assert "hero at 50%, 25%, 10% unsupported: hero needs tiles" in text
    assert "fastv at 50%, 25%, 10% infeasible: budget 0.5 is out of reach" in text
    assert text.count("broke at") == 3


def test_a_study_of_kv_budgets_shows_kv_tokens(tmp_path: Path) -> None:
    def tokens(kv: float) -> dict[str, Any]:
        values = {
            "score": 1.0,
            "tokens_available": 16.0,
            "tokens_mean": 11.0,
            "tokens_input": 16.0,
            "tokens_kv": kv,
        }
        return {"metrics": [{"metric": name, "value": value} for name, value in values.items()]}

    cell(tmp_path, "none", "color", [1, 1], **tokens(16))
    cell(tmp_path, "random", "color", [1, 1], budget_kind="kv", **tokens(8))
    board = board_of(tmp_path)
    text = printed(tmp_path)
    assert "KV tokens" in text
    assert "8 (50%)" in text
    assert "11 (69%)" not in text
    ax = figures.accuracy(board).axes[0]
    assert "KV cache" in ax.get_xlabel()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["16\n(100 %)", "8\n(50 %)"]
    cell(tmp_path, "uniform", "color", [1, 1], **tokens(8))
    board = board_of(tmp_path)
    assert "KV tokens" not in printed(tmp_path), "budgets of several kinds share the mean"
    assert "11 (69%)" in printed(tmp_path)


def test_figures_show_every_method(study: Path) -> None:
    board = board_of(study)
    ax = figures.accuracy(board).axes[0]
    assert {
        line.get_label() for line in ax.get_lines() if not str(line.get_label()).startswith("_")
    } == {
        "none",
        "random",
        "fastv",
    }
    assert ax.get_xscale() == "log"
    assert "visual tokens entering an LLM layer" in ax.get_xlabel()
    assert len(figures.by_task(board).axes) == 2
    flops, time = figures.pareto(board).axes
    assert (flops.get_xlabel(), time.get_xlabel()) == (
        "prefill FLOPs over unpruned",
        "total time over unpruned",
    )
    assert {text.get_text() for text in time.texts} == {
        "fastv 50%",
        "none",
    }  # both on the frontier, and named


def test_figures_are_files(study: Path) -> None:
    built = report.build(study)
    assert [path.name for path in built.figures] == [
        "accuracy.png",
        "accuracy_by_task.png",
        "pareto.png",
        "evidence.png",
    ]
    for path in built.figures:
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
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.contains(*ax.transData.transform(point)) for point in points)


def test_a_method_looks_the_same_in_every_figure(study: Path) -> None:
    board = board_of(study)
    colours = set()
    for figure in (figures.accuracy(board), figures.pareto(board)):
        legend = figure.legends[0]
        handles = zip(legend.get_texts(), legend.get_lines(), strict=True)
        colours.add(
            next(to_hex(line.get_color()) for text, line in handles if text.get_text() == "fastv")
        )
    assert len(colours) == 1


# ---- the picture of kept tokens ------------------------------------------------------------------


def test_show_keeps_the_kept_clear_and_darkens_the_dropped(tmp_path: Path) -> None:
    image = Image.new("RGB", (224, 112), (200, 180, 160))
    kept = np.zeros((4, 8), dtype=bool)
    kept[0, 0] = True
    path = show.draw(
        image, [kept], tmp_path / "out" / "kept.png", "", boxes=[(60, 60, 80, 80)], original=False
    )
    with Image.open(path) as drawn:
        pixels = np.asarray(drawn).astype(int)
    side = 28 * 4  # 112 px are brought to 448
    inner = slice(show.GAP + 10, show.GAP + side - 10)
    inside, outside = (
        pixels[inner, inner],
        pixels[inner, show.GAP + side + 10 : show.GAP + 2 * side - 10],
    )
    assert (inside == (200, 180, 160)).all()
    assert outside.max() < 100
    assert (pixels == show.ACCENT).all(axis=2).any()


def test_show_puts_stages_side_by_side(tmp_path: Path) -> None:
    grids = [np.ones((8, 8), dtype=bool), np.eye(8, dtype=bool)]
    path = show.draw(
        Image.new("RGB", (224, 224)), grids, tmp_path / "s.png", "t", captions=["llm:2", "llm:4"]
    )
    with Image.open(path) as drawn:
        assert drawn.width == 3 * 448 + 4 * show.GAP


def test_show_bears_endless_texts_and_thin_images(tmp_path: Path) -> None:
    kept = np.ones((1, 1), dtype=bool)
    for number, title in enumerate(
        ("word " * 5000, "x" * 100_000, "\x1b[31m $\\frac{ \ud800 [/]", "\n" * 1000)
    ):
        path = show.draw(
            Image.new("RGB", (1, 3000)), [kept], tmp_path / f"{number}.png", title, captions=[title]
        )
        with Image.open(path) as drawn:
            assert 300 < drawn.width < 1200
            assert drawn.height < 2500


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


# ---- layers --------------------------------------------------------------------------------------


PARTS = ("border", "report", "study")


def test_the_report_imports_no_model_code() -> None:
    for path in Path(str(report.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in ("torch", "transformers"), path
                assert not name.startswith("prunebench.") or name.split(".")[1] in PARTS, path

"""Printed numbers: the table, how far sources agree, and what stands beside a measured row."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_written import board_of, cell, metrics_of, row

from prunebench import published
from prunebench.published import Agreement

README = Path(published.__file__).with_name("README.md")


def test_the_table_is_whole() -> None:
    table = published.read()
    assert len(table) == 12_466
    assert table["source"].nunique() == 44
    assert not table.duplicated([*published.KEY, "source", "where"]).any()
    assert table["value"].notna().all()
    assert set(table["reported_by"]) == {"own paper", "another paper"}


def readme_row(name: str) -> list[str]:
    """The cells of the README's table of spreads."""
    line = next(one for one in README.read_text().splitlines() if one.startswith(f"| {name} |"))
    return [part.strip() for part in line.strip("|").split("|")][1:]


def number(cell_text: str) -> float:
    return float(re.sub(r"\(.*\)", "", cell_text).replace(",", ""))


@pytest.mark.parametrize("agreement", list(published.agreements()), ids=lambda one: one.name)
def test_the_spread_is_what_the_readme_says(agreement: Agreement) -> None:
    said = readme_row(agreement.name)
    assert (agreement.keys, agreement.differing) == (number(said[0]), number(said[1]))
    assert agreement.beyond == number(said[2])
    measured = (
        agreement.median,
        agreement.median_beyond,
        agreement.ninetieth,
        agreement.maximum,
    )
    # printed with a decimal, those of MME without one
    width = 0.051 if agreement.threshold < 1 else 0.51
    assert measured == pytest.approx([number(text) for text in said[3:7]], abs=width)
    if agreement.threshold < 1:
        assert agreement.above == tuple(map(number, said[7:10]))


def test_shares_of_the_unpruned_value_agree_as_the_readme_says() -> None:
    spread = published.spread()
    shares = spread["share_spread"][spread["shares"] > 1].round(6)
    assert (len(spread), (spread["spread"] > 0).sum()) == (1442, 978)
    assert shares.median() == pytest.approx(0.9, abs=0.05)
    assert shares.max() == pytest.approx(62.3, abs=0.05)
    assert ((shares > 1).sum(), (shares > 5).sum()) == (707, 244)


def test_an_entry_keeps_the_own_paper_apart() -> None:
    table = published.read()
    rows = table.query(
        "model == 'llava-1.5-7b' and method == 'visionzip' and benchmark == 'pope' "
        "and budget == 64 and metric == 'f1'"
    )
    (entry,) = published.entries(rows[rows["finetuned"] == "no"])
    assert entry.own == (77.0,)
    assert (entry.others[0], entry.others[-1]) == (76.98, 78.2)
    assert entry.own_shares == pytest.approx([100 * 77.0 / 85.9])
    assert any("harness" in reason for reason in entry.why)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-1.5-7b"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b"),
        ("qwen2.5-vl", "qwen2.5-vl-7b"),
        ("llava-hf/llava-v1.6-vicuna-13b-hf", "llava-next-13b"),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava-onevision-7b"),
        ("/models/Qwen3-VL-8B-Instruct/", "qwen3-vl-8b"),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "llava-next-mistral-7b"),
    ],
)
def test_models_are_known_by_every_name_that_a_grid_has(name: str, plain: str) -> None:
    assert published.model_name(name) == plain


# ---- beside what is measured ---------------------------------------------------------------------


def measured(study: Path, method: str, task: str, budget: str = "64", **facts: Any) -> None:
    """Four of eight questions right of a LLaVA-1.5 with 576 visual tokens."""
    scores = [1.0] * 8 if method == "none" else [1.0] * 4 + [0.0] * 4
    numbers = {"score": float(np.mean(scores)), "tokens_available": 576.0}
    about: dict[str, Any] = {"model": "llava-1.5-7b", "metrics": metrics_of(numbers, n=8)}
    cell(study, method, task, scores, budget=budget, **(about | facts))


def test_a_row_stands_beside_what_is_printed_of_it(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"metric": "pope_f1_score", "budget_kind": "input"}
    measured(tmp_path, "none", "pope", metric="pope_f1_score")
    measured(tmp_path, "visionzip", "pope", **facts)
    measured(tmp_path, "visionzip", "pope", budget="0.1111", **facts)
    measured(tmp_path, "visionzip", "pope", budget="100", **facts)
    measured(tmp_path, "visionzip", "pope", **(facts | {"budget_kind": "kv", "seed": 1}))
    board_of(tmp_path)
    for budget in ("64", "0.1111"):
        board = board_of(tmp_path)
        lines = board[(board["budget"] == budget) & (board["budget_kind"] == "input")]
        line = lines.iloc[0]
        assert line["published_own"] == 77.0
        assert (line["published_least"], line["published_most"]) == (76.98, 78.2)
        assert line["published_count"] > 10
        assert line["published_gap"] == pytest.approx(50 - 100 * 77.0 / 85.9)
        assert line["published_why"].startswith("measured: input budget")
    assert np.isnan(row(tmp_path, "visionzip", "pope", "100")["published_own"])
    board = board_of(tmp_path)
    assert board.loc[board["budget_kind"] == "kv", "published_own"].isna().all()
    unpruned = row(tmp_path, "none", "pope", "1.0")
    assert unpruned["published_least"] <= 85.9 <= unpruned["published_most"]
    assert np.isnan(unpruned["published_own"])


def test_another_metric_of_the_benchmark_is_not_compared(tmp_path: Path) -> None:
    measured(tmp_path, "none", "pope", metric="exact_match")
    measured(tmp_path, "visionzip", "pope", metric="exact_match", budget_kind="input")
    assert "published_own" not in board_of(tmp_path)


def test_printed_numbers_belong_to_the_method_and_not_to_its_label(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"metric": "pope_f1_score", "budget_kind": "input"}
    measured(tmp_path, "none", "pope", metric="pope_f1_score")
    measured(tmp_path, "mine", "pope", pruner="visionzip", settings={"dominant": 0.9}, **facts)
    measured(tmp_path, "visionzip", "pope", pruner="./visionzip.py", **facts)
    board_of(tmp_path)
    renamed = row(tmp_path, "mine", "pope", "64")
    assert renamed["published_own"] == 77.0
    assert 'visionzip with {"dominant":0.9}' in renamed["published_why"]
    assert np.isnan(row(tmp_path, "visionzip", "pope", "64")["published_own"])


# ---- the command ---------------------------------------------------------------------------------


def prunebench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prunebench.cli", "published", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def test_the_command_prints_a_range_and_why() -> None:
    words = ("model=llava-1.5-7b", "method=pyramiddrop", "task=mmbench_en_dev", "budget=64")
    text = prunebench(*words).stdout
    assert "own paper: 58.8" in text
    assert "others: 33.3 to 58.8 (" in text
    assert "may differ by: " in text
    (entry,) = json.loads(prunebench(*words, "--json").stdout)
    assert entry["own"] == [58.8]
    assert len(entry["others"]) > 10


def test_the_command_names_what_it_does_not_know() -> None:
    wrong = prunebench("method=divprun")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean divprune" in wrong.stderr
    assert "no key=value of model, method, task, budget" in prunebench("pope").stderr

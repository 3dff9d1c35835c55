"""Bench: methods beside the unpruned model, timed on drawn images, a row a case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from test_grid import MINE

import prunebench
from prunebench.cli import main
from prunebench.cli.bench import line
from prunebench.measure.flops import head, llm_prefill
from prunebench.measure.pairs import PairRow
from prunebench.run.backend import setup_of
from prunebench.run.bench import AGAIN, Case, cases, load
from prunebench.run.bench_table import BenchTable
from prunebench.run.bencher import QUESTION, Timed
from prunebench.run.ceiling import step_weights
from prunebench.run.keys import GridError
from prunebench.run.options import OptionError

QUICK = ["seconds=0", "pairs=2", "warmup=0", "new_tokens=2", "images=140x140"]

BROKEN = MINE.replace("return tokens", "raise KeyError('no idea')\n#")

STUMBLING = MINE.replace("import torch", "import torch\nCALLS = []").replace(
    "return tokens",
    "CALLS.append(self)\n"
    "        if len(CALLS) > 1:\n"
    "            raise KeyError('too often')\n"
    "        return tokens",
)


def bench(out: Path, *words: str) -> tuple[int, Any]:
    """The exit status, and the table by method."""
    code = main(["bench", *QUICK, f"out={out}", *words])
    return code, pd.read_csv(out / "bench.csv").set_index("method")


def test_every_case_has_a_row_beside_the_unpruned_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, table = bench(tmp_path, "methods=divprune,pyramiddrop", "budgets=0.5,0.1", "batches=2")
    assert code == 0
    assert table.loc[AGAIN, ["tokens_available", "tokens_mean"]].tolist() == [25, 25]
    assert table.loc["none", "status"] == "ok"
    by_budget = table.loc["divprune"].set_index("budget")
    assert by_budget["tokens_mean"].to_dict() == {0.5: 12.0, 0.1: 2.0}
    assert by_budget.loc[0.5, "kv_bytes"] < by_budget.loc[0.5, "kv_bytes_baseline"]
    # a budget that cannot be met is a row and no error
    assert table.loc["pyramiddrop"].set_index("budget").loc[0.1, "status"] == "infeasible"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(table) + 1
    assert lines[0].startswith(f"{AGAIN} 1.0, 140x140, batch 2: 25 of 25 tokens, prefill ")


def test_phases_of_a_run_come_to_the_whole(tmp_path: Path) -> None:
    bench(tmp_path, "methods=divprune", "budgets=0.5")
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    runs = pairs.pivot_table("ms", ["method", "pair", "variant"], "phase")
    parts = runs[["vision", "prefill", "decode"]].sum(axis=1) + runs["select"].fillna(0)
    # `generate` itself, before the first forward and behind the last, is none of them
    assert (parts <= runs["total"]).all()
    assert (parts >= 0.5 * runs["total"]).all()


def test_every_millisecond_of_a_run_is_in_a_phase_or_in_the_rest(tmp_path: Path) -> None:
    _, table = bench(tmp_path, "methods=divprune", "budgets=0.5", "pairs=1", "new_tokens=5")
    row = table.loc["divprune"]
    names = ("vision", "select", "prefill", "rest")
    parts = sum(row[f"latency_{name}_ms"] for name in names) + 4 * row["latency_decode_ms"]
    assert parts == pytest.approx(row["latency_total_ms"])
    assert row["latency_rest_ms"] > 0


def test_beside_a_ratio_stands_what_it_could_come_to(tmp_path: Path) -> None:
    """Were time arithmetic, or bytes read: what the unpruned model needs is 1, and what a method
    needs follows from the tokens that it leaves in each layer.
    """
    names = ("prefill", "decode", "total")
    words = ["methods=random,fastv,resize", "budgets=0.5", "images=224x224", "new_tokens=3"]
    _, table = bench(tmp_path, *words)
    for name in names:
        assert table.loc[[AGAIN, "none"], f"{name}_ceiling"].tolist() == [1, 1]
        assert table.loc[[AGAIN, "none"], f"{name}_reached"].isna().all()
    loaded = prunebench.load("tiny-qwen2.5-vl")
    picture = Image.new("RGB", (224, 224))
    text, family = loaded.model.config.get_text_config(), loaded.family
    prompt = loaded.inputs(picture, QUESTION)["input_ids"].shape[1]
    layers = text.num_hidden_layers
    full = llm_prefill(text, [prompt] * layers, family.layer_flops) + head(text)
    half = llm_prefill(text, [prompt - 32] * layers, family.layer_flops) + head(text)
    random = table.loc["random"]
    assert random["prefill_ceiling"] == pytest.approx(half / full)
    saved = 1 - random["latency_prefill_ratio"]
    assert random["prefill_reached"] == pytest.approx(saved / (1 - half / full))
    weights = step_weights(loaded.model, family)
    read, unpruned = (weights + random[name] for name in ("kv_bytes", "kv_bytes_baseline"))
    assert random["decode_ceiling"] == pytest.approx(read / unpruned)
    # the vision encoder is work of its own, which fewer tokens behind it do not spare
    assert half / full < random["total_ceiling"] < 1
    assert table.loc["resize", "total_ceiling"] < random["total_ceiling"]


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    bench(tmp_path, "methods=divprune", "budgets=0.5")
    before = (tmp_path / "bench.csv").read_bytes()
    bench(tmp_path, "methods=divprune", "budgets=0.5")
    assert (tmp_path / "bench.csv").read_bytes() == before
    _, table = bench(tmp_path, "methods=divprune", "budgets=0.5", "new_tokens=3")
    assert sorted(table.loc["divprune", "new_tokens"]) == [2, 3]


def test_a_method_with_other_settings_is_measured(tmp_path: Path) -> None:
    bench(tmp_path, "methods=fastv", "budgets=0.5")
    _, table = bench(tmp_path, "methods=fastv", "budgets=0.5", "fastv.layer=1")
    layers = [json.loads(settings)["layer"] for settings in table.loc["fastv", "settings"]]
    assert layers == [2, 1]


def test_a_method_that_raises_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    out = tmp_path / "out"
    code, table = bench(out, f"methods={tmp_path / 'mine.py'},divprune", "budgets=0.5")
    assert code == 1
    assert table.loc["mine", "status"] == "failed"
    assert "no idea" in table.loc["mine", "reason"]
    assert table.loc["divprune", "status"] == "ok"


def test_cases_of_a_round_share_the_run_of_the_unpruned_model(tmp_path: Path) -> None:
    """Each has its own runs, and in every round the same one beside them; who goes first changes
    from round to round.
    """
    words = ["methods=divprune,fastv", "budgets=0.5", "pairs=6", "round=3"]
    code, table = bench(tmp_path, *words)
    assert code == 0
    assert (table["status"] == "ok").all()
    names = list(table.index)
    assert names[0] == AGAIN
    pairs = pd.read_parquet(tmp_path / "pairs.parquet").query("phase == 'total'")
    runs = pairs.pivot_table("ms", "pair", ["variant", "method"])
    unpruned, methods = runs["baseline"], runs["method"]
    for number, name in enumerate(names):
        first = names[number - number % 3]
        assert unpruned[name].tolist() == unpruned[first].tolist()
        if name != first:
            assert methods[name].tolist() != methods[first].tolist()
    assert unpruned[names[3]].tolist() != unpruned[names[0]].tolist()
    places = pairs.pivot_table("order", "pair", ["variant", "method"]).astype(int)
    # three and the unpruned model take turns at going first
    assert places["method", AGAIN].tolist() == [0, 3, 2, 1, 0, 3]
    assert places["baseline", AGAIN].tolist() == [3, 2, 1, 0, 3, 2]


def test_a_round_loses_none_but_the_one_that_stumbles(tmp_path: Path) -> None:
    """Some cannot begin, and one breaks while all are timed."""
    (tmp_path / "mine.py").write_text(STUMBLING)
    words = [f"methods=divprune,{tmp_path / 'mine.py'},pyramiddrop,fastv", "budgets=0.1", "round=9"]
    code, table = bench(tmp_path / "out", *words)
    assert code == 1
    status = table["status"].to_dict()
    assert status["mine"] == "failed"
    assert "too often" in table.loc["mine", "reason"]
    assert status["pyramiddrop"] == "infeasible"
    assert status["divprune"] == status[AGAIN] == "ok"
    assert table.loc["divprune", "pairs"] == 2


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("images=448", "images has '448'; a size is written such as 448x448"),
        ("batches=0", "batches has 0"),
        ("pairs=0", "pairs is 0; it starts at 1"),
        ("round=0", "round is 0; it starts at 1"),
        ("budgets=2.5x", "budgets"),
        ("colour=red", "unknown key colour"),
    ],
)
def test_a_wrong_option_is_named(word: str, part: str) -> None:
    with pytest.raises((GridError, OptionError), match=part):
        load([word])


def test_cases_are_the_product_and_the_unpruned_model_comes_first() -> None:
    question, grid = load(["methods=divprune", "budgets=0.5,0.25", "images=140x140,224x224"])
    all_cases = cases(question, grid)
    of_method = [case for case in all_cases if case.label == "divprune"]
    assert [(case.image, case.budget) for case in of_method] == [
        ("140x140", "0.5"),
        ("140x140", "0.25"),
        ("224x224", "0.5"),
        ("224x224", "0.25"),
    ]
    assert all_cases[0].label == AGAIN


def timed(case: Case, times: list[float], ratio: float = 1.0) -> Timed:
    """A case whose unpruned runs took so long one after the other, and its own so much more."""
    rows: list[PairRow] = []
    for pair, ms in enumerate(times):
        for variant, factor in (("method", ratio), ("baseline", 1.0)):
            for phase in ("vision", "select", "prefill", "decode", "total"):
                if (variant, phase) != ("baseline", "select"):
                    rows.append(PairRow(pair, 0, variant, phase, ms * factor))  # type: ignore[arg-type]
    return Timed(case, 2, 25, 25, 25, rows=tuple(rows))


EVEN, SHAKY, FEW = [100.0, 101.0] * 8, [100.0, 150.0] * 8, [100.0, 150.0] * 3


@pytest.mark.parametrize(
    ("times", "ratio", "is_baseline", "machine"),
    [
        (EVEN, 0.5, False, "quiet"),
        (SHAKY, 0.5, False, "busy"),
        (FEW, 0.5, False, None),
        (EVEN, 1.0, True, "quiet"),
        (EVEN, 1.05, True, "busy"),  # the unpruned model is slower than itself in every pair
    ],
)
def test_a_busy_machine_is_said_by_the_rule_of_the_leaderboard(
    tmp_path: Path, times: list[float], ratio: float, is_baseline: bool, machine: str | None
) -> None:
    question, grid = load(["methods=divprune", "budgets=0.5", f"out={tmp_path}"])
    case = next(one for one in cases(question, grid) if (one.cell is None) == is_baseline)
    measured = timed(case, times, ratio)
    assert measured.machine == machine
    assert ("the machine was too busy" in line(measured)) == (machine == "busy")
    table = BenchTable(tmp_path, question, setup_of(grid, grid.models[0]))
    table.add(measured)
    row = pd.read_csv(tmp_path / "bench.csv", keep_default_na=False).iloc[0]
    assert row["machine"] == (machine or "")
    assert (row["latency_itself_ratio_low"] == "") == (times == FEW)

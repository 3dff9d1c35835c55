"""Hand-written studies: cells as a sweep writes them, with scores that can be checked by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from prunebench.report import leaderboard, screen, tables
from prunebench.study import cells
from prunebench.study.seal import digest, sealed
from prunebench.study.tables import encoded

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
    columns: Mapping[str, Sequence[Any]] | None = None,
    **facts: Any,
) -> Path:
    """Write a cell as a sweep does; without scores it has no metrics either.

    `ids` are the samples', `columns` further values of theirs; NaN is the score of a sample that
    was not answered. `facts` replace what cell.json says otherwise.
    """
    budget = "1.0" if method == "none" else budget
    name = f"tiny__{method}__{budget}__{task}__s{seed}"
    if facts.get("kind") == "cost":
        name += "__cost"
    values: dict[str, float] = {}
    if scores is not None:
        work = WORK.get(method, WORK["fastv"])
        values = {"score": float(np.mean(scores)), **FACTS, **work}
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
        "metrics": metrics_of(values, unit="", n=10),
        "provenance": PROVENANCE,
        **facts,
    }
    folder = study / "cells" / name
    folder.mkdir(parents=True)
    names = ids or [f"{task}/{number}" for number in range(len(scores or []))]
    rows = sample_rows(names, scores or [], columns or {})
    table = "pairs" if content["kind"] == "cost" else "samples"
    (folder / f"{table}.parquet").write_bytes(encoded(table, rows))
    write_facts(folder, content)
    return folder


def metrics_of(values: Mapping[str, float], **more: Any) -> list[dict[str, Any]]:
    """Metrics as cell.json has them."""
    metrics = []
    for name, value in values.items():
        metrics.append({"metric": name, "value": value, **more})
    return metrics


def sample_rows(
    names: Sequence[str], scores: Sequence[float], columns: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """The rows of samples.parquet; one without an answer has no numbers."""
    rows = []
    for number, (name, score) in enumerate(zip(names, scores, strict=True)):
        row: dict[str, Any] = {"sample_id": name, "doc_id": number}
        if np.isnan(score):
            row |= {"score": None, "error": "broken"}
        else:
            row |= {"score": float(score), "error": None}
            row |= {column: numbers[number] for column, numbers in columns.items()}
        rows.append(row)
    return rows


def write_facts(folder: Path, content: Mapping[str, Any], *drop: str) -> None:
    """Write cell.json sealed, as a sweep does, but without the keys in `drop`."""
    facts: dict[str, Any] = {"files": {}}
    for path in sorted(folder.glob("*.parquet")):
        facts["files"][path.name] = digest(path.read_bytes())
    facts |= content
    for key in ("seal", *drop):
        facts.pop(key, None)
    if "seal" not in drop:
        facts = sealed(facts)
    (folder / "cell.json").write_text(json.dumps(facts))


def facts_of(folder: Path) -> dict[str, Any]:
    """What cell.json says."""
    facts: dict[str, Any] = json.loads((folder / "cell.json").read_text())
    return facts


def change(folder: Path, **facts: Any) -> None:
    """Give a cell other facts, under a seal that fits."""
    write_facts(folder, facts_of(folder) | facts)


def cost(study: Path, method: str, task: str, prefill: float, total: float, **facts: Any) -> Path:
    """Write a cost cell."""
    metrics = []
    for phase, value in (("prefill", prefill), ("total", total)):
        ratio = {
            "metric": f"latency_{phase}_ratio",
            "value": value,
            "unit": "ratio",
            "ci_low": value - 0.02,
            "ci_high": value + 0.04,
            "n": 9,
        }
        metrics.append(ratio)
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


def fold(study: Path) -> list[str]:
    """The leaderboard without figures, which take a second; the warnings."""
    records, warnings = cells.read(study)
    board = leaderboard.fold(records, warnings.append)
    tables.write_csv(study / "leaderboard.csv", board)
    return warnings


def board_of(study: Path) -> pd.DataFrame:
    """The leaderboard of a study, folded anew."""
    fold(study)
    return leaderboard.load(study / "leaderboard.csv")


def row(study: Path, method: str, task: str, budget: str = "0.5") -> pd.Series[Any]:
    """The one row of a method in the leaderboard that was written."""
    board = leaderboard.load(study / "leaderboard.csv")
    for name, value in (("method", method), ("task", task), ("budget", budget)):
        board = board[board[name] == value]
    assert len(board) == 1
    return board.iloc[0]


def printed(study: Path, width: int = 100) -> str:
    """What a terminal of that width shows."""
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(screen.terminal(study, width))
    return console.export_text()

"""Bench table: bench.csv with a row a case, pairs.parquet with a row a phase of a timed run,
requests.parquet with a row a request of those that were in flight together.

All are written anew after every case, so that a bench that is stopped goes on where it was.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

import prunebench
from prunebench.border import files
from prunebench.border.text import one_line
from prunebench.measure.pairs import ITSELF, PairRow
from prunebench.run.backend import ModelSetup
from prunebench.run.bench import Bench, Case
from prunebench.run.bencher import Timed
from prunebench.run.ceiling import Ceilings, reached
from prunebench.run.cell import shown
from prunebench.run.provenance import git, hardware, versions
from prunebench.study.columns import COST, LOAD, YARDSTICKS, Column
from prunebench.study.record import Metric

BENCH = "bench.csv"
PAIRS = "pairs.parquet"
REQUESTS = "requests.parquet"

ONE = {"concurrent": "1"}
"""What tables say that were written when requests came one by one alone."""


class BenchTable:
    """The tables in a folder. What other benches have left there, of another model or device,
    stays.
    """

    def __init__(self, folder: Path, bench: Bench, setup: ModelSetup) -> None:
        """Read what is there; raises OSError or ValueError where it cannot be read."""
        self.folder = folder
        self.about = _about(bench, setup)
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = _read_csv(folder / BENCH)
        self.pairs = _read_parquet(folder / PAIRS)
        self.requests = _read_parquet(folder / REQUESTS)

    def holds(self, case: Case) -> bool:
        """Whether the case was measured under the same conditions."""
        if self.rows.empty:
            return False
        same = _are(self.rows, {**self.about, **_named(case)})
        return bool((same & (self.rows["status"] != "failed")).any())

    def add(self, timed: Timed) -> None:
        """Write a case's row and its pairs, in the place of an earlier one."""
        key = {**self.about, **_named(timed.case)}
        self.rows = _with(self.rows, key, [{**key, **_numbers(timed), **_commit()}])
        self.pairs = _with(self.pairs, key, [{**key, **asdict(row)} for row in timed.rows])
        self.requests = _with(self.requests, key, [{**key, **asdict(row)} for row in timed.load])
        files.write(self.folder / BENCH, self.rows.to_csv(index=False).encode())
        for name, table in ((PAIRS, self.pairs), (REQUESTS, self.requests)):
            if not table.empty:
                buffer = io.BytesIO()
                table.to_parquet(buffer, index=False)
                files.write(self.folder / name, buffer.getvalue())


def _about(bench: Bench, setup: ModelSetup) -> dict[str, str]:
    """Under what all cases are measured, as text."""
    installed = versions()
    about = {
        "model": shown(bench.model),
        "weights": setup.weights,
        "new_tokens": bench.new_tokens,
        "hardware": hardware(setup.device),
        "dtype": setup.dtype,
        "attention": setup.attention,
        "seed": bench.seed,
        "prunebench": prunebench.__version__,
        "torch": installed.get("torch", ""),
        "transformers": installed.get("transformers", ""),
    }
    return {name: str(value) for name, value in about.items()}


def _named(case: Case) -> dict[str, str]:
    """What tells a case from others, as text: a method with other settings or code is another."""
    variant = None if case.cell is None else case.cell.variant
    return {
        "method": case.label,
        "budget": case.budget,
        "image": case.image,
        "batch": str(case.batch),
        "concurrent": str(case.concurrent),
        "settings": "" if variant is None else json.dumps(variant.settings(), sort_keys=True),
        "code": "" if variant is None else variant.source()[:16],
    }


def _numbers(timed: Timed) -> dict[str, Any]:
    """What was measured; every number that a cost pass has, empty where it was not."""
    row: dict[str, Any] = {
        "status": timed.status,
        "reason": "" if timed.fault is None else one_line(timed.fault.reason, 300),
        "tokens_available": timed.available or None,
        "tokens_mean": timed.mean,
        "tokens_kv": timed.kv,
        "pairs": timed.pairs or None,
        **_medians(COST, timed.metrics),
    }
    cached = timed.metrics.get("kv_bytes")
    row["kv_bytes"] = None if cached is None else cached.value
    row["latency_rest_ms"] = rest_ms(timed.rows, timed.new_tokens) if timed.rows else None
    return {**row, **_machine(timed), **_ceilings(timed), **_medians(LOAD, timed.rates)}


def _machine(timed: Timed) -> dict[str, Any]:
    """The unpruned model's time over its own, and what that says of the machine."""
    ratio = timed.itself
    of_itself = [column for column in YARDSTICKS if column.metric == ITSELF]
    metrics = {} if ratio is None else {ITSELF: ratio}
    return {**_medians(of_itself, metrics), "machine": timed.machine}


def _medians(columns: Sequence[Column], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """The values of these columns, of a ratio with its interval; empty where there is none."""
    row: dict[str, Any] = {}
    for column in columns:
        metric = metrics.get(column.metric)
        row[column.metric] = None if metric is None else metric.value
        if column.metric.endswith("_ratio"):
            row[f"{column.metric}_low"] = None if metric is None else metric.ci_low
            row[f"{column.metric}_high"] = None if metric is None else metric.ci_high
    return row


def rest_ms(rows: Sequence[PairRow], new_tokens: int) -> float:
    """Milliseconds of a run under the method that lie in no phase, the median: `generate` before
    the first forward, between vision encoder and decoder, and behind the last.
    """
    runs: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.variant == "method":
            runs.setdefault(row.pair, {})[row.phase] = row.ms
    rests = []
    for phases in runs.values():
        # a token's share of decode stands in its row, and how many tokens there were beside it
        steps = phases["decode"] * (new_tokens - 1)
        others = sum(ms for phase, ms in phases.items() if phase not in ("total", "decode"))
        rests.append(phases["total"] - others - steps)
    return median(rests)


def _ceilings(timed: Timed) -> dict[str, float | None]:
    """Of each phase what its ratio could come to, and the share of the saving that was reached."""
    row: dict[str, float | None] = {}
    for phase in [field.name for field in fields(Ceilings)]:
        ceiling = None if timed.ceilings is None else getattr(timed.ceilings, phase)
        ratio = timed.metrics.get(f"latency_{phase}_ratio")
        row[f"{phase}_ceiling"] = ceiling
        row[f"{phase}_reached"] = None
        if ceiling is not None and ratio is not None and ratio.value is not None:
            row[f"{phase}_reached"] = reached(ratio.value, ceiling)
    return row


def _commit() -> dict[str, Any]:
    commit, dirty = git()
    return {"commit": commit, "dirty": dirty}


def _with(table: pd.DataFrame, key: dict[str, str], rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The table with these rows in the place of those that have the key."""
    others = table if table.empty else table[~_are(table, key)]
    if others.empty:
        return pd.DataFrame(rows)
    return pd.concat([others, pd.DataFrame(rows)], ignore_index=True) if rows else others


def _are(table: pd.DataFrame, key: dict[str, str]) -> pd.Series[bool]:
    """Which rows have the key."""
    same = pd.Series(True, index=table.index)
    for name, value in key.items():
        # a table of an older version lacks some: its rows are of other cases
        same &= table[name].astype(str) == value if name in table else False
    return same


def _read_csv(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame()
    return _of_old(pd.read_csv(path, dtype=str, keep_default_na=False))


def _read_parquet(path: Path) -> pd.DataFrame:
    return _of_old(pd.read_parquet(path)) if path.exists() else pd.DataFrame()


def _of_old(table: pd.DataFrame) -> pd.DataFrame:
    """A table with what those of older versions did not say."""
    for name, value in ONE.items():
        if name not in table:
            place = list(table).index("batch") + 1
            table.insert(place, name, value)
    return table

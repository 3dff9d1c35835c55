"""Timed page: the tables of docs/latency.md, from the times that were measured and the ceilings
that follow from a model's public configuration.

The rows of the H200 were measured before a bench wrote ceilings. These need no clock, so they are
worked out here, as a bench works them out: see prunebench/run/ceiling.py.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from prunebench.pricing.bill import Bill
from prunebench.pricing.memory import WIDTHS, entry_bytes
from prunebench.pricing.public import records
from prunebench.pricing.subject import Subject
from prunebench.run.ceiling import Ceilings, Work, ceilings, reached
from prunebench.run.estimate import Estimate, load

ROOT = Path(__file__).parents[1]

BENCH = ROOT / "results" / "latency" / "h200" / "bench.csv"
LATER = ROOT / "results" / "latency" / "h100" / "bench.csv"
"""With ceilings of its own."""

HEAD = (
    "method",
    "tokens",
    "vision, ms",
    "selection, ms",
    "prefill, ms",
    "prefill / unpruned",
    "at best",
    "reached",
    "whole / unpruned",
    "at best",
    "reached",
)

SHARE = "0.25"
"""The budget that the page shows, beside the unpruned model."""

Row = Mapping[str, str]


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table, by its name on the page: the model's name in bench.csv, of the later
    times behind the folder's.
    """
    by_name = {}
    for name, rows in _by_model(BENCH).items():
        by_name[name] = list(_rows(rows, limits_of(rows)))
    for name, rows in _by_model(LATER).items():
        in_order = sorted(rows, key=lambda row: float(row["latency_total_ratio"]))
        by_name[f"{LATER.parent.name} {name}"] = list(_rows(in_order, _written_limits(rows)))
    return by_name


def _by_model(path: Path) -> dict[str, list[Row]]:
    """The rows that a page shows, by model, in the order of the file."""
    with path.open(newline="") as file:
        measured: dict[str, list[Row]] = {}
        for row in csv.DictReader(file):
            if row["status"] == "ok" and row["budget"] in ("1.0", SHARE):
                measured.setdefault(row["model"], []).append(row)
    return measured


def _written_limits(measured: list[Row]) -> dict[str, Ceilings]:
    """The ceilings that stand in the rows themselves."""
    limits = {}
    for row in measured:
        values = [float(row[f"{phase}_ceiling"]) for phase in ("prefill", "decode", "total")]
        limits[row["method"]] = Ceilings(*values)
    return limits


def _rows(measured: list[Row], limits: Mapping[str, Ceilings]) -> Iterator[list[str]]:
    """A model's table, row by row."""
    for row in measured:
        limit = limits[row["method"]]
        yield [
            row["method"],
            f"{float(row['tokens_mean']):.0f}",
            f"{float(row['latency_vision_ms']):.0f}",
            f"{float(row['latency_select_ms']):.1f}",
            f"{float(row['latency_prefill_ms']):.1f}",
            *_ratio(row, "prefill", limit.prefill),
            *_ratio(row, "total", limit.total),
        ]


def _ratio(row: Row, phase: str, ceiling: float) -> list[str]:
    """A measured ratio with its interval, what it could come to, and the share reached."""
    name = f"latency_{phase}_ratio"
    value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
    share = reached(value, ceiling)
    # no sign before a zero
    text = "" if share is None else f"{round(share, 2) + 0.0:.2f}"
    return [f"{value:.2f} ({low:.2f} to {high:.2f})", f"{ceiling:.2f}", text]


def limits_of(measured: list[Row]) -> dict[str, Ceilings]:
    """What the ratios of a model's methods could come to, by method, the baseline's among them."""
    first = measured[0]
    names = [row["method"] for row in measured if row["method"] != "baseline"]
    estimate = load(
        [
            f"model={_public(first['model'])}",
            f"image={first['image']}",
            f"text={_text(first)}",
            f"new_tokens={first['new_tokens']}",
            f"dtype={first['dtype']}",
            f"methods={','.join(names)}",
            f"budgets={SHARE}",
        ]
    )
    full = _work(estimate, estimate.baseline.bill)
    limits = {"baseline": ceilings(full, full)}
    for line in estimate.lines:
        if line.bill is None:
            raise ValueError(f"{line.label} was measured and has no price: {line.reason}")
        limits[line.label] = ceilings(_work(estimate, line.bill), full)
    return limits


def _work(estimate: Estimate, bill: Bill | None) -> Work:
    """What a request asks of the device, without the method's own work."""
    assert bill is not None
    subject, width = estimate.subject, WIDTHS[estimate.question.dtype]
    parameters = subject.parameters
    # where the head is the table of words, that is what a step reads
    weights = parameters.layers + (parameters.head or parameters.embedding)
    cache = sum(bill.lengths.kept_rows) * entry_bytes(subject.text_config, width)
    return Work(
        vision=bill.vision + bill.projector,
        prefill=bill.language + bill.head,
        decode=bill.decode,
        step_bytes=weights * width + cache,
    )


def _public(name: str) -> str:
    """The hub id of a model that bench.csv calls by the last part of it."""
    (public,) = (one for one in records() if one.rpartition("/")[2] == name)
    return public


def _text(row: Row) -> int:
    """How many tokens of the prompt were no visual ones, from the unpruned cache that was measured;
    raises ValueError where that is no whole number of them.
    """
    subject = Subject.of(records()[_public(row["model"])])
    entry = entry_bytes(subject.text_config, WIDTHS[row["dtype"]]) * subject.layers
    rows, rest = divmod(int(float(row["kv_bytes_baseline"])), entry)
    if rest:
        raise ValueError(f"kv_bytes_baseline of {row['model']} is {row['kv_bytes_baseline']}")
    return rows - int(row["tokens_available"])

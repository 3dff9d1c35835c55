"""Timed page: the tables of docs/latency.md, from the times that were measured."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

from prunebench import registry

ROOT = Path(__file__).parents[1]

CARDS = ("h100", "h200")
"""The folders of results/latency."""

SHOWN = "h100"
"""The card whose rows stand on the page, each for itself: those of all methods."""

SHARE = "0.25"
"""The budget at which they do, beside the unpruned model."""

WORTH = 0.95
"""A share of the unpruned model's time that is worth a word; less of a gain is lost in noise."""

SUMMARY = (
    "card",
    "model",
    "batch",
    "kept",
    "unpruned, ms",
    "methods",
    "0.95 or less",
    "best",
    "median",
    "`random`",
    "at best",
    "selection, ms",
    "busy",
)

METHODS = (
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
    "machine",
)

LATE = (
    "model",
    "batch",
    "budget",
    "method",
    "tokens, mean of layers",
    "tokens in the cache",
    "selection, ms",
    "prefill / unpruned",
    "whole / unpruned",
    "at best",
    "machine",
)

Row = Mapping[str, str]
Table = tuple[tuple[str, ...], list[list[str]]]


def tables() -> dict[str, Table]:
    """Head and rows of each table, by its name on the page."""
    lines = []
    for card in CARDS:
        lines += summary(card, measured(card))
    rows_of_card = measured(SHOWN)
    by_name: dict[str, Table] = {
        "summary": (SUMMARY, lines),
        "late": (LATE, late(rows_of_card)),
    }
    at_share = [row for row in rows_of_card if row["budget"] in ("1.0", SHARE)]
    for (model, batch), rows in _by(at_share, "model", "batch").items():
        by_name[f"{model} batch {batch}"] = (METHODS, methods(rows))
    return by_name


def measured(card: str) -> list[Row]:
    """The rows of a card that have times."""
    path = ROOT / "results" / "latency" / card / "bench.csv"
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["status"] == "ok"]


def summary(card: str, rows: Iterable[Row]) -> list[list[str]]:
    """A line a model, batch and budget: how many methods were measured, controls aside, and what
    their whole calls took.
    """
    table = []
    # a budget of the cache is asked of those methods alone that cannot meet another
    of_layers = [row for row in rows if not row["budget"].startswith("kv:")]
    largest_first = sorted(of_layers, key=lambda row: -float(row["budget"]))
    in_order = sorted(largest_first, key=lambda row: (row["model"], int(row["batch"])))
    for (model, batch, budget), group in _by(in_order, "model", "batch", "budget").items():
        compared = [row for row in group if _is_compared(row["method"])]
        if not compared:
            continue
        totals = {row["method"]: float(row["latency_total_ratio"]) for row in compared}
        fastest = min(totals, key=lambda name: totals[name])
        unpruned = [float(row["latency_total_baseline_ms"]) for row in compared]
        selection = [float(row["latency_select_ms"]) for row in compared]
        table.append(
            [
                card.upper(),
                model,
                batch,
                f"{float(budget):g}",
                f"{median(unpruned):.0f}",
                str(len(compared)),
                str(sum(value <= WORTH for value in totals.values())),
                f"{totals[fastest]:.2f} ({fastest})",
                f"{median(totals.values()):.2f}",
                _of_random(group),
                _ceiling(compared),
                f"{median(selection):.1f}",
                _busy(compared),
            ]
        )
    return table


def _is_compared(name: str) -> bool:
    """Whether a row is of a published method: no control, and not the unpruned model."""
    return name != "baseline" and registry.card(registry.get(name)).paper is not None


def _of_random(rows: Iterable[Row]) -> str:
    for row in rows:
        if row["method"] == "random":
            return f"{float(row['latency_total_ratio']):.2f}"
    return ""


def _ceiling(rows: Iterable[Row]) -> str:
    """What most of the ratios could come to; the older of the files do not say it."""
    values = [float(row["total_ceiling"]) for row in rows if row.get("total_ceiling")]
    return f"{median(values):.2f}" if values else ""


def _busy(rows: Iterable[Row]) -> str:
    """How many rows are of a busy machine; the older of the files do not say it."""
    machines = [row["machine"] for row in rows if row.get("machine")]
    return str(machines.count("busy")) if machines else ""


def methods(rows: Iterable[Row]) -> list[list[str]]:
    """A line a method, from the fastest whole call to the slowest."""
    table = []
    for row in sorted(rows, key=lambda row: float(row["latency_total_ratio"])):
        table.append(
            [
                row["method"],
                f"{float(row['tokens_mean']):.0f}",
                f"{float(row['latency_vision_ms']):.0f}",
                f"{float(row['latency_select_ms']):.1f}",
                f"{float(row['latency_prefill_ms']):.1f}",
                *_against_ceiling(row, "prefill"),
                *_against_ceiling(row, "total"),
                row["machine"],
            ]
        )
    return table


def late(rows: Iterable[Row]) -> list[list[str]]:
    """A line for each case whose budget is one of the cache, controls but `random` aside."""
    table = []
    for row in rows:
        named = row["method"] == "random" or _is_compared(row["method"])
        if not row["budget"].startswith("kv:") or not named:
            continue
        table.append(
            [
                row["model"],
                row["batch"],
                row["budget"],
                row["method"],
                f"{float(row['tokens_mean']):.0f}",
                f"{float(row['tokens_kv']):.0f}",
                f"{float(row['latency_select_ms']):.1f}",
                _ratio(row, "prefill"),
                _ratio(row, "total"),
                f"{float(row['total_ceiling']):.2f}",
                row["machine"],
            ]
        )
    return table


def _against_ceiling(row: Row, phase: str) -> list[str]:
    """A measured ratio, what it could come to, and the share of that which was reached."""
    share = row[f"{phase}_reached"]
    # no sign before a zero
    text = f"{round(float(share), 2) + 0.0:.2f}" if share else ""
    return [_ratio(row, phase), f"{float(row[f'{phase}_ceiling']):.2f}", text]


def _ratio(row: Row, phase: str) -> str:
    """A measured ratio with its interval."""
    name = f"latency_{phase}_ratio"
    value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _by(rows: Iterable[Row], *names: str) -> dict[tuple[str, ...], list[Row]]:
    """The rows by what they hold in these columns, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups

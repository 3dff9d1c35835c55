"""Recomputation: the numbers of a leaderboard from the cells behind it, by plain loops that share
no line with the report.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb, isclose, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

# nothing of prunebench: what is shared cannot be checked

Numbers = dict[str, float]
Row = dict[str, str]

SAMPLES = {
    "tokens_mean": "tokens_mean",
    "tokens_input": "tokens_input",
    "tokens_kv": "tokens_kv",
    "flops": "flops_total",
    "kv_bytes": "kv_bytes",
    "evidence_recall": "evidence_recall",
    "perfect": "perfect",
}
"""Columns of the leaderboard that are means of a column of samples.parquet."""

SHARES = ("tokens_mean", "tokens_input", "tokens_kv")

DRAWN = {
    "relative_accuracy_low",
    "relative_accuracy_high",
    "difference_to_none_low",
    "difference_to_none_high",
    "difference_to_random_low",
    "difference_to_random_high",
    "above_blind_low",
    "above_blind_high",
}
"""Ends of intervals that are bootstrapped: other draws give others; they hold the value, and more
than that.
"""

TEXTS = {
    "model",
    "method",
    "settings",
    "control",
    "budget_kind",
    "budget",
    "task",
    "status",
    "reason",
    "hardware",
    "dtype",
    "commit",
    "port",
    "machine",
}

COST = {
    "peak_memory_mib",
    "prefill_ratio",
    "prefill_ratio_low",
    "prefill_ratio_high",
    "total_ratio",
    "total_ratio_low",
    "total_ratio_high",
    "itself_ratio",
    "itself_ratio_low",
    "itself_ratio_high",
    "prefill_ceiling",
    "prefill_reached",
    "total_ceiling",
    "total_reached",
}
"""Of cells of cost."""

Z = 1.959963984540054
"""What 95 % of a normal distribution lie within."""


@dataclass
class Cell:
    """One cell: its facts, and the rows of its samples that were answered, by id."""

    facts: dict[str, Any]
    samples: dict[str, dict[str, Any]]


@dataclass
class Study:
    """The quality cells of a study by model, method, kind of budget, budget and task."""

    cells: dict[tuple[str, ...], list[Cell]] = field(default_factory=dict)
    has_cost: bool = False

    def of(self, *key: str) -> list[Cell]:
        return self.cells.get(key, [])

    def unpruned(self, model: str, task: str, method: str = "none") -> list[Cell]:
        """The cells of what has no budget."""
        found: list[Cell] = []
        for (own_model, own_method, _, _, own_task), cells in self.cells.items():
            if (own_model, own_method, own_task) == (model, method, task):
                found += cells
        return found


def read(study: Path) -> Study:
    """All cells, straight from their files."""
    result = Study()
    for folder in sorted((study / "cells").iterdir()):
        facts = json.loads((folder / "cell.json").read_text())
        if facts["kind"] == "cost":
            result.has_cost = True
            continue
        names = ("model", "method", "budget_kind", "budget", "task")
        samples = {}
        for row in parquet.read_table(folder / "samples.parquet").to_pylist():
            if row["error"] is None:
                samples[row["sample_id"]] = row
        key = tuple(facts[name] for name in names)
        result.cells.setdefault(key, []).append(Cell(facts, samples))
    return result


def mismatches(study: Path) -> list[str]:
    """Every number of leaderboard.csv that is not what the cells say; columns that this file knows
    nothing of are mismatches, too.
    """
    cells = read(study)
    with (study / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    faults = []
    for row in rows:
        expected = numbers_of(cells, row)
        where = f"{row['model']} {row['method']} {row['budget_kind']}:{row['budget']} {row['task']}"
        absent = sorted(set(expected) - set(row))
        faults += [f"{where}: {name} is no column, recomputed {expected[name]}" for name in absent]
        for name, text in row.items():
            faults += _faults(where, name, text, expected, row, cells.has_cost)
    faults += _corrected(rows)
    return faults


def _faults(
    where: str, name: str, text: str, expected: Numbers, row: Row, has_cost: bool
) -> list[str]:
    if name in TEXTS or name.startswith(("published_", "against_", "better_")):
        return []
    if name in COST:
        return [] if has_cost or text == "" else [f"{where}: {name} is {text} without a cost cell"]
    if name.endswith("_holm"):
        return []  # `_corrected` looks at these
    if name.endswith("_p") and name not in expected:  # of a test that draws signs
        return [] if text == "" or 0 <= float(text) <= 1 else [f"{where}: {name} is {text}"]
    if name in DRAWN or (name in ("hard_low", "hard_high", *ENDS) and name not in expected):
        base = name.removesuffix("_low").removesuffix("_high")
        if text and row[f"{base}_low"] == row[f"{base}_high"]:
            return [f"{where}: {name} {text} is both ends of an interval"]
        return _outside(where, name, text, row[base])
    if name not in expected:
        return [] if text == "" else [f"{where}: {name} is {text}, and was not recomputed"]
    own = expected[name]
    if text == "" or not isclose(float(text), own, rel_tol=1e-8, abs_tol=1e-9):
        return [f"{where}: {name} is {text or 'empty'}, recomputed {own:.10g}"]
    return []


ENDS = ("accuracy_low", "accuracy_high")


def _outside(where: str, name: str, text: str, value: str) -> list[str]:
    """That the end of a bootstrapped interval lies on its side of the value."""
    if text == "" or value == "":
        return []
    gap = float(value) - float(text) if name.endswith("_low") else float(text) - float(value)
    return [] if gap >= -1e-9 else [f"{where}: {name} {text} lies beyond the value {value}"]


# ---- one row -------------------------------------------------------------------------------------


def numbers_of(study: Study, row: Row) -> Numbers:
    """What the cells say of a row: of "all" the mean over tasks."""
    model, task = row["model"], row["task"]
    key = (model, row["method"], row["budget_kind"], row["budget"])
    if task != "all":
        return _of_task(study, key, task)
    tasks = sorted({own[4] for own in study.cells if own[0] == model})
    parts = [_of_task(study, key, one) for one in tasks]
    numbers: Numbers = {"seeds": max((part.get("seeds", 0) for part in parts), default=0)}
    for name in parts[0]:
        values = [part[name] for part in parts if name in part]
        if len(values) < len(parts) or name == "seeds" or name in ENDS or name.endswith("_p"):
            continue
        numbers[name] = sum(values) if name.startswith("n") else sum(values) / len(values)
    return numbers


def _of_task(study: Study, key: tuple[str, str, str, str], task: str) -> Numbers:
    model, method, kind, budget = key
    cells = study.of(*key, task)
    if not cells:
        return {}
    unpruned = study.unpruned(model, task)
    control = study.of(model, "random", kind, budget, task)
    blind = study.unpruned(model, task, "blind")
    resize = study.of(model, "resize", kind, budget, task)
    numbers: Numbers = {"seeds": len({cell.facts["seed"] for cell in cells})}
    numbers["n_asked"] = max(cell.facts["samples"]["asked"] for cell in cells)
    numbers |= _of_others(method, unpruned or cells, control, blind, resize)
    if not any(cell.samples for cell in cells):
        return numbers
    answered = _mean_scores(cells)
    numbers["n"] = len(answered)
    numbers["accuracy"] = _mean(_mean(_scores(cell).values()) for cell in cells if _scores(cell))
    if _right_or_wrong(answered.values()) and not _shared(cells):
        numbers |= dict(zip(ENDS, _wilson(sum(answered.values()), len(answered)), strict=True))
    numbers |= _of_samples(cells, unpruned)
    if unpruned:
        own, other = _common(cells, unpruned)
        numbers["relative_accuracy"] = _mean(own) / _mean(other)
    if unpruned and method != "none":
        numbers |= _against("none", cells, unpruned)
        numbers |= _flips(cells, unpruned)
    within = not any(cell.facts.get("reach") for cell in cells)
    if control and method not in ("none", "random") and within:
        numbers |= _against("random", cells, control)
    if blind and method != "blind":
        own, other = _common(cells, blind)
        numbers["above_blind"] = _mean(own) - _mean(other)
        numbers["n_paired_blind"] = len(own)
        if _right_or_wrong([*own, *other]) and not _shared(cells):
            numbers["above_blind_p"] = _mcnemar(own, other)
    if resize and method != "resize":
        numbers |= _hard(cells, unpruned, resize)
    return numbers


def _of_others(
    method: str, unpruned: list[Cell], control: list[Cell], blind: list[Cell], resize: list[Cell]
) -> Numbers:
    """What others have in a row, whether or not the method itself has answers."""
    numbers: Numbers = {}
    available = _column(unpruned, "available")
    if available is not None:
        numbers["tokens_available"] = available
    for name in ("evidence_recall", "perfect"):
        of_control = _column(control, name)
        if of_control is not None:
            numbers[f"{name}_random"] = of_control
    for other, cells in (("blind", blind), ("resize", resize)):
        scores = [_mean(_scores(cell).values()) for cell in cells if _scores(cell)]
        if scores and method != other:
            numbers[f"accuracy_{other}"] = _mean(scores)
    return numbers


def _of_samples(cells: list[Cell], unpruned: list[Cell]) -> Numbers:
    """Means of columns, and what stands beside them."""
    numbers: Numbers = {}
    available = _column(unpruned or cells, "available")
    for name, column in SAMPLES.items():
        own = _column(cells, column)
        if own is None:
            continue
        numbers[name] = own
        if name in SHARES and available is not None:
            ratio = _ratio(cells, column, unpruned or cells, "available")
            numbers[f"{name}_share"] = ratio
        if name == "flops" and unpruned:
            numbers["flops_ratio"] = _ratio(cells, column, unpruned, column)
    scores, some = [], False
    for cell in cells:
        rows = list(cell.samples.values())
        with_evidence = [row["score"] for row in rows if row.get("evidence_recall") is not None]
        some = some or 0 < len(with_evidence) < len(rows)
        scores.append(with_evidence)
    if some and all(scores):
        numbers["accuracy_evidence"] = _mean(_mean(own) for own in scores)
    return numbers


def _against(name: str, cells: list[Cell], others: list[Cell]) -> Numbers:
    """A paired difference, and McNemar's exact p-value where every answer is right or wrong."""
    own, other = _common(cells, others)
    numbers: Numbers = {f"n_paired_{name}": len(own)}
    numbers[f"difference_to_{name}"] = _mean(own) - _mean(other)
    if _right_or_wrong([*own, *other]) and not _shared(cells):
        numbers[f"difference_to_{name}_p"] = _mcnemar(own, other)
    return numbers


def _flips(cells: list[Cell], unpruned: list[Cell]) -> Numbers:
    """The same answers, and those that became wrong or right."""
    same, lost, won = [], [], []
    for cell, other in _by_seed(cells, unpruned):
        for sample in set(cell.samples) & set(other.samples):
            mine, theirs = cell.samples[sample], other.samples[sample]
            same.append(mine["prediction"].strip() == theirs["prediction"].strip())
            lost.append(mine["score"] < 0.5 <= theirs["score"])
            won.append(theirs["score"] < 0.5 <= mine["score"])
    return {"fidelity": _mean(same), "right_to_wrong": _mean(lost), "wrong_to_right": _mean(won)}


def _hard(cells: list[Cell], unpruned: list[Cell], resize: list[Cell]) -> Numbers:
    """Scores on what the smaller image has wrong."""
    by_sample: dict[str, list[float]] = {}
    for cell, smaller in _by_seed(cells, resize):
        for sample, score in _scores(cell).items():
            if _scores(smaller).get(sample, 1.0) < 0.5:
                by_sample.setdefault(sample, []).append(score)
    of_unpruned = []
    for cell, smaller in _by_seed(unpruned, resize):
        for sample, score in _scores(cell).items():
            if _scores(smaller).get(sample, 1.0) < 0.5:
                of_unpruned.append(score)
    if not by_sample:
        return {}
    means = [_mean(scores) for scores in by_sample.values()]
    numbers: Numbers = {"hard": _mean(means), "n_hard": len(means)}
    if of_unpruned:
        numbers["hard_none"] = _mean(of_unpruned)
    if _right_or_wrong(means) and not _shared(cells):
        numbers["hard_low"], numbers["hard_high"] = _wilson(sum(means), len(means))
    return numbers


def _corrected(rows: list[Row]) -> list[str]:
    """That Holm's correction and the marks are right, over rows of one model, task and budget."""
    faults = []
    for reference in ("none", "random"):
        families: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            if row[f"difference_to_{reference}_p"]:
                key = tuple(row[name] for name in ("model", "task", "budget_kind", "budget"))
                families.setdefault(key, []).append(row)
        for family in families.values():
            faults += _family(family, reference)
    return faults


def _family(family: list[Row], reference: str) -> list[str]:
    name = f"difference_to_{reference}"
    faults, largest = [], 0.0
    ordered = sorted(family, key=lambda row: float(row[f"{name}_p"]))
    for rank, row in enumerate(ordered):
        largest = max(largest, min(1.0, (len(family) - rank) * float(row[f"{name}_p"])))
        where = f"{row['method']} {row['budget']} {row['task']}"
        if not isclose(float(row[f"{name}_holm"]), largest, rel_tol=1e-8):
            faults.append(f"{where}: {name}_holm is {row[f'{name}_holm']}, recomputed {largest}")
        mark = row[f"against_{reference}"]
        low, high = (float(row[f"{name}_{end}"] or "nan") for end in ("low", "high"))
        apart = not low <= 0 <= high
        upwards = "better" if float(row[name]) > 0 else "worse"
        expected = upwards if largest < 0.05 and apart else "no difference shown"
        if mark != expected:
            faults.append(f"{where}: against_{reference} is {mark}, recomputed {expected}")
    return faults


# ---- plain arithmetic ----------------------------------------------------------------------------


def _scores(cell: Cell) -> dict[str, float]:
    rows = cell.samples.items()
    return {sample: row["score"] for sample, row in rows if row["score"] is not None}


def _mean_scores(cells: list[Cell]) -> dict[str, float]:
    """By sample, the mean over seeds."""
    together: dict[str, list[float]] = {}
    for cell in cells:
        for sample, score in _scores(cell).items():
            together.setdefault(sample, []).append(score)
    return {sample: _mean(scores) for sample, scores in together.items()}


def _by_seed(cells: list[Cell], others: list[Cell]) -> list[tuple[Cell, Cell]]:
    by_seed = {cell.facts["seed"]: cell for cell in others}
    pairs = [(cell, by_seed.get(cell.facts["seed"])) for cell in cells]
    return [(cell, other) for cell, other in pairs if other is not None]


def _common(cells: list[Cell], others: list[Cell]) -> tuple[list[float], list[float]]:
    """The scores of samples that both answered, mean over the seeds in which both did."""
    own: dict[str, list[float]] = {}
    reference: dict[str, list[float]] = {}
    for cell, other in _by_seed(cells, others):
        mine, theirs = _scores(cell), _scores(other)
        for sample in set(mine) & set(theirs):
            own.setdefault(sample, []).append(mine[sample])
            reference.setdefault(sample, []).append(theirs[sample])
    return [_mean(own[name]) for name in own], [_mean(reference[name]) for name in own]


def _column(cells: list[Cell], column: str) -> float | None:
    """The mean over seeds of the mean over samples."""
    means = []
    for cell in cells:
        rows = cell.samples.values()
        values = [row[column] for row in rows if row.get(column) is not None]
        if values:
            means.append(_mean(values))
    return _mean(means) if means else None


def _ratio(cells: list[Cell], above: str, others: list[Cell], below: str) -> float:
    """One column's mean over another's, on the samples that both have."""
    top, bottom = [], []
    for cell, other in _by_seed(cells, others):
        for sample in set(cell.samples) & set(other.samples):
            mine, theirs = cell.samples[sample].get(above), other.samples[sample].get(below)
            if mine is not None and theirs is not None:
                top.append(mine)
                bottom.append(theirs)
    return _mean(top) / _mean(bottom)


def _shared(cells: list[Cell]) -> bool:
    """Whether several questions are drawn together: then intervals and tests are drawn, too."""
    for cell in cells:
        for name in ("group", "image"):
            rows = cell.samples.values()
            names = [row[name] for row in rows if row.get(name) is not None]
            if len(set(names)) < len(names):
                return True
    return False


def _right_or_wrong(scores: Iterable[float]) -> bool:
    return set(scores) <= {0.0, 1.0}


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _wilson(hits: float, n: int) -> tuple[float, float]:
    share = hits / n
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return (middle - half if hits else 0.0), (middle + half if hits < n else 1.0)


def _mcnemar(own: Sequence[float], other: Sequence[float]) -> float:
    """Twice the smaller tail of a fair coin's throws, one a sample on which the two differ."""
    wins = sum(mine > theirs for mine, theirs in zip(own, other, strict=True))
    losses = sum(mine < theirs for mine, theirs in zip(own, other, strict=True))
    n = wins + losses
    tail = sum(comb(n, k) for k in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**n))


def changed(row: Mapping[str, str], name: str) -> dict[str, str]:
    """A row with another number in one place."""
    return {**row, name: f"{float(row[name]) * 1.01 + 0.001:.10g}"}

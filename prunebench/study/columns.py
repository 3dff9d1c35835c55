"""Columns: the types of a cell's tables, so that a column of nothing but nulls still has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, get_args

import pyarrow as pa

from prunebench.border.text import one_line
from prunebench.study.record import SampleStatus

STATUSES = get_args(SampleStatus)
"""What can become of a sample."""

SAMPLES: Mapping[str, pa.DataType] = {
    "sample_id": pa.string(),
    "doc_id": pa.int64(),
    "prediction": pa.string(),
    "reference": pa.string(),
    "score": pa.float64(),
    "status": pa.string(),
    "error": pa.string(),
    "available": pa.int64(),
    "stages": pa.list_(pa.int64()),
    "tokens_input": pa.float64(),
    "tokens_mean": pa.float64(),
    "tokens_kv": pa.float64(),
    "evidence_recall": pa.float64(),
    "evidence_tokens": pa.int64(),
    **{
        f"flops_{part}": pa.int64()
        for part in ("vision", "projector", "llm", "head", "selector", "total")
    },
    "kv_bytes": pa.int64(),
    "kv_bytes_padded": pa.int64(),
    "seconds": pa.float64(),
    "question_type": pa.string(),
    "complexity": pa.int64(),
}
"""One row a sample. `kv_bytes` are those of live entries; `kv_bytes_padded` adds the batch's
padding, where that was measured.
"""

PAIRS: Mapping[str, pa.DataType] = {
    "pair": pa.int64(),
    "order": pa.int64(),
    "variant": pa.string(),
    "phase": pa.string(),
    "ms": pa.float64(),
    "peak_memory_mib": pa.float64(),
    "kv_bytes": pa.int64(),
}

TABLES = {"samples": SAMPLES, "pairs": PAIRS}


def schema(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """The schema of "samples" or "pairs"; raises KeyError for a row with a column that is none of
    them.
    """
    columns = TABLES[table]
    for row in rows:
        for name in row:
            columns[name]
    return pa.schema(list(columns.items()))


def fault(table: str, row: Any) -> str:
    """What is wrong with a row of "samples" or "pairs", such as "score is nan"; empty where nothing
    is.
    """
    if not isinstance(row, Mapping):
        return "it is no row"
    for name, value in row.items():
        if name not in TABLES[table]:
            return f"it has an unknown column {one_line(repr(name), 60)}"
        if value is not None and not _fits(value, TABLES[table][name]):
            return f"{name} is {one_line(repr(value), 60)}"
    if table != "samples":
        return ""
    for name in ("sample_id", "doc_id"):
        if row.get(name) is None:
            return f"it has no {name}"
    if "error" not in row:
        return "it does not say whether it was answered"
    if row.get("status") not in (None, *STATUSES):
        return f"status is {one_line(repr(row['status']), 60)}"
    return ""


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a value has a column's type, and can be written: finite, and within 64 bits."""
    if kind == pa.string():
        return isinstance(value, str)
    if kind == pa.list_(pa.int64()):
        return isinstance(value, list) and all(_fits(part, pa.int64()) for part in value)
    if isinstance(value, bool) or not isinstance(value, int if kind == pa.int64() else int | float):
        return False
    if kind == pa.int64():
        return -(2**63) <= value < 2**63
    return abs(value) < 2**1000 and isfinite(value)

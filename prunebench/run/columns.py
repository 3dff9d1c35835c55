"""Columns: the types of a cell's tables, so that a column of nothing but nulls still has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

SAMPLES: Mapping[str, pa.DataType] = {
    "sample_id": pa.string(),
    "doc_id": pa.int64(),
    "status": pa.string(),
    "prediction": pa.string(),
    "reference": pa.string(),
    "score": pa.float64(),
    "error": pa.string(),
    "available": pa.int64(),
    "stages": pa.list_(pa.int64()),
    "tokens_input": pa.float64(),
    "tokens_mean": pa.float64(),
    "tokens_kv": pa.float64(),
    "evidence_recall": pa.float64(),
    "evidence_tokens": pa.int64(),
    **{f"flops_{part}": pa.int64() for part in ("vision", "projector", "llm", "head", "selector", "total")},
    "kv_bytes": pa.int64(),
    "seconds": pa.float64(),
    "question_type": pa.string(),
    "complexity": pa.int64(),
}

PAIRS: Mapping[str, pa.DataType] = {
    "pair": pa.int64(),
    "order": pa.int64(),
    "variant": pa.string(),
    "phase": pa.string(),
    "ms": pa.float64(),
    "peak_memory_mib": pa.float64(),
    "kv_bytes": pa.int64(),
}


def schema(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    """The schema of "samples" or "pairs"; raises KeyError for a row with a column that is none of them."""
    known = {"samples": SAMPLES, "pairs": PAIRS}[table]
    for row in rows:
        for name in row:
            known[name]
    return pa.schema(list(known.items()))

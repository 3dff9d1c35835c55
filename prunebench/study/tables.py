"""Tables: samples.parquet and pairs.parquet of a cell, written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.border.files import opened
from prunebench.border.text import one_line
from prunebench.study import columns
from prunebench.study.facts import Damaged, short

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

IDENTITY = ("sample_id", "doc_id", "score", "error")
"""What every samples.parquet has."""


def encoded(table: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The parquet file of rows that have no fault."""
    import pyarrow as pa
    from pyarrow import parquet

    buffer = pa.BufferOutputStream()
    content = pa.Table.from_pylist(list(rows), schema=columns.schema(table))
    parquet.write_table(content, buffer)
    return bytes(buffer.getvalue().to_pybytes())


def read_rows(path: Path) -> list[Row]:
    """All rows with all their columns, as they were written."""
    from pyarrow import parquet

    with opened(path) as file:
        rows: list[Row] = parquet.read_table(file).to_pylist()
    return rows


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Those of the columns that the file has, for every row; raises Damaged."""
    return _read(path, names)


def read_samples(path: Path, numbers: Sequence[str] = (), names: Sequence[str] = ()) -> pa.Table:
    """The sample_id, doc_id, score and error of every row, and the columns in `names` where the
    file has them, of which those in `numbers` must be numbers; raises Damaged.
    """
    table = _read(path, tuple(dict.fromkeys((*IDENTITY, *numbers, *names))))
    _check_types(path, table, numbers)
    for name in ("sample_id", "doc_id"):
        _check_identity(path, table, name)
    _check_scores(path, table)
    return table


def read_texts(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of texts that the file has, such as the groups of samples, and their sample_id;
    raises Damaged.
    """
    table = _read(path, ("sample_id", *names))
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _read(path: Path, names: Sequence[str]) -> pa.Table:
    """Those of the columns that the file has."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # whole, for a file of Python's is asked again for every column
        with opened(path) as file:
            whole = parquet.ParquetFile(pa.BufferReader(file.read()))
        columns_there = set(whole.schema_arrow.names)
        present = [name for name in names if name in columns_there]
        # a table is small, and threads cost more than they save
        table = whole.read(columns=present, use_threads=False)
        table.validate(full=True)
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except Exception as error:  # pyarrow has many types for a file that is no parquet
        raise Damaged(f"{path.name} cannot be read: {one_line(str(error), 100)}") from None
    return table


def _check_types(path: Path, table: pa.Table, numbers: Sequence[str]) -> None:
    import pyarrow as pa

    declared = columns.schema("samples")
    types = {field.name: field.type for field in table.schema}
    for name in IDENTITY:
        kind = declared.field(name).type
        if types.get(name) != kind:
            raise Damaged(f"{path.name} has no column {name} of type {kind}")
    for name in numbers:
        kind = types.get(name)
        if kind is None or pa.types.is_floating(kind) or pa.types.is_integer(kind):
            continue
        raise Damaged(f"{path.name} has a column {name} of type {kind}")


def _check_identity(path: Path, table: pa.Table, name: str) -> None:
    """That every row has it, and none that of another."""
    from pyarrow import compute

    column = table.column(name)
    if column.null_count:
        raise Damaged(f"{path.name} has a row without {name}")
    if len(column.unique()) == len(column):
        return
    counts = compute.value_counts(column)
    repeated = counts.filter(compute.greater(counts.field("counts"), 1))
    value = repeated[0]["values"].as_py()
    raise Damaged(f"sample {short(value)} stands in {path.name} twice")


def _check_scores(path: Path, table: pa.Table) -> None:
    from pyarrow import compute

    finite = compute.is_finite(table.column("score").drop_null())
    # min_count: of no scores at all, as in a cell that failed, the answer would be null
    if not compute.all(finite, min_count=0).as_py():
        raise Damaged(f"{path.name} has a score that is no number")

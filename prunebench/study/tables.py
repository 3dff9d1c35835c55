"""Tables: samples.parquet and pairs.parquet of a cell, written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.border.files import opened
from prunebench.border.text import one_line
from prunebench.study import columns
from prunebench.study.facts import Damaged, short

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

Row = dict[str, Any]

IDENTITY = ("sample_id", "doc_id", "score", "error")
"""What every samples.parquet has."""

KEYS = ("sample_id", "doc_id")
"""By which samples are told apart."""


def encoded(table: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The parquet file of rows that have no fault."""
    import pyarrow as pa
    from pyarrow import parquet

    buffer = pa.BufferOutputStream()
    content = pa.Table.from_pylist(list(rows), schema=columns.schema(table))
    texts = [column.name for column in columns.TABLES[table] if column.type == "text"]
    # what is read whole needs no statistics of its parts, and numbers hardly repeat
    parquet.write_table(
        content, buffer, use_dictionary=texts, write_statistics=False, store_schema=False
    )
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


def read_samples(path: Path) -> None:
    """That the table holds samples, each once, with scores that are numbers; raises Damaged."""
    file = SampleFile(path)
    file.layout(())
    table = file.read(IDENTITY)
    for name in KEYS:
        check_identity(path, table.column(name), name)
    check_scores(path, table.column("score"))


@dataclass(frozen=True)
class Layout:
    """What files of one schema have in common: their columns, and where in a file those lie that
    are no lists.
    """

    schema: parquet.ParquetSchema
    columns: frozenset[str]
    places: Mapping[str, int]


class SampleFile:
    """samples.parquet, open. Raises Damaged where it is none.

    `data` is what it holds, where that was read before.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self._path = path
        self._file, self._data = _opened(path, data)
        self.schema: parquet.ParquetSchema = self._file.schema

    def layout(self, numbers: Sequence[str]) -> Layout:
        """Where its columns lie. Raises Damaged where it lacks what every table of samples has, or
        has a text where a number belongs.
        """
        schema = self._file.schema_arrow
        _check_types(self._path, schema, numbers)
        # a column of lists or of parts has a path of several names
        paths = [self.schema.column(place).path for place in range(len(self.schema.names))]
        places = {name: place for place, name in enumerate(paths) if name in schema.names}
        return Layout(self.schema, frozenset(schema.names), places)

    def read(self, names: Sequence[str]) -> pa.Table:
        """These of its columns; raises Damaged."""
        return _read_columns(self._path, self._file, names)

    def bytes_of(self, names: Sequence[str], layout: Layout) -> dict[str, bytes]:
        """By name, what the file holds of each of these columns, which says all of it: of files
        with the same schema those are equal whose bytes are. None of a file in several pieces.
        """
        metadata = self._file.metadata
        if metadata.num_row_groups != 1:
            return {}
        group = metadata.row_group(0)
        contents = {}
        for name in names:
            place = layout.places.get(name)
            if place is None:
                continue
            chunk = group.column(place)
            # of texts their dictionary lies in front
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            content = self._data[start : start + chunk.total_compressed_size]
            contents[name] = chunk.compression.encode() + content
        return contents


def read_texts(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of texts that the file has, such as the groups of samples, and their sample_id;
    raises Damaged.
    """
    table = _read(path, ("sample_id", *names))
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _read(path: Path, names: Sequence[str]) -> pa.Table:
    """Those of the columns that the file has."""
    file, _ = _opened(path)
    columns_there = set(file.schema_arrow.names)
    return _read_columns(path, file, [name for name in names if name in columns_there])


def _opened(path: Path, data: bytes | None = None) -> tuple[parquet.ParquetFile, bytes]:
    """The file and all that it holds; raises Damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if data is None:
            # whole, for a file of Python's is asked again for every column
            with opened(path) as file:
                data = file.read()
        return parquet.ParquetFile(pa.BufferReader(data)), data
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except Exception as error:  # pyarrow has many types for a file that is no parquet
        raise _unreadable(path, error) from None


def _read_columns(path: Path, file: parquet.ParquetFile, names: Sequence[str]) -> pa.Table:
    try:
        # a table is small, and threads cost more than they save
        if file.num_row_groups == 1:
            # which asks less around it
            table = file.read_row_group(0, columns=list(names), use_threads=False)
        else:
            table = file.read(columns=list(names), use_threads=False)
        table.validate(full=True)
    except Exception as error:  # as above
        raise _unreadable(path, error) from None
    return table


def _unreadable(path: Path, error: Exception) -> Damaged:
    return Damaged(f"{path.name} cannot be read: {one_line(str(error), 100)}")


def _check_types(path: Path, schema: pa.Schema, numbers: Sequence[str]) -> None:
    import pyarrow as pa

    declared = columns.schema("samples")
    types = {field.name: field.type for field in schema}
    for name in IDENTITY:
        kind = declared.field(name).type
        if types.get(name) != kind:
            raise Damaged(f"{path.name} has no column {name} of type {kind}")
    for name in numbers:
        kind = types.get(name)
        if kind is None or pa.types.is_floating(kind) or pa.types.is_integer(kind):
            continue
        raise Damaged(f"{path.name} has a column {name} of type {kind}")


def check_identity(path: Path, column: pa.ChunkedArray, name: str) -> None:
    """That every row has it, and none that of another; raises Damaged."""
    from pyarrow import compute

    if column.null_count:
        raise Damaged(f"{path.name} has a row without {name}")
    if len(column.unique()) == len(column):
        return
    counts = compute.value_counts(column)
    repeated = counts.filter(compute.greater(counts.field("counts"), 1))
    value = repeated[0]["values"].as_py()
    raise Damaged(f"sample {short(value)} stands in {path.name} twice")


def check_scores(path: Path, column: pa.ChunkedArray) -> None:
    """That every score that is there is a finite number; raises Damaged."""
    # what is missing is NaN there as well, and is no fault
    if np.isfinite(column.to_numpy()).sum() + column.null_count != len(column):
        raise Damaged(f"{path.name} has a score that is no number")

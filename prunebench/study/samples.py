"""Samples: what a cell says of its samples, as arrays in the order of their ids.

Cells of one task mostly have the same samples with the same images. A pool keeps one copy of these
for all of them, and cells that share it are set side by side without looking an id up.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunebench.study import columns
from prunebench.study.tables import IDENTITY, KEYS, Layout, SampleFile, check_identity, check_scores

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.floating[Any]]
Codes = NDArray[np.intp]
T = TypeVar("T")

NAN = float("nan")

SIZES = ("complexity", "evidence_tokens")
"""What else is told of a sample by numbers, that is no result."""

LABELS = ("group", "image", "question_type")
"""What texts say of a sample, the same in most cells of a task."""

ANSWER = "prediction"


NUMBERS = ("score", *(column.name for column in columns.compared()), *SIZES)
"""The columns of numbers that are read."""

UNUSED = ("doc_id", "error")
"""Columns that every file has, of which the report asks nothing."""

READ = tuple(dict.fromkeys((*IDENTITY, *NUMBERS, *LABELS, ANSWER)))

SHARED = ("sample_id", *UNUSED, *LABELS, *SIZES, "available")
"""Columns that are the same in most cells of a task."""


@dataclass(frozen=True, eq=False)
class Ids:
    """The ids of a cell's samples, sorted; `order` is where each stands in the file, None where
    they stand so.
    """

    index: pd.Index[str]
    order: Codes | None


@dataclass(frozen=True, eq=False)
class Labels:
    """Texts of samples [n], None where there is none, with the ids in their order."""

    ids: pd.Index[str]
    texts: NDArray[np.object_]

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """[n] which samples have one."""
        return np.array([text is not None for text in self.texts], dtype=bool)

    @cached_property
    def codes(self) -> Codes:
        """[n] the number of every sample's text, in the order of the texts; a sample without one is
        its own.
        """
        names = self.texts.copy()
        names[~self.present] = [f"sample {sample}" for sample in self.ids[~self.present]]
        return coded(names.tolist())

    @cached_property
    def shared(self) -> bool:
        """Whether some samples have the same one."""
        own = self.texts[self.present]
        return len(set(own)) < len(own)


@dataclass(frozen=True, eq=False)
class Vector:
    """A number of every sample [n], NaN where it has none, with the ids in their order."""

    ids: pd.Index[str]
    values: Array

    @property
    def answered(self) -> NDArray[np.bool_]:
        """[n] which samples have one."""
        return ~np.isnan(self.values)


@dataclass(frozen=True, eq=False)
class Numbers(Mapping[str, Array]):
    """Numbers of samples by column: the rows [n] of one table [columns, n], for an array of its own
    takes more than the numbers of few samples; `rows` says which row a column is.
    """

    rows: Mapping[str, int]
    table: Array

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self.table[self.rows[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one cell: numbers [n] and labels by column, and `answers`, a number that
    stands for each answer's text without the space around it, NaN where there is none.
    """

    ids: pd.Index[str]
    numbers: Numbers
    labels: Mapping[str, Labels]
    answers: Array

    def vector(self, name: str) -> Vector:
        """One of its numbers; raises KeyError where the file has no such column."""
        return Vector(self.ids, self.numbers[name])


@dataclass
class Pool:
    """One copy of what cells have in common."""

    ids: dict[tuple[str, ...], Ids] = field(default_factory=dict)
    labels: dict[tuple[Any, ...], Labels] = field(default_factory=dict)
    rows: dict[tuple[str, ...], Mapping[str, int]] = field(default_factory=dict)
    """The places of the columns that a table has."""
    columns: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)
    """Ids, labels and numbers by what a file holds of their column, of which nothing has to be
    read.
    """

    layouts: list[Layout] = field(default_factory=list, repr=False)
    """Of the files, the ones that were checked."""

    facts: dict[str | bytes, Any] = field(default_factory=dict, repr=False)
    """By its bytes, a fact that cells have in common, such as the versions of packages."""

    def shared(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The same mapping, of which every value is the one that another cell has."""
        values = {}
        for name, value in content.items():
            # version 2 has no references, by which equal values would differ
            key = value if type(value) is str else marshal.dumps(value, 2)
            values[name] = self.facts.setdefault(key, value)
        return values

    def samples(self, path: Path, data: bytes) -> Samples:
        """What a samples.parquet of these bytes says; raises Damaged."""
        file = SampleFile(path, data)
        number, layout = self._layout(file)
        contents = file.bytes_of(SHARED, layout)
        # of the same samples: what a column says of others is not known yet
        own = number, contents.get("sample_id")
        keys = {name: (*own, name, content) for name, content in contents.items()}
        unknown = []
        for name in READ:
            if name in layout.columns and keys.get(name) not in self.columns:
                unknown.append(name)
        table = file.read(unknown)
        for name in KEYS:
            if name in unknown:
                check_identity(path, table.column(name), name)
        check_scores(path, table.column("score"))
        return self._samples(layout.columns, _Columns(table, keys, self.columns))

    def _layout(self, file: SampleFile) -> tuple[int, Layout]:
        """The layout of a file and its number; raises Damaged where that is none of samples."""
        for number, layout in enumerate(self.layouts):
            if layout.schema.equals(file.schema):
                return number, layout
        self.layouts.append(file.layout(NUMBERS))
        return len(self.layouts) - 1, self.layouts[-1]

    def _samples(self, there: Collection[str], columns: _Columns) -> Samples:
        """The columns that are there, in the order of the ids."""
        for name in UNUSED:
            columns.made(name, lambda _: True)
        ids = columns.made("sample_id", lambda column: self.ids_named(tuple(column.to_pylist())))

        def number(column: pa.ChunkedArray) -> Array:
            return _ordered(column.to_numpy(), ids)

        def labels(column: pa.ChunkedArray) -> Labels:
            texts = column.to_pylist()
            ordered = texts if ids.order is None else [texts[place] for place in ids.order]
            return self.labels_named(ordered, ids.index)

        names = tuple(name for name in NUMBERS if name in there)
        rows = self.rows.setdefault(names, {name: row for row, name in enumerate(names)})
        values = np.empty((len(names), len(ids.index)))
        for name, row in rows.items():
            values[row] = columns.made(name, number)
        texts = {name: columns.made(name, labels) for name in LABELS if name in there}
        answers = np.full(len(ids.index), NAN)
        if ANSWER in there:
            answers = columns.made(ANSWER, lambda column: _ordered(_answers(column), ids))
        return Samples(ids.index, Numbers(rows, values), texts, answers)

    def ids_named(self, names: tuple[str, ...]) -> Ids:
        """The pool's ids of samples that stand in a file in this order."""
        ids = self.ids.get(names)
        if ids is None:
            ordered = sorted(names)
            order = None
            if ordered != list(names):
                places = {name: place for place, name in enumerate(names)}
                order = np.array([places[name] for name in ordered], dtype=np.intp)
            ids = Ids(pd.Index(ordered, name="sample_id"), order)
            self.ids[names] = ids
        return ids

    def labels_named(self, texts: Sequence[str | None], ids: pd.Index[str]) -> Labels:
        """The pool's labels of these texts, in the order of the ids."""
        key = (id(ids), *texts)
        labels = self.labels.get(key)
        if labels is None:
            labels = Labels(ids, np.array(texts, dtype=object))
            self.labels[key] = labels
        return labels


class Adoption:
    """Samples that another process read, and that share among themselves what they have in common,
    made to share it with those of a pool.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ids: dict[int, pd.Index[str]] = {}
        self._labels: dict[int, Labels] = {}
        self._kept: list[Samples] = []

    def samples(self, own: Samples) -> Samples:
        """The same numbers and answers with ids and labels of the pool."""
        # for as long as their identities are known here
        self._kept.append(own)
        if id(own.ids) not in self._ids:
            self._ids[id(own.ids)] = self._pool.ids_named(tuple(own.ids)).index
        texts = {}
        for name, labels in own.labels.items():
            if id(labels) not in self._labels:
                ids = self._ids[id(own.ids)]
                self._labels[id(labels)] = self._pool.labels_named(labels.texts.tolist(), ids)
            texts[name] = self._labels[id(labels)]
        names = tuple(own.numbers)
        rows = self._pool.rows.setdefault(names, {name: row for row, name in enumerate(names)})
        numbers = Numbers(rows, own.numbers.table)
        return Samples(self._ids[id(own.ids)], numbers, texts, own.answers)


@dataclass(frozen=True)
class _Columns:
    """The columns of a file: those that were read, and what is kept of columns that hold the same.

    `keys` has a key for each column that is worth keeping.
    """

    table: pa.Table
    keys: Mapping[str, tuple[Any, ...]]
    kept: dict[tuple[Any, ...], Any]

    def made(self, name: str, make: Callable[[pa.ChunkedArray], T]) -> T:
        """What `make` makes of a column."""
        key = self.keys.get(name)
        if key is None:
            return make(self.table.column(name))
        if key not in self.kept:
            self.kept[key] = make(self.table.column(name))
        value: T = self.kept[key]
        return value


def _ordered(values: Array, ids: Ids) -> Array:
    """Values in the order of the file, in that of the ids."""
    return values if ids.order is None else np.asarray(values[ids.order])


def _answers(column: pa.ChunkedArray) -> Array:
    return np.array(list(map(_answer, column.to_pylist())), dtype=float)


@lru_cache(maxsize=2**16)
def _answer(text: str | None) -> float:
    """A whole number of 52 bits that two different texts hardly share."""
    if text is None:
        return NAN
    digest = blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float(int.from_bytes(digest) >> 12)


def coded(names: Sequence[str]) -> Codes:
    """[n] the number of every name, in the order of the distinct names."""
    _, codes = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return codes


def aligned(vectors: Sequence[Vector]) -> tuple[pd.Index[str], list[Array]]:
    """The ids that any of the vectors has, sorted, and each vector's values on these [n], NaN where
    it lacks one.
    """
    first = vectors[0].ids
    if all(vector.ids is first for vector in vectors):
        return first, [vector.values for vector in vectors]
    ids = first
    for vector in vectors[1:]:
        if vector.ids is not ids:
            ids = ids.union(vector.ids)
    ids = ids.sort_values()
    values = []
    for vector in vectors:
        places = ids.get_indexer(vector.ids)
        own = np.full(len(ids), NAN)
        own[places] = vector.values
        values.append(own)
    return ids, values

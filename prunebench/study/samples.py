"""Samples: what a cell says of its samples, as arrays in the order of their ids.

Cells of one task mostly have the same samples with the same images. A pool keeps one copy of these
for all of them, and cells that share it are set side by side without looking an id up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunebench.study import columns

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.floating[Any]]
Codes = NDArray[np.intp]

NAN = float("nan")

SIZES = ("complexity", "evidence_tokens")
"""What else is told of a sample by numbers, that is no result."""

LABELS = ("group", "image", "question_type")
"""What texts say of a sample, the same in most cells of a task."""

ANSWER = "prediction"


def numbers() -> list[str]:
    """The columns of numbers that are read."""
    return ["score", *(column.name for column in columns.compared()), *SIZES]


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
class Samples:
    """The samples of one cell: numbers [n] and labels by column, and `answers`, a number that
    stands for each answer's text without the space around it, NaN where there is none.
    """

    ids: pd.Index[str]
    numbers: Mapping[str, Array]
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

    def samples(self, table: pa.Table) -> Samples:
        """What a table of `sample_id` and any of the columns says."""
        ids = self._ids(tuple(table.column("sample_id").to_pylist()))
        values = {}
        for name in numbers():
            if name in table.column_names:
                own = table.column(name).to_numpy().astype(float, copy=False)
                values[name] = own if ids.order is None else own[ids.order]
        texts = {}
        for name in LABELS:
            if name in table.column_names:
                texts[name] = self._labels(table.column(name).to_pylist(), ids)
        answers = np.full(len(ids.index), NAN)
        if ANSWER in table.column_names:
            answers = np.array([_answer(text) for text in table.column(ANSWER).to_pylist()])
            answers = answers if ids.order is None else answers[ids.order]
        return Samples(ids.index, values, texts, answers)

    def _ids(self, names: tuple[str, ...]) -> Ids:
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

    def _labels(self, texts: Sequence[str | None], ids: Ids) -> Labels:
        if ids.order is not None:
            texts = [texts[place] for place in ids.order]
        # with the ids, for the same texts may belong to other samples
        key = (id(ids.index), *texts)
        labels = self.labels.get(key)
        if labels is None:
            labels = Labels(ids.index, np.array(texts, dtype=object))
            self.labels[key] = labels
        return labels


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

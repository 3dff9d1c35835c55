"""Products: inner products of tokens with each other, no more of them than a search needs."""

from __future__ import annotations

from torch import Tensor

PANEL = 256
"""Rows of a product that are made at a time: enough for a matrix product to be at its speed."""

CANDIDATES = 32
"""Rows that are made together where one is asked for: vectors are read from memory once for all."""


def gram(vectors: Tensor) -> Tensor:
    """[N, N] inner products of `vectors` [N, D], by panels; what symmetry gives is copied, which
    halves the work of a large product.
    """
    count = len(vectors)
    products = vectors.new_empty(count, count)
    for start in range(0, count, PANEL):
        end = start + PANEL
        panel = vectors[start:end] @ vectors[start:].T
        products[start:end, start:] = panel
        products[end:, start:end] = panel[:, PANEL:].T
    return products


class ProductRows:
    """Rows of the same matrix, for a search that asks for some of them one by one.

    On a GPU all are made at once, for to ask whether one is there would wait for it.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors
        self._all = None if vectors.device.type == "cpu" else gram(vectors)
        self._made: dict[int, Tensor] = {}

    def row(self, pick: Tensor, promise: Tensor) -> Tensor:
        """[N] that of `pick` [1]; `promise` [N] says by its largest values which are likely to be
        asked for next.
        """
        if self._all is not None:
            return self._all.index_select(0, pick)[0]
        number = int(pick)
        if number not in self._made:
            likely = promise.topk(min(CANDIDATES, len(promise))).indices.tolist()
            others = [place for place in likely if place not in self._made]
            places = list(dict.fromkeys([number, *others]))[:CANDIDATES]
            rows = self._vectors[places] @ self._vectors.T
            self._made.update(zip(places, rows, strict=True))
        return self._made.pop(number)

"""Products: inner products of tokens with each other, no more of them than a search needs."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

BLOCK = 128
"""Up to so many rows a product on the CPU is made whole: fewer make its parts slow."""

GPU_BLOCK = 4096
"""The same on a GPU, which is faster with one product than with several of half the work."""

CANDIDATES = 32
"""Rows that are made together where one is asked for: vectors are read from memory once for all."""

MANY = 8
"""Where more than one row in so many is asked for, all at once take less time."""


def gram(vectors: Tensor) -> Tensor:
    """[N, N] inner products of `vectors` [N, D], which no gradient passes; what symmetry gives is
    copied, which halves the work of a large product.
    """
    products = vectors.new_empty(len(vectors), len(vectors))
    _fill(products, vectors.detach(), BLOCK if vectors.device.type == "cpu" else GPU_BLOCK)
    return products


def cosines(vectors: Tensor) -> Tensor:
    """[N, N] cosines of `vectors` [N, D] with each other, in float32; 0 with one of length 0."""
    rows = vectors.detach().float()
    scale = 1 / rows.norm(dim=1).clamp(min=1e-12)
    # products are scaled in place: vectors of length 1 would be another D columns in memory
    return gram(rows).mul_(scale).mul_(scale[:, None])


def _fill(products: Tensor, vectors: Tensor, block: int) -> None:
    """Write the inner products into [N, N]: those between two halves once, and each half's own."""
    if len(vectors) <= block:
        torch.mm(vectors, vectors.T, out=products)
        return
    middle = len(vectors) // 2
    first, second = vectors[:middle], vectors[middle:]
    between = products[:middle, middle:]
    torch.mm(first, second.T, out=between)
    products[middle:, :middle] = between.T
    _fill(products[:middle, :middle], first, block)
    _fill(products[middle:, middle:], second, block)


class ProductRows:
    """Rows of the same matrix, for a search that asks for `count` of them one by one.

    All are made at once where these are many, or where no `count` says that they are few: then the
    work depends on shapes alone. So they are on a GPU, for to ask whether one is there would wait
    for it.
    """

    def __init__(self, vectors: Tensor, count: int | None = None) -> None:
        self._vectors = vectors
        few = len(vectors) // MANY
        is_whole = count is None or count > few or vectors.device.type != "cpu"
        self._all = gram(vectors) if is_whole else None
        self._made: dict[int, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where rows come out."""
        return self._vectors.device if self._all is None else self._all.device

    @property
    def squares(self) -> Tensor:
        """[N] the product of each with itself."""
        if self._all is None:
            return self._vectors.square().sum(1)
        # the matrix's own, from which its other entries differ by no rounding of another kind
        return self._all.diagonal().clone()

    def on(self, device: torch.device) -> Self:
        """The same rows, coming out on that device."""
        if self._all is not None:
            self._all = self._all.to(device)
        return self

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
            # this way round, for the many rows go through the cache once
            rows = (self._vectors @ self._vectors[places].T).T.contiguous()
            self._made.update(zip(places, rows, strict=True))
        return self._made.pop(number)

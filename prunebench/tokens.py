"""VisualTokens: everything a pruner may look at, for one sample at one site; Keep: what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from prunebench.sites import INPUT, Site


class Signal(StrEnum):
    """What the engine can observe for a pruner beside features and layout; computed only where declared in `needs`."""

    LAST_QUERY_ATTENTION = "last_query_attention"
    NEXT_QUERY_ATTENTION = "next_query_attention"
    TEXT_ATTENTION = "text_attention"
    KEYS = "keys"
    TEXT_FEATURES = "text_features"


@dataclass(frozen=True)
class Tile:
    """A run of visual tokens that share one grid: an image, crop, thumbnail or video frame.

    `newlines` says that every row ends with one more token, the newline embedding.
    """

    rows: int
    columns: int
    kind: str = "image"
    image: int = 0
    frame: int = 0
    newlines: bool = False

    def __len__(self) -> int:
        return self.rows * (self.columns + self.newlines)


class Layout:
    """Where each of a sample's N visual tokens lies; all tensors on the CPU.

    `tile`, `row`, `column` [N] int64, `newline` [N] bool; `tiles[tile[i]]` is the grid of token i.
    """

    def __init__(self, tiles: tuple[Tile, ...]) -> None:
        self.tiles = tiles
        self.start = [sum(len(t) for t in tiles[:i]) for i in range(len(tiles))]
        widths = [t.columns + t.newlines for t in tiles]
        flat = [torch.arange(len(t)) for t in tiles]
        none = [torch.arange(0)]
        self.tile = torch.cat(none + [torch.full((len(t),), i) for i, t in enumerate(tiles)])
        self.row = torch.cat(none + [f // w for f, w in zip(flat, widths, strict=True)])
        self.column = torch.cat(none + [f % w for f, w in zip(flat, widths, strict=True)])
        columns = torch.tensor([t.columns for t in tiles], dtype=torch.int64)
        self.newline = self.column >= columns[self.tile]

    def __len__(self) -> int:
        return len(self.tile)


@dataclass(frozen=True)
class VisualTokens:
    """One sample's live visual tokens at one site, in reading order.

    `features` [N, D]; `index` [N] their places among the sample's original visual tokens (CPU, int64), into `layout`;
    `question` the user's text where the caller gave it; `seed` a number that belongs to the sample (for seeded draws);
    `memo` a dict that lives as long as the sample, shared by its stages; `signals` the declared observations.
    """

    features: Tensor
    layout: Layout
    index: Tensor
    site: Site = INPUT
    question: str | None = None
    seed: int = 0
    memo: dict[str, Any] = field(default_factory=dict)
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The grids of the sample's original visual tokens."""
        return self.layout.tiles

    @property
    def last_query_attention(self) -> Tensor:
        """[H, N] post-softmax attention the last prompt token pays, in the layer before the site (over all visible keys)."""
        return self._signal(Signal.LAST_QUERY_ATTENTION)

    @property
    def next_query_attention(self) -> Tensor:
        """[H, N] the same, in the layer *behind* the site, from its own norm and projections; costs those once more."""
        return self._signal(Signal.NEXT_QUERY_ATTENTION)

    @property
    def text_attention(self) -> Tensor:
        """[H, Q, N] attention the Q text tokens after the first visual one pay, in the layer before the site."""
        return self._signal(Signal.TEXT_ATTENTION)

    @property
    def keys(self) -> Tensor:
        """[H_kv, N, d_h] rotated keys of the layer before the site."""
        return self._signal(Signal.KEYS)

    @property
    def text_features(self) -> Tensor:
        """[M, D] the text tokens' rows of the same stream at the site."""
        return self._signal(Signal.TEXT_FEATURES)

    def _signal(self, signal: Signal) -> Tensor:
        if signal not in self.signals:
            raise AttributeError(f"{signal} was not asked for: add Signal.{signal.name} to the pruner's `needs`")
        return self.signals[signal]


@dataclass(frozen=True)
class Keep:
    """The survivors: `index` [K] unique places in the VisualTokens given, any order; `features` [K, D] where they merge."""

    index: Tensor
    features: Tensor | None = None

"""Tokens: everything a pruner may look at, for one sample at one site, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from prunebench.observations import SignalReadings
from prunebench.signals import Signal as Signal  # whoever reads tokens reads signals
from prunebench.sites import INPUT, Site

Region = tuple[float, float, float, float]

PairBias = Callable[[Tensor], Tensor]
"""(distances [P, n, n] of the position ids of every query and key, on each of P axes) -> what is
added to their scores [n, n].
"""


@dataclass(frozen=True)
class Tile:
    """A grid of visual tokens: an image, a thumbnail, a crop of an image, or a video frame (its
    `kind`).

    `newlines` says that every row ends with one more token, the newline embedding. `region` is the
    part of the image that the grid covers: left, top, right and bottom as shares of its sides,
    outside 0..1 where padding is covered too; None where the inputs do not tell. A grid without
    columns is a newline token that stands alone.
    """

    rows: int
    columns: int
    kind: str = "image"
    image: int = 0
    frame: int = 0
    newlines: bool = False
    region: Region | None = (0.0, 0.0, 1.0, 1.0)

    def __len__(self) -> int:
        return self.rows * (self.columns + self.newlines)


class Layout:
    """Where each of a sample's N visual tokens lies; all tensors on the CPU.

    `tile`, `row`, `column` [N] int64, `newline` [N] bool; `tiles[tile[i]]` is the grid of token i.
    Tokens come tile after tile, row by row, unless `places` [N, 3] (tile, row, column) says
    otherwise: crops that the model stitches together are read across. Raises ValueError where the
    places are not those of the tiles.
    """

    def __init__(self, tiles: tuple[Tile, ...], places: Tensor | None = None) -> None:
        self.tiles = tiles
        if places is None:
            places = torch.cat(
                [
                    # a prompt without images has no tiles, and nothing cannot be concatenated
                    torch.empty(0, 3, dtype=torch.int64),
                    *(_raster(i, t) for i, t in enumerate(tiles)),
                ]
            )
        if len(places) != sum(len(t) for t in tiles):
            raise ValueError(
                f"{len(places)} places for tiles of {[len(t) for t in tiles]} visual tokens"
            )
        self.tile, self.row, self.column = places.unbind(1)
        columns = torch.tensor([t.columns for t in tiles], dtype=torch.int64)
        # a row's newline stands behind the last column
        self.newline = self.column >= columns[self.tile]

    def __len__(self) -> int:
        return len(self.tile)

    def grid(self, number: int) -> Tensor:
        """[rows, columns (+ 1 with newlines)] the places in the sample of a tile's tokens."""
        tile = self.tiles[number]
        members = (self.tile == number).nonzero()[:, 0]
        grid = torch.empty(tile.rows, tile.columns + tile.newlines, dtype=torch.int64)
        grid[self.row[members], self.column[members]] = members
        return grid


def _raster(number: int, tile: Tile) -> Tensor:
    """[len(tile), 3] tile, row and column of its tokens, row by row."""
    width = tile.columns + tile.newlines
    flat = torch.arange(len(tile))
    return torch.stack(
        [torch.full_like(flat, number), flat // max(1, width), flat % max(1, width)], dim=1
    )


@dataclass(frozen=True)
class VisualTokens(SignalReadings):
    """One sample's live visual tokens at one site, in reading order.

    `features` [N, D]; `index` [N] their places among the sample's original visual tokens (CPU,
    int64), into `layout`; `question` the user's text where the caller gave it; `seed` a number that
    belongs to the sample (for seeded draws); `memo` a dict that lives as long as the sample, shared
    by its stages. `signals` are the declared observations, each an attribute by its name, and
    `absent` those that this stage cannot be shown.

    Inside the vision encoder a token is made of G patches, whose rows stand side by side in its
    features [N, G * D_v]; newlines, which no patch belongs to, are not shown and always survive.
    """

    features: Tensor
    layout: Layout
    index: Tensor
    site: Site = INPUT
    question: str | None = None
    seed: int = 0
    memo: dict[str, Any] = field(default_factory=dict)
    signals: Mapping[Signal, Any] = field(default_factory=dict)
    absent: frozenset[Signal] = frozenset()

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The grids of the sample's original visual tokens."""
        return self.layout.tiles

    @property
    def tile(self) -> Tensor:
        """[N] the number of the grid that each token lies in; on the CPU, like the next three."""
        return self.layout.tile[self.index]

    @property
    def row(self) -> Tensor:
        """[N] its row there."""
        return self.layout.row[self.index]

    @property
    def column(self) -> Tensor:
        """[N] its column there."""
        return self.layout.column[self.index]

    @property
    def newline(self) -> Tensor:
        """[N] bool: whether it is a newline embedding, of which no patch is shown."""
        return self.layout.newline[self.index]


@dataclass(frozen=True)
class Keep:
    """The survivors of a stage.

    `index` [K] are unique places in the VisualTokens that the method was shown, in any order. Where
    it merges, `features` [K, D] are what the survivors are from here on.

    `order` "raster" lets them go on in the order in which they were shown, "given" in that of
    `index`: they fill the rows of the survivors in that order, a query sees the rows before its
    own, and compact position ids that run along one axis count in that order, while original ones,
    and those of rows and columns, go with their token. `places` [K] are original visual tokens, as
    VisualTokens.index names them, of those that the stage was shown: a survivor goes on with the
    position ids of that one in place of its own.

    `bias` [K], float, is added to every attention score that a survivor's key gets in all later
    layers and in decoding, in log space: the log of how many tokens a survivor stands for makes it
    count as many. With [J, K], row j holds in the j-th layer behind the site, and the last one in
    all later layers and in decoding. `pair_bias` adds to the scores of all pairs, text included, in
    all later layers while the prompt is read: given distances [P, n, n] of position ids, query's
    less key's on each of P axes (temporal, height and width where a model has these, else one), it
    gives [n, n]. Inside the vision encoder there is no other order, place or pair bias, and a bias
    [K] holds there alone.
    """

    index: Tensor
    features: Tensor | None = None
    bias: Tensor | None = None
    order: Literal["raster", "given"] = "raster"
    places: Tensor | None = None
    pair_bias: PairBias | None = None

    def settled(self) -> Keep:
        """The same with its rows in the order in which they go on."""
        return self if self.order == "given" else self.ascending()

    def ascending(self) -> Keep:
        """The same in the order in which the tokens were shown."""
        order = self.index.argsort()
        changed: dict[str, Tensor] = {"index": self.index[order]}
        for name in ("features", "bias", "places"):
            value: Tensor | None = getattr(self, name)
            if value is not None:
                axis = -1 if name == "bias" else 0
                changed[name] = value.index_select(axis, order.to(value.device))
        return replace(self, **changed)  # type: ignore[arg-type]  # tensors, each for a tensor

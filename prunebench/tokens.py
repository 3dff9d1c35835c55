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
    """What the engine can observe for a pruner beside features and layout; computed only where
    declared in `needs`.

    The first seven come from the language model, the next from the vision encoder, those behind
    CLS_FEATURES from a CLIP that is asked beside it, the last from the caller. TILES is nothing to
    look at: it says that the method makes sense only where an image comes as a thumbnail and crops.
    """

    LAST_QUERY_ATTENTION = "last_query_attention"
    NEXT_QUERY_ATTENTION = "next_query_attention"
    TEXT_ATTENTION = "text_attention"
    KEYS = "keys"
    TEXT_FEATURES = "text_features"
    PROBE_LOGITS = "probe_logits"
    PROBE_LOG_ATTENTION = "probe_log_attention"
    CLS_ATTENTION = "cls_attention"
    RECEIVED_ATTENTION = "received_attention"
    ENCODER_FEATURES = "encoder_features"
    ENCODER_KEYS = "encoder_keys"
    CLS_FEATURES = "cls_features"
    CLIP_TEXT = "clip_text"
    CLIP_TILES = "clip_tiles"
    CLIP_PATCHES = "clip_patches"
    TEXT_PIECES = "text_pieces"
    PICTURES = "pictures"
    MASKS = "masks"
    TILES = "tiles"


ENCODER = frozenset(
    {
        Signal.CLS_ATTENTION,
        Signal.RECEIVED_ATTENTION,
        Signal.ENCODER_FEATURES,
        Signal.ENCODER_KEYS,
        Signal.CLS_FEATURES,
    }
)
"""Signals observed in the vision encoder; their first axis runs over the blocks that
`Pruner.blocks` names.
"""

PROBE = frozenset({Signal.PROBE_LOGITS, Signal.PROBE_LOG_ATTENTION})
"""Signals of the token that `Pruner.probe` adds behind the prompt."""

CLIP = frozenset({Signal.CLIP_TEXT, Signal.CLIP_TILES, Signal.CLIP_PATCHES})
"""Signals of the CLIP that `Pruner.clip` names, which sees what the vision encoder sees."""

GIVEN = frozenset({Signal.TEXT_PIECES, Signal.PICTURES, Signal.MASKS})
"""Signals that only the caller can give: the tokenizer, the images, masks of what they show."""

TOKEN_AXIS = {
    Signal.LAST_QUERY_ATTENTION: 1,
    Signal.NEXT_QUERY_ATTENTION: 1,
    Signal.TEXT_ATTENTION: 2,
    Signal.KEYS: 1,
    Signal.PROBE_LOGITS: 1,
    Signal.PROBE_LOG_ATTENTION: 1,
    Signal.CLIP_PATCHES: 0,
    Signal.CLS_ATTENTION: 2,
    Signal.RECEIVED_ATTENTION: 2,
    Signal.ENCODER_FEATURES: 1,
    Signal.ENCODER_KEYS: 2,
}
"""Which axis of a signal runs over the visual tokens; the others have none."""

Region = tuple[float, float, float, float]


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
        self.newline = self.column >= columns[self.tile]

    def __len__(self) -> int:
        return len(self.tile)

    def grid(self, number: int) -> Tensor:
        """[rows, columns (+ 1 with newlines)] the tokens of a tile by their places in the sample."""
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
class VisualTokens:
    """One sample's live visual tokens at one site, in reading order.

    `features` [N, D]; `index` [N] their places among the sample's original visual tokens (CPU,
    int64), into `layout`; `question` the user's text where the caller gave it; `seed` a number that
    belongs to the sample (for seeded draws); `memo` a dict that lives as long as the sample, shared
    by its stages; `signals` the declared observations.
    """

    features: Tensor
    layout: Layout
    index: Tensor
    site: Site = INPUT
    question: str | None = None
    seed: int = 0
    memo: dict[str, Any] = field(default_factory=dict)
    signals: Mapping[Signal, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The grids of the sample's original visual tokens."""
        return self.layout.tiles

    @property
    def last_query_attention(self) -> Tensor:
        """[H, N] post-softmax attention the last prompt token pays, in the layer before the site
        (over all visible keys).
        """
        return self._tensor(Signal.LAST_QUERY_ATTENTION)

    @property
    def next_query_attention(self) -> Tensor:
        """[H, N] the same, in the layer *behind* the site, from its own norm and projections; costs
        those once more.
        """
        return self._tensor(Signal.NEXT_QUERY_ATTENTION)

    @property
    def text_attention(self) -> Tensor:
        """[H, Q, N] attention the Q text tokens after the first visual one pay, in the layer before
        the site.
        """
        return self._tensor(Signal.TEXT_ATTENTION)

    @property
    def keys(self) -> Tensor:
        """[H_kv, N, d_h] rotated keys of the layer before the site."""
        return self._tensor(Signal.KEYS)

    @property
    def text_features(self) -> Tensor:
        """[M, D] the text tokens' rows of the same stream at the site."""
        return self._tensor(Signal.TEXT_FEATURES)

    @property
    def cls_attention(self) -> Tensor:
        """[B, H, N] attention the CLS token of a token's tile pays to it in each of the B encoder
        blocks asked for.

        The mean over the patches the token was made of (softmax over CLS and patches); 0 for
        newlines.
        """
        return self._tensor(Signal.CLS_ATTENTION)

    @property
    def received_attention(self) -> Tensor:
        """[B, H, N] attention a token's patches receive in the encoder, averaged over the queries
        that may see them.
        """
        return self._tensor(Signal.RECEIVED_ATTENTION)

    @property
    def encoder_features(self) -> Tensor:
        """[B, N, D_v] output of the B encoder blocks asked for, averaged over the token's patches;
        0 for newlines.
        """
        return self._tensor(Signal.ENCODER_FEATURES)

    @property
    def encoder_keys(self) -> Tensor:
        """[B, H, N, d_h] keys of the encoder's attention as its kernel gets them, averaged over the
        token's patches.
        """
        return self._tensor(Signal.ENCODER_KEYS)

    @property
    def cls_features(self) -> Tensor:
        """[B, T, D_v] the CLS token of every tile, as the encoder blocks asked for put it out."""
        return self._tensor(Signal.CLS_FEATURES)

    @property
    def probe_logits(self) -> Tensor:
        """[H, N] scaled products of the probe token's query and the tokens' keys, rotated, in the
        layer before the site.
        """
        return self._tensor(Signal.PROBE_LOGITS)

    @property
    def probe_log_attention(self) -> Tensor:
        """[H, N] log of the attention the probe token pays there; the softmax runs over the whole
        prompt and the probe.
        """
        return self._tensor(Signal.PROBE_LOG_ATTENTION)

    @property
    def clip_text(self) -> Tensor:
        """[M, P] CLIP's embeddings of the texts that `Pruner.texts` makes of the question; not
        normalised.
        """
        return self._tensor(Signal.CLIP_TEXT)

    @property
    def clip_tiles(self) -> Tensor:
        """[T, P] CLIP's embeddings of the tiles; not normalised."""
        return self._tensor(Signal.CLIP_TILES)

    @property
    def clip_patches(self) -> Tensor:
        """[N, P] CLIP's final norm and projection of the patches, averaged over the token's; not
        normalised, 0 for newlines.
        """
        return self._tensor(Signal.CLIP_PATCHES)

    @property
    def text_pieces(self) -> tuple[str, ...]:
        """M strings: what each row of `text_features` says."""
        return self._signal(Signal.TEXT_PIECES)  # type: ignore[no-any-return]

    @property
    def pictures(self) -> tuple[Tensor, ...]:
        """The images and videos, [F, H, W, 3] uint8 each (an image is one frame), as they were
        before the processor.
        """
        return self._signal(Signal.PICTURES)  # type: ignore[no-any-return]

    @property
    def masks(self) -> tuple[Tensor, ...]:
        """Per image [Q, H, W] bool: the masks of Q things it shows; a pixel may lie in none or in
        several.
        """
        return self._signal(Signal.MASKS)  # type: ignore[no-any-return]

    def _tensor(self, signal: Signal) -> Tensor:
        found: Tensor = self._signal(signal)
        return found

    def _signal(self, signal: Signal) -> Any:
        if signal not in self.signals:
            raise AttributeError(
                f"{signal} was not asked for: add Signal.{signal.name} to the pruner's `needs`"
            )
        return self.signals[signal]


@dataclass(frozen=True)
class Keep:
    """The survivors: `index` [K] unique places in the VisualTokens given, any order; `features` [K,
    D] where they merge.
    """

    index: Tensor
    features: Tensor | None = None

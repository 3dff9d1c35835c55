"""Thinning: what the samples of a batch keep at one seam, and the stream and rows that follow."""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.engine.stream import LiveTokens, Stream, sent
from prunebench.tokens import Keep, PairBias


class Thinning:
    """One stage for a whole batch, that enters with a stream; samples without a stage keep all."""

    def __init__(self, entered: Stream) -> None:
        self.entered = entered
        self.source = list(entered.source)
        """By sample, the prompt positions that go on."""
        self.merged: dict[int, tuple[Tensor, Tensor]] = {}
        """By sample, positions [K] with the rows [K, D] that take the place of theirs."""
        self.biases: dict[int, tuple[Tensor, Tensor]] = {}
        """By sample, positions [K] with what is added to their keys' scores, [K] or [J, K]."""
        self.pairs: dict[int, PairBias] = {}
        """By sample, what is added by the distance of positions."""
        self.carriers: dict[int, tuple[Tensor, Tensor]] = {}
        """By sample, positions [K] with those [K] whose position ids they go on with."""
        self.rearranged = False
        """Whether rows change places, or the position ids that go with them."""

    def leave(self, row: int, live: LiveTokens, index: Tensor) -> None:
        """A sample keeps its text, and of its `live` visual tokens those at `index` [K], in that
        order.
        """
        alive = live.text.clone()
        alive[live.places[index]] = True
        places = alive.nonzero()[:, 0]
        ordered = live.places[index]
        if bool((ordered.diff() < 0).any()):
            # survivors fill the rows of survivors, in the order that the method gave
            places[~live.text[places]] = ordered
            self.rearranged = True
        self.source[row] = self.entered.source[row][places]

    def keep(self, row: int, live: LiveTokens, keep: Keep, pinned: bool) -> Tensor:
        """A sample keeps what the method answered, and its last token where that is pinned.

        Returns the survivors [K] among its original visual tokens, ascending.
        """
        positions = self.entered.source[row][live.places[keep.index]]
        if keep.features is not None:
            self.merged[row] = positions, keep.features
        if keep.bias is not None:
            self.biases[row] = positions, keep.bias
        if keep.pair_bias is not None:
            self.pairs[row] = keep.pair_bias
        if keep.places is not None:
            # ordinals ascend unless rows were given another order before
            ranks = live.ordinal.argsort()
            places = live.places[ranks[torch.searchsorted(live.ordinal, keep.places, sorter=ranks)]]
            self.carriers[row] = positions, self.entered.source[row][places]
            self.rearranged = True
        index = keep.index
        if pinned:
            # the pinned token is the last one, which the offer left out
            index = torch.cat([index, index.new_tensor([len(live) - 1])])
        self.leave(row, live, index)
        return live.ordinal[index].sort().values

    def stream(self) -> Stream:
        """What goes on; the stream that entered where every sample kept all."""
        lengths = [len(positions) for positions in self.source]
        stream = self.entered
        # a stage only drops, so equal lengths mean that nothing was dropped
        if self.rearranged or lengths != [len(positions) for positions in stream.source]:
            stream = stream.narrowed(self.source)
        return stream.biased(self.biases).paired(self.pairs)

    def ids_from(self, stream: Stream) -> list[Tensor]:
        """[n_b] a sample, the positions whose position ids the rows of the stream that goes on have
        in the one that entered.
        """
        carriers = list(stream.source)
        for row, (positions, worn) in self.carriers.items():
            carriers[row] = carriers[row].clone()
            carriers[row][stream.places_of(row, positions)] = worn
        return carriers

    def rows(self, hidden: Tensor, stream: Stream) -> Tensor:
        """Of the rows `hidden` [B, S, D] that entered, those [B, n, D] of the stream that goes on.

        Merged rows are in the places of those that they replace.
        """
        if stream.source is not self.entered.source:
            columns = self.entered.columns(stream, hidden.device)[..., None]
            hidden = hidden.gather(1, columns.expand(-1, -1, hidden.shape[-1]))
        # written to in place below, and the rows that entered may be the decoder's own
        if self.merged:
            hidden = hidden.clone()
        for row, (positions, features) in self.merged.items():
            columns = sent(stream.column_of(row, positions), hidden.device)
            hidden[row, columns] = features.to(hidden)
        return hidden

"""Stream: which prompt positions are alive at one point of the decoder."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from prunebench.tokens import PairBias


class EngineError(ValueError):
    """A use that the engine cannot serve, or a pruner that broke its contract."""


@dataclass(frozen=True)
class LiveTokens:
    """Where one sample's N live visual tokens are, counted in three ways; all on the CPU.

    `places` [N] in its live sequence of n positions, `ordinal` [N] among its original visual
    tokens, `columns` [N] in the tensors of the stream, where padding comes first. `text` [n] bool
    marks what of the live sequence is no visual token.
    """

    places: Tensor
    ordinal: Tensor
    columns: Tensor
    text: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def without_last(self) -> LiveTokens:
        """The same without the last visual token, which is no text for that."""
        return LiveTokens(self.places[:-1], self.ordinal[:-1], self.columns[:-1], self.text)


@dataclass(frozen=True)
class Stream:
    """The live sequence of a batch.

    `source` lists, per sample, the prompt positions alive [n_b] in the order of their rows, on the
    CPU: ascending, unless a method gave its survivors another order. In tensors the samples are
    padded on the left to `width` columns. `bias` is, per sample, what is added to the attention
    scores that each key gets [J, n_b], float32 on the CPU, where the stream is and in the layers
    behind, the last row in all that follow; None where nothing is. `pairs` are, per sample, what is
    added by the distance of positions while the prompt is read.
    """

    source: tuple[Tensor, ...]
    width: int
    bias: tuple[Tensor, ...] | None = None
    pairs: tuple[tuple[PairBias, ...], ...] | None = None

    @classmethod
    def of_prompt(cls, batch: int, width: int, mask: Tensor | None) -> Stream:
        """The whole prompt; `mask` [B, S] is 0 on padding, which must lie on the left."""
        if mask is None:
            return cls((torch.arange(width),) * batch, width)
        if mask.shape != (batch, width):
            raise EngineError(
                f"attention_mask is {tuple(mask.shape)}, the prompt {(batch, width)}: pass a 2-D "
                "mask over the prompt (static caches bring their own masks and are not supported)"
            )
        live = mask.cpu()
        if not bool(((live == 0) | (live == 1)).all()):
            raise EngineError(
                "attention_mask holds other values than 0 and 1; pass 1 for every token and 0 for "
                "padding"
            )
        live = live.bool()
        for row, alive in enumerate(live):
            _check_padding(row, alive)
        return cls(tuple(row.nonzero()[:, 0] for row in live), width)

    @cached_property
    def padded(self) -> bool:
        """Whether any sample is shorter than the tensors."""
        return any(len(positions) < self.width for positions in self.source)

    def without(self, last: int) -> Stream:
        """The stream that lacks the last so many positions, which are alive in every sample."""
        if last == 0:
            return self
        source = tuple(positions[: len(positions) - last] for positions in self.source)
        bias = self.bias
        if bias is not None:
            bias = tuple(values[:, : values.shape[1] - last] for values in bias)
        return replace(self, source=source, width=self.width - last, bias=bias)

    def later(self, layers: int) -> Stream:
        """The stream as it is so many layers further on, where nothing is dropped on the way."""
        left = 1 if self.bias is None else self.bias[0].shape[0]
        passed = min(layers, left - 1)
        if passed == 0 or self.bias is None:
            return self
        return replace(self, bias=tuple(values[passed:] for values in self.bias))

    @cached_property
    def last(self) -> Stream:
        """The stream as it is in the last layers and in decoding."""
        return self.later(sys.maxsize)

    @property
    def weighed(self) -> bool:
        """Whether anything is added to attention scores."""
        return self.bias is not None or self.pairs is not None

    def start(self, sample: int) -> int:
        """The first column of a sample."""
        return self.width - len(self.source[sample])

    def valid(self, device: torch.device) -> Tensor:
        """[B, width] bool: columns that are no padding."""
        starts = torch.tensor([self.start(row) for row in range(len(self.source))])
        return sent(torch.arange(self.width) >= starts[:, None], device)

    def visual(self, sample: int, marks: Tensor) -> LiveTokens:
        """Where a sample's visual tokens are; `marks` [S] bool says which prompt positions are.

        This is the one place that counts from original visual tokens to columns of the stream.
        """
        source = self.source[sample]
        live = marks[source]
        places = live.nonzero()[:, 0]
        # the rank among all visual tokens of the prompt, dropped ones included
        ordinal = (marks.cumsum(0) - 1)[source[places]]
        return LiveTokens(places, ordinal, places + self.start(sample), ~live)

    def narrowed(self, source: Sequence[Tensor]) -> Stream:
        """The stream of the survivors `source`, as narrow as its longest sample."""
        width = max(len(positions) for positions in source)
        bias = self.bias
        if bias is not None:
            parts = enumerate(zip(bias, source, strict=True))
            bias = tuple(values[:, self.places_of(row, new)] for row, (values, new) in parts)
        return replace(self, source=tuple(source), width=width, bias=bias)

    def biased(self, added: Mapping[int, tuple[Tensor, Tensor]]) -> Stream:
        """The same positions with a further bias: by sample some of them [K], and their values [K]
        or [J, K].
        """
        if not added:
            return self
        bias = [torch.zeros(1, len(positions)) for positions in self.source]
        if self.bias is not None:
            bias = list(self.bias)
        for row, (positions, values) in added.items():
            rows = values.detach().float().cpu().reshape(-1, len(positions))
            depth = max(len(rows), len(bias[row]))
            places = self.places_of(row, positions)
            bias[row] = _as_deep(bias[row], depth).index_add(1, places, _as_deep(rows, depth))
        deepest = max(len(values) for values in bias)
        return replace(self, bias=tuple(_as_deep(values, deepest) for values in bias))

    def paired(self, added: Mapping[int, PairBias]) -> Stream:
        """The same positions with a further bias of pairs, by sample."""
        if not added:
            return self
        pairs = list(self.pairs or [()] * len(self.source))
        for row, pair_bias in added.items():
            pairs[row] = (*pairs[row], pair_bias)
        return replace(self, pairs=tuple(pairs))

    def key_bias(self, device: torch.device) -> Tensor:
        """[B, width] what is added to the scores of every column's key; 0 for padding."""
        values = torch.zeros(len(self.source), self.width)
        for row, bias in enumerate(self.bias or ()):
            values[row, self.start(row) :] = bias[0]
        return sent(values, device)

    def columns(
        self, to: Stream, device: torch.device, carriers: Sequence[Tensor] | None = None
    ) -> Tensor:
        """[B, to.width] for every column of the narrower stream `to` its column here, or that of
        the live position which `carriers` [n_b], per sample, name in its place.

        Padding repeats the first live one.
        """
        index = torch.zeros(len(to.source), to.width, dtype=torch.int64)
        for row, survivors in enumerate(carriers or to.source):
            # a sample may have had no padding before, so a live row stands in for it; masks hide it
            index[row] = self.start(row)
            index[row, to.start(row) :] = self.column_of(row, survivors)
        return sent(index, device)

    def column_of(self, sample: int, positions: Tensor) -> Tensor:
        """[n] the columns of a sample's prompt `positions` [n], which are alive."""
        return self.places_of(sample, positions) + self.start(sample)

    def places_of(self, sample: int, positions: Tensor) -> Tensor:
        """[n] where a sample's prompt `positions` [n], which are alive, stand in its sequence."""
        source = self.source[sample]
        ranks = source.argsort()
        # exact: every position is in `source`
        return ranks[torch.searchsorted(source, positions, sorter=ranks)]


def _as_deep(rows: Tensor, depth: int) -> Tensor:
    """Rows [J, n] of a bias as [depth, n]: the last one goes on."""
    return torch.cat([rows, rows[-1:].expand(depth - len(rows), -1)])


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values that were worked out on the CPU, on the device of the model.

    A GPU is not waited for: what it had been asked for before need not be done, and the values are
    copied aside before this returns. Nothing may be read back this way.
    """
    return values.to(device, non_blocking=device.type == "cuda")


def _check_padding(row: int, alive: Tensor) -> None:
    """Raise EngineError unless `alive` [S] is padding on the left and tokens behind it."""
    if not bool(alive.any()):
        raise EngineError(f"attention_mask hides all of sample {row}; every sample needs a token")
    # a token with a hidden position behind it, which padding on the left never makes
    holes = (alive[:-1] & ~alive[1:]).nonzero()[:, 0]
    if not len(holes):
        return
    if bool(alive[-1]):
        raise EngineError(
            f"attention_mask hides position {int(holes[0]) + 1} in the middle of sample {row}; "
            "only padding on the left can be hidden: leave such tokens out of the prompt"
        )
    raise EngineError(
        "the prompt is padded on the right; set processor.tokenizer.padding_side = 'left'"
    )

"""Passage: one run of the vision encoder over images or videos, of which rows leave on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.engine.attention import Packing, packed
from prunebench.engine.encoder import Survivors
from prunebench.models.base import Unsupported


class Passage:
    """Which of a run's rows are left, and how a block's arguments follow from that.

    A batch is encoded in one run or two, images before videos; its rows are counted through both,
    and `start` is the first of this one. Blocks are given hidden states of one packed sequence
    [R, D] or of crops [C, L, D], whose R = C * L rows are counted crop by crop.

    `total` rows entered the run, of which `alive` [n] are left: counted from the run's first,
    ascending, on the CPU.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.total = 0
        self.alive = torch.empty(0, dtype=torch.int64)
        self.survivors: Survivors | None = None
        """The rows left, on the encoder's device; None while all are."""
        self.bias: Tensor | None = None
        """[total] what is added to the scores that each row's key gets, if anything."""
        self.padding: Tensor | None = None
        """[total] bool, on the encoder's device: rows that no other sees, None for no such rows."""
        self._shape: torch.Size | None = None
        # every block is given the same tables and lengths anew, so what they become is kept by
        # identity; the tensor is kept beside it, so that no other can take that identity
        self._fitted: dict[int, tuple[Tensor, Tensor | None]] = {}

    @property
    def untouched(self) -> bool:
        """Whether blocks run as if there were no stages: all rows are left, none has a bias."""
        return self.survivors is None and self.bias is None

    @property
    def crops(self) -> bool:
        """Whether sequences come as crops of one length, rather than packed."""
        if self._shape is None:
            return False
        return len(self._shape) == 3

    def enter(self, hidden: Tensor) -> Tensor:
        """[n, D] the rows left, of what a block was given: all rows, or those left."""
        rows = flat(hidden)
        if self._shape is None:
            self._shape = hidden.shape
            self.total = len(rows)
            self.alive = torch.arange(self.total)
        # all rows come again behind a block whose output is read elsewhere: see `restored`
        if self.survivors is None or len(rows) < self.total:
            return rows
        return rows.index_select(0, self.survivors.rows)

    def holds(self, rows: Tensor) -> Tensor:
        """Which of these rows of the batch are of this run."""
        end = self.start + self.total
        return (rows >= self.start) & (rows < end)

    def places(self, rows: Tensor) -> Tensor:
        """Where these rows of the batch, which are alive, stand among the rows left."""
        return torch.searchsorted(self.alive, rows - self.start)

    def drop(self, hidden: Tensor, owned: Sequence[Tensor], live: Sequence[Tensor]) -> Tensor:
        """The rows of `hidden` [n, D] that stay: those that a live token is made of, or no token.

        `owned` are the rows of the batch that tokens are made of, sample by sample, `live` those
        that live tokens are.
        """
        stays = torch.ones(self.total, dtype=torch.bool)
        for rows in owned:
            stays[self._own(rows)] = False
        # behind the owned ones: a row that a dropped token shares with a live one stays
        for rows in live:
            stays[self._own(rows)] = True
        remaining = stays[self.alive]
        if bool(remaining.all()):
            return hidden
        if not bool(remaining.any()):
            remaining[0] = True  # no block runs on nothing; what comes of this row is dropped later
        places = remaining.nonzero()[:, 0]
        self.alive = self.alive[places]
        self.survivors = Survivors(self.alive.to(hidden.device), self.total)
        # what is kept there was fitted to more rows
        self._fitted.clear()
        return hidden.index_select(0, places.to(hidden.device))

    def weigh(self, rows: Tensor, bias: Tensor, device: torch.device) -> None:
        """From here on add `bias` [K] to every score that the keys of `rows` [K, G] of the batch
        get, beside what was added before.
        """
        if self.bias is None:
            self.bias = torch.zeros(self.total, device=device)
        places = (rows - self.start).flatten().to(device)
        values = bias.detach().float().to(device)
        # [K] to [K * G]: every patch of a token gets the token's bias
        self.bias = self.bias.index_add(0, places, values.repeat_interleave(rows.shape[1]))

    def shaped(self, hidden: Tensor) -> Tensor:
        """The rows left as a block takes them: a packed sequence, or one crop in which all stand
        one behind the other.
        """
        return hidden[None] if self.crops else hidden

    def restored(self, hidden: Tensor) -> Tensor:
        """All rows in their places and in the shape in which they came, zeros where they left."""
        rows = flat(hidden)
        if self.survivors is not None:
            rows = self.survivors.spread(rows, axis=0)
        return rows if self._shape is None else rows.view(self._shape)

    @contextmanager
    def apart(self, attention: nn.Module) -> Iterator[None]:
        """Let the rows of a crop attend to that crop alone, though all crops come as one, and weigh
        keys that have a bias.

        A packed sequence knows its parts: its `cu_seqlens` say where they end.
        """
        lengths = None
        if self.crops and self._shape is not None:
            count, length = self._shape[:2]
            lengths = self._lengths(torch.arange(count + 1) * length)
        bias = self.bias
        if self.padding is not None:
            bias = torch.zeros(self.total, device=self.padding.device) if bias is None else bias
            bias = bias.masked_fill(self.padding, torch.finfo(bias.dtype).min)
        if bias is not None:
            bias = bias[self.alive.to(bias.device)]
        with packed(attention, Packing(lengths, bias)):
            yield

    def fitted(self, name: str, value: Any) -> Any:
        """A block's argument of that name, for the rows that are left."""
        # rotary tables come as a pair, cosines and sines
        if isinstance(value, tuple):
            return tuple(self.fitted(name, part) for part in value)
        if name == "max_seqlen":
            return None  # the attention finds it out itself where it needs it
        if not isinstance(value, Tensor):
            return value
        identity = id(value)
        if identity not in self._fitted:
            self._fitted[identity] = value, self._fit(name, value)
        _, fitted = self._fitted[identity]
        return fitted

    def _fit(self, name: str, value: Tensor) -> Tensor | None:
        if name == "cu_seqlens":
            lengths = self._lengths(value.cpu())
            ends = torch.tensor([0, *lengths]).cumsum(0)
            return ends.to(value)
        if name == "attention_mask":
            self.padding = _padding(value, self._shape)
            return None
        if self._shape is not None and len(self._shape) == 3:
            count, length = self._shape[:2]
            # an entry for every row of every crop: all crops come as one now
            if value.dim() > 2 and value.shape[:2] == (count, length):
                rows = value.flatten(0, 1)
                if self.survivors is not None:
                    rows = rows.index_select(0, self.survivors.rows)
                return rows[None]
            # a table for the rows of one crop: all crops come as one now
            if value.shape[:1] == (length,) and count > 1:
                value = value.repeat(count, *[1] * (value.dim() - 1))
        # tables with an entry for every row of the run, such as rotary ones, lose the same rows
        if self.survivors is None or value.shape[:1] != (self.total,):
            return value
        return value.index_select(0, self.survivors.rows)

    def _lengths(self, bounds: Tensor) -> list[int]:
        """How many rows are left between each bound and the next, where any are."""
        places = torch.searchsorted(self.alive, bounds)
        counts: list[int] = places.diff().tolist()
        return [count for count in counts if count]

    def _own(self, rows: Tensor) -> Tensor:
        """Those of these rows of the batch that are of this run, counted from its first."""
        own = rows[self.holds(rows)]
        return own - self.start


def flat(hidden: Tensor) -> Tensor:
    """[n, D] the rows of hidden states of any shape [..., D]."""
    return hidden.reshape(-1, hidden.shape[-1])


def _padding(mask: Tensor, shape: torch.Size | None) -> Tensor | None:
    """[total] bool: the rows of crops of that shape that a mask [crops, 1, L, L], boolean or
    additive, hides from all rows of their crop; None where it hides none.

    Raises Unsupported for a mask that hides rows from some and not from others.
    """
    hides = mask != 0 if mask.is_floating_point() else mask == 0
    if not bool(hides.any()):
        return None
    of_keys = hides.all(-2)
    is_padding = shape is not None and hides.shape[:1] == shape[:1] and len(shape) == 3
    if not is_padding or bool((hides != of_keys[..., None, :]).any()):
        raise Unsupported(
            "images that a mask keeps apart inside the vision encoder, several in one sequence, "
            "cannot be pruned there"
        )
    return of_keys.flatten()

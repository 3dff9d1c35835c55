"""Steering: which visual entries of the caches an answer's steps attend to, as the method says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prunebench.engine.attention import Heads, unwatch, watch
from prunebench.engine.masks import visible_keys
from prunebench.engine.setup import Setup
from prunebench.engine.stream import EngineError, Stream, sent
from prunebench.pruner import contained
from prunebench.sites import Site
from prunebench.steps import DecodingStep

Hidden = list[Tensor]
"""By sample, the prompt positions that a step does not attend to."""


class Steering:
    """The method's word on every step of one batch's answer, from one layer on.

    What it hides is hidden by a mask, for that step alone; nothing leaves a cache.
    """

    def __init__(
        self,
        setup: Setup,
        site: Site,
        stream: Stream,
        visual: Tensor,
        memos: Sequence[dict[str, Any]],
    ) -> None:
        self.setup = setup
        self.site = site
        self.stream = stream
        """What is in the cache of the layer before the site."""
        self.visual = visual
        """[B, S] bool the prompt's visual positions."""
        self.memos = memos
        self.number = 0
        """How many steps have asked the method."""
        self._hidden: Hidden | None = None
        self._unseen: dict[int, Tensor] = {}

    def start(self) -> None:
        """Look at the layer before the site from now on."""
        watch(self.setup.attention(self.site.layer - 1), self._ask)

    def end(self) -> None:
        """Look no more."""
        unwatch(self.setup.attention(self.site.layer - 1))

    def begin_step(self) -> None:
        """Another step begins, at which nothing is hidden yet."""
        self._hidden = None
        self._unseen.clear()

    def unseen(self, stream: Stream, device: torch.device) -> Tensor | None:
        """[B, width] bool the columns of a layer's stream that this step does not see; None where
        it sees all.
        """
        if self._hidden is None:
            return None
        if id(stream) not in self._unseen:
            columns = torch.zeros(len(stream.source), stream.width, dtype=torch.bool)
            for row, (source, hidden) in enumerate(zip(stream.source, self._hidden, strict=True)):
                columns[row, stream.start(row) :] = torch.isin(source, hidden)
            self._unseen[id(stream)] = sent(columns, device)
        return self._unseen[id(stream)]

    def _ask(self, heads: Heads) -> None:
        """Ask the method of every sample; called with the heads of the layer before the site."""
        nothing = torch.empty(0, dtype=torch.int64)
        hidden: Hidden = []
        for row in range(len(self.stream.source)):
            rejected = self._of_sample(row, heads)
            hidden.append(nothing if rejected is None else rejected)
        self.number += 1
        if any(len(positions) for positions in hidden):
            self._hidden = hidden

    def _of_sample(self, row: int, heads: Heads) -> Tensor | None:
        """[n] the prompt positions that a sample's step does not attend to; None for none."""
        setup, stream, device = self.setup, self.stream, heads.key.device
        sample, live = setup.trace.samples[row], stream.visual(row, self.visual[row])
        total = int(heads.key.shape[2])
        with setup.trace.selecting(device, [row], step=True):
            fresh = max(0, total - stream.width)
            valid = visible_keys(stream, fresh, device)[row, -total:]
            # a layer with a window has let go of the keys behind it
            columns = live.columns - (stream.width + fresh - total)
            in_cache = columns >= 0
            attention = heads.last(row, valid).index_select(1, sent(columns[in_cache], device))
        if not bool(in_cache.any()):
            return None
        setup.finite.look(attention[None], f"attention of a decoding step at {self.site}", [row])
        index = live.ordinal[in_cache]
        step = DecodingStep(
            index.clone(), attention, sample.available, self.site, self.number, self.memos[row]
        )
        name = setup.ready.name
        with setup.trace.selecting(device, [row], step=True), contained(name, "decode"):
            answer = setup.ready.pruner.decode(step)
        if answer is None:
            sample.attended.append(len(index))
            return None
        choice = _checked(answer, len(index), name)
        sample.attended.append(len(choice))
        rejected = torch.ones(len(index), dtype=torch.bool)
        rejected[choice] = False
        return stream.source[row][live.places[in_cache][rejected]]


def _checked(answer: Any, count: int, name: str) -> Tensor:
    """[K] a method's answer to a step with `count` entries; raises EngineError for none."""
    if not isinstance(answer, Tensor):
        raise EngineError(
            f"{name}.decode returned a {type(answer).__name__}; it must return an index or None"
        )
    index = answer.detach().cpu()
    fine = index.dtype == torch.int64 and index.dim() == 1
    in_range = bool(((index >= 0) & (index < count)).all())
    if not fine or not in_range or len(index.unique()) < len(index):
        raise EngineError(
            f"{name}.decode returned {index.dtype} {index.tolist()[:8]}; it must be int64 [K], "
            f"unique and in 0..{count - 1}"
        )
    return index

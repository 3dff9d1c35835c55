"""Selection: a method's own work at real size, counted while it chooses among drawn tokens.

Matrix products of a method whose work follows from shapes are counted and not worked out: numbers
are drawn in their place. A method that says nothing of its work does it, on values that are drawn,
so that its count is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunebench.budget import Budget, Stage
from prunebench.course import Course
from prunebench.engine.counter import counter
from prunebench.engine.ready import Ready
from prunebench.regions import regions_of
from prunebench.signals import CLIP, ENCODER, Signal
from prunebench.sites import Part, Site
from prunebench.sizes import Sizes
from prunebench.tokens import Keep, Layout, VisualTokens

QUESTION = "What is in the picture, and how many things are there?"
"""What is asked: some methods read words, and how many there are decides what they do."""


LAST = frozenset({Signal.LAST_QUERY_ATTENTION, Signal.NEXT_QUERY_ATTENTION})
TEXT = frozenset({Signal.TEXT_ATTENTION, Signal.NEXT_TEXT_ATTENTION})
ROWS = LAST | TEXT | {Signal.VISUAL_ATTENTION}
"""Signals of attention, drawn here: of thousands of queries a test's way takes minutes."""


FEW = 512
"""Queries whose rows of attention are drawn each by itself."""


class Products(TorchDispatchMode):
    """A context that counts matrix products by torch's own formulas; where `is_drawn`, the most
    common ones are not worked out: numbers between 0 and 1 of the right shape come of them.
    """

    SHAPES: ClassVar[Mapping[Any, Callable[..., tuple[int, ...]]]] = {
        torch.ops.aten.mm.default: lambda one, other: (one.shape[0], other.shape[1]),
        torch.ops.aten.bmm.default: lambda one, other: (*one.shape[:2], other.shape[2]),
    }

    def __init__(self, is_drawn: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_drawn, self.flops = is_drawn, 0
        self.formulas = counter().flop_registry

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to be kept out of compilation, for that imports torch's compiler: two seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None:
            return func(*args, **kwargs)
        out = self._result(func, args, kwargs)
        self.flops += formula(*args, **kwargs, out_val=out)
        return out

    def _result(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        shape = self.SHAPES.get(func)
        if not self.is_drawn or shape is None or not args[0].is_floating_point():
            return func(*args, **kwargs)
        return torch.rand(shape(*args), dtype=args[0].dtype)


@dataclass(frozen=True)
class Room:
    """Where a method chooses: how large what it is shown is.

    `visual` [S] says which positions of the prompt are visual; `token_width` are the channels of a
    token inside the vision encoder, where it is several patches; `encoder` are the encoder's sizes,
    `language` those of the language model.
    """

    layout: Layout
    visual: Tensor
    language: Sizes
    encoder: Sizes
    token_width: int

    def places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Where the visual tokens of `index` [n] and all text stand among what is alive."""
        alive = ~self.visual
        alive[self.visual.nonzero()[index, 0]] = True
        return self.visual[alive].nonzero()[:, 0], (~self.visual[alive]).nonzero()[:, 0]


@dataclass(frozen=True)
class Choice:
    """What a method did: FLOPs, the survivors by site, and the stages as they were in the end."""

    flops: int
    kept: Mapping[Site, Tensor]
    stages: tuple[Stage, ...]


def choose(
    ready: Ready, stages: Sequence[Stage], room: Room, terms: tuple[Budget | None, int]
) -> Choice:
    """Walk through the stages; `terms` are the budget and the number of LLM layers."""
    index = torch.arange(len(room.layout))
    memo: dict[str, Any] = {}
    kept: dict[Site, Tensor] = {}
    planned = list(stages)
    flops = 0
    for number in range(len(planned)):
        stage = planned[number]
        fixed = _fixed(room.layout, index, stage)
        offered = index[~torch.isin(index, fixed)]
        due = replace(stage, keep=max(0, stage.keep - len(fixed)))
        if due.keep and len(offered):
            tokens = _tokens(ready, room, stage.site, offered, memo)
            if ready.pruner.replans:
                past = tuple(replace(one, keep=len(kept[one.site])) for one in planned[:number])
                ahead = tuple(planned[number:])
                course = Course(terms[0], len(room.layout), terms[1], past, ahead)
                with Products(ready.by_shape) as products:
                    planned[number:] = ready.pruner.replan(tokens, course)
                flops += products.flops
                due = replace(due, keep=max(0, planned[number].keep - len(fixed)))
            with Products(ready.by_shape) as products, torch.no_grad():
                keep = ready.pruner.prune(tokens, due) if due.keep else _nothing()
            flops += products.flops
            offered = offered[keep.index.cpu()]
        else:
            offered = offered[:0]
        index = torch.cat([offered, fixed]).sort().values
        kept[stage.site] = index
    return Choice(flops, kept, tuple(planned))


def _fixed(layout: Layout, index: Tensor, stage: Stage) -> Tensor:
    """Tokens that no method is asked about: newlines, inside the encoder, unless all leave."""
    if stage.site.part is not Part.VISION or stage.keep == 0:
        return index[:0]
    return index[layout.newline[index]]


def _nothing() -> Keep:
    return Keep(torch.empty(0, dtype=torch.int64))


def _tokens(
    ready: Ready, room: Room, site: Site, index: Tensor, memo: dict[str, Any]
) -> VisualTokens:
    """What a stage is shown, drawn."""
    inside = site.part is Part.VISION
    here = ready.reads.signals_at(site) - {Signal.TILES}
    blocks = ready.blocks_at(site)
    signals = {}
    for signal in here:
        sizes = replace(
            room.encoder if signal in ENCODER else room.language,
            tokens=len(index),
            blocks=_count(ready, signal, site, blocks),
        )
        signals[signal] = _example(ready, signal, sizes, room.layout)
    signals |= {signal: value for signal, value in _places(room, index).items() if signal in here}
    width = room.token_width if inside else room.language.width
    sizes = replace(room.language, tokens=len(index))
    return VisualTokens(
        features=sizes.normal("features", len(index), width),
        layout=room.layout,
        index=index,
        site=site,
        question=QUESTION,
        memo=memo,
        signals=signals,
        absent=frozenset(ready.reads.signals - frozenset(signals) - {Signal.TILES}),
    )


def _places(room: Room, index: Tensor) -> dict[Signal, Tensor]:
    """The signals that say where tokens and text stand, which are no drawn numbers."""
    visual, text = room.places(index)
    return {Signal.VISUAL_PLACES: visual, Signal.TEXT_PLACES: text}


def _count(ready: Ready, signal: Signal, site: Site, blocks: Mapping[Signal, Any]) -> int:
    """Of how many blocks or layers a signal has values."""
    if signal is Signal.TRANSITIONS:
        return len(ready.reads.layers_at(signal, site))
    return len(blocks[signal]) if signal in blocks else 1


def _example(ready: Ready, signal: Signal, sizes: Sizes, layout: Layout) -> Any:
    """Values of a signal, as many as there would be."""
    if signal is Signal.TEXT_PIECES:
        return tuple(islice(cycle(QUESTION.split()), sizes.text))
    if signal in ROWS:
        return _attention(signal, sizes)
    if signal in CLIP:
        texts = len(ready.reads.texts(QUESTION))
        tiles = len(regions_of(layout, ready.reads.regions).tiles)
        sizes = replace(sizes, texts=texts, tiles=tiles)
        if signal is Signal.CLIP_TEXT_TOKENS:
            return sizes.normal("CLIP text tokens", texts, 77, sizes.clip_width)
    return signal.row.example(sizes)


def _attention(signal: Signal, sizes: Sizes) -> Tensor:
    """[H, N] or [H, Q, N] rows of attention; of many queries all have the same."""
    last = torch.rand(sizes.heads, sizes.tokens).softmax(-1)
    if signal in LAST:
        return last
    queries = sizes.behind if signal in TEXT else sizes.tokens
    if queries > FEW:
        return last[:, None].expand(-1, queries, -1)
    return torch.rand(sizes.heads, queries, sizes.tokens).softmax(-1)

"""Ready: a method bound to a model, made once a cell; whatever works with the two takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunebench.border.text import one_line
from prunebench.budget import Stage
from prunebench.engine.counter import Tally
from prunebench.engine.readings import Queries
from prunebench.models.base import Family, Unsupported
from prunebench.pruner import MethodError, Pruner, contained, works_by_shape
from prunebench.reads import Reads
from prunebench.registry import build, name_of
from prunebench.signals import BEFORE, BEHIND, CLIP, CLIP_CROPS, PROBE, SEEN, Signal
from prunebench.sites import Part, Site, llm

Blocks = tuple[int | str, ...]
"""Encoder blocks counted from 0, or the name of a CLIP."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A method that a model can serve: prepared, with what it reads and where in this model.

    `blocks` names, for every signal of the vision encoder, the blocks it is read in, or the CLIP
    that gives it; `clip` is the CLIP that any of the method's signals come from, None where it asks
    none.
    """

    pruner: Pruner
    reads: Reads = field(default_factory=Reads)
    blocks: Mapping[Signal, Blocks] = field(default_factory=dict)
    clip: str | None = None
    beside: bool = False
    """Whether that CLIP is shown the pictures themselves, which the caller gives."""
    feature_block: int | None = None
    """The vision block whose output the projector reads; None where there is no encoder."""
    depth: int = 0
    """How many layers the decoder has."""
    stateful: frozenset[int] = frozenset()
    """Those of its layers that keep a state in place of keys and values."""
    by_shape: bool = False
    """Whether the method's own FLOPs depend on nothing but shapes."""
    port: str = ""
    """What stands in for something that the model lacks; empty where a method runs as published."""
    queries: Queries = Queries.ALL
    """Over which queries of the encoder the attention that tokens receive is averaged."""
    tally: Tally = field(default_factory=Tally)
    """FLOPs of the method's work and of reading for it, as far as they are known already."""

    @property
    def name(self) -> str:
        """What the method is called."""
        return name_of(self.pruner)

    @property
    def needs(self) -> frozenset[Signal]:
        """All signals that the method reads, wherever, and what its CLIP beside the model sees."""
        return self.reads.signals | ({Signal.PICTURES} if self.beside else frozenset())

    def blocks_at(self, site: Site) -> dict[Signal, Blocks]:
        """The signals of the encoder that a stage at a site is shown, with the blocks they are read
        in.

        Inside the encoder these are blocks that have run; a method that names none means the one
        before the site.
        """
        here = self.reads.signals_at(site)
        blocks = {signal: places for signal, places in self.blocks.items() if signal in here}
        if site.part is not Part.VISION:
            return blocks
        for signal in blocks.keys() - CLIP:
            if not self.reads.blocks.get(signal):
                blocks[signal] = (site.layer - 1,)
            elif max(int(block) for block in blocks[signal]) >= site.layer:
                del blocks[signal]
        return blocks

    def check_attention(self, site: Site) -> None:
        """Raise Unsupported where a stage at that site reads the attention of a layer that has
        none.
        """
        if site.part is not Part.LLM:
            return
        here = self.reads.signals_at(site)
        # how far before the site the layer is that is read
        for signals, back in ((BEFORE | PROBE, 1), (BEHIND, 0)):
            layer = site.layer - back
            if not here & signals or layer not in self.stateful:
                continue
            places = [n for n in range(1, self.depth) if n - back not in self.stateful]
            nearest = min(places, key=lambda place: abs(place - site.layer), default=None)
            way_out = f"; the nearest site where there is some is {llm(nearest)}" if nearest else ""
            raise self._stateless(min(here & signals), site, layer, way_out)
        if Signal.TRANSITIONS not in here:
            return
        for layer in self.reads.layers_at(Signal.TRANSITIONS, site):
            if layer in self.stateful:
                raise self._stateless(Signal.TRANSITIONS, site, layer)

    def _stateless(self, signal: Signal, site: Site, layer: int, way_out: str = "") -> Unsupported:
        """The error of a method that reads attention where a layer keeps a state."""
        attending = sorted({*range(self.depth)} - self.stateful)
        return Unsupported(
            f"{self.name} reads {signal} at {site}, and layer {layer} keeps a state instead of "
            f"attending to tokens (linear attention, convolution), which layers {attending} do"
            f"{way_out}"
        )

    def inside_encoder(self, plan: Sequence[Stage] | None = None) -> bool:
        """Whether it prunes inside the vision encoder.

        The caller's plan says so, or else where its site lies.
        """
        if plan is not None:
            return any(stage.site.part is Part.VISION for stage in plan)
        with contained(self.name, "site"):
            return self.pruner.site().part is Part.VISION


def make_ready(
    parts: Family,
    model: nn.Module,
    pruner: Pruner | str,
    elsewhere: frozenset[Signal] = frozenset(),
) -> Ready:
    """Prepare a method for a model, once; signals from `elsewhere` need not come from it.

    Raises Unsupported where the model cannot serve the method, and whatever the method itself
    raises.
    """
    method = build(pruner) if isinstance(pruner, str) else pruner
    name, facts = name_of(method), parts.facts(model)
    with contained(name, "prepared"):
        prepared = method.prepared(facts)
    if not isinstance(prepared, Pruner):
        kind = type(prepared).__name__
        raise TypeError(f"{name}.prepared gave a {kind}; it must give the method, ready")
    outside = elsewhere | _of_named_clip(prepared, parts)
    reason = refusal(prepared, parts, outside)
    if reason is not None:
        raise Unsupported(reason)
    stand_ins = stand_ins_in(prepared, parts, outside)
    reads = reads_of(prepared).with_stand_ins(stand_ins)
    signals = reads.signals - elsewhere
    clip = _clip_of(name, reads, parts, model) if signals & CLIP else None
    # an encoder that is a CLIP's hands on its own crops, but is shown no regions
    beside = bool(signals & CLIP_CROPS) and (not parts.clipped or reads.regions > 1)
    blocks: dict[Signal, Blocks] = {}
    for signal in sorted(signals & SEEN - (CLIP_CROPS if beside else frozenset())):
        if signal in CLIP:
            blocks[signal] = (str(clip),)
        else:
            blocks[signal] = _blocks_of(name, reads, signal, parts, model)
    _check_layers(name, reads, facts.layers)
    return Ready(
        prepared,
        reads,
        blocks,
        clip,
        beside,
        facts.feature_block,
        facts.layers,
        stateful=facts.stateful,
        by_shape=works_by_shape(prepared),
        port=_port(name, prepared, stand_ins),
        queries=Queries.without(None if reads.cls_query_counts else parts.cls_row),
    )


def _port(name: str, pruner: Pruner, stand_ins: Mapping[Signal, Signal | None]) -> str:
    """What stands in for something that the model lacks, in words."""
    needs = needs_of(pruner)
    used = [(signal, other) for signal, other in stand_ins.items() if signal in needs]
    with contained(name, "port"):
        own = pruner.port
    texts = [f"{other} in place of {signal}" for signal, other in used if other is not None]
    missing = [str(signal) for signal, other in used if other is None]
    if missing:
        texts.append(f"without {' and '.join(missing)}")
    return "; ".join([*texts, *([own] if own else [])])


def reads_of(pruner: Pruner) -> Reads:
    """What a method reads; raises MethodError where it names something else."""
    # first, because the default `reads` is made of `needs`: a bad one is named as such
    needs_of(pruner)
    name = name_of(pruner)
    with contained(name, "reads"):
        reads = pruner.reads
    if not isinstance(reads, Reads):
        raise MethodError(one_line(f"{name}.reads is {reads!r}; it must be a Reads"))
    _check_signals(f"{name}.reads.signals", reads.signals)
    return reads


def stand_ins_in(
    pruner: Pruner, parts: Family, elsewhere: frozenset[Signal] = frozenset()
) -> dict[Signal, Signal | None]:
    """Of a method's stand-ins those for signals that a family lacks and that do not come from
    `elsewhere`; raises MethodError where the method names none.
    """
    name = name_of(pruner)
    with contained(name, "stand_ins"):
        stand_ins = dict(pruner.stand_ins)
    _check_signals(f"{name}.stand_ins", {*stand_ins, *stand_ins.values()} - {None})
    lacking = {}
    for signal, stand_in in stand_ins.items():
        if signal not in elsewhere and parts.lacks(signal) is not None:
            lacking[signal] = stand_in
    return lacking


def needs_of(pruner: Pruner) -> frozenset[Signal]:
    """The signals that a method reads; raises MethodError where it names something else."""
    name = name_of(pruner)
    with contained(name, "needs"):
        needs = pruner.needs
    _check_signals(f"{name}.needs", needs)
    return frozenset(needs)


def _check_signals(member: str, signals: Any) -> None:
    """Raise MethodError for what is no set of signals."""
    is_set = isinstance(signals, frozenset | set)
    if not is_set or not all(isinstance(signal, Signal) for signal in signals):
        raise MethodError(one_line(f"{member} is {signals!r}; it must be a frozenset of Signal"))


def refusal(
    pruner: Pruner, parts: Family, elsewhere: frozenset[Signal] = frozenset()
) -> str | None:
    """Why a family cannot serve a method, whatever the budget; None where it can.

    Signals from `elsewhere` need no family.
    """
    name = name_of(pruner)
    stand_ins = stand_ins_in(pruner, parts, elsewhere)
    needs = {stand_ins.get(signal, signal) for signal in needs_of(pruner)} - elsewhere
    # in the order of their declaration, so that the reason does not depend on spelling
    for signal in Signal:
        reason = parts.lacks(signal) if signal in needs else None
        if reason is not None:
            return f"{name} needs {signal}; {reason}"
    with contained(name, "site"):
        site = pruner.site()
    if site.part is Part.VISION and parts.vision_inputs == ():
        return f"{name} prunes at {site}; a decoder by itself has no vision encoder"
    if site.part is Part.PIXELS and not parts.resizes:
        return (
            f"{name} shrinks the image, and {parts.name} scales every image to its own resolution"
        )
    return None


def union(methods: Sequence[Ready]) -> dict[Signal, Blocks]:
    """Every encoder signal that any of the methods reads, with all its blocks."""
    union_blocks: dict[Signal, set[int | str]] = {}
    for method in methods:
        for signal, blocks in method.blocks.items():
            union_blocks.setdefault(signal, set()).update(blocks)
    # as text: where others have a block's number, a CLIP has its name
    return {signal: tuple(sorted(blocks, key=str)) for signal, blocks in union_blocks.items()}


def _blocks_of(name: str, reads: Reads, signal: Signal, family: Family, model: nn.Module) -> Blocks:
    """The encoder blocks in which a method reads a signal, counted from 0.

    Raises Unsupported where there is no such block.
    """
    depth = len(family.blocks(model))
    blocks = reads.blocks.get(signal) or (family.feature_block(model),)
    for block in blocks:
        if not -depth <= block < depth:
            raise Unsupported(
                f"{name} reads {signal} in vision block {block}; {family.name}'s encoder has "
                f"blocks 0..{depth - 1}"
            )
    return tuple(block % depth for block in blocks)


def _check_layers(name: str, reads: Reads, depth: int) -> None:
    """Raise Unsupported where a method reads a layer of the language model that there is not."""
    for signal, layers in reads.layers.items():
        strange = [layer for layer in layers if not 0 <= layer < depth]
        if strange:
            raise Unsupported(
                f"{name} reads {signal} in layer {strange[0]}; the model has layers 0..{depth - 1}"
            )


def _of_named_clip(pruner: Pruner, parts: Family) -> frozenset[Signal]:
    """What a CLIP that the method names gives beside a model, whatever its encoder."""
    # not asked of a bare decoder: it has no pictures, and a method may not be ready to say
    if parts.vision_inputs == () or not needs_of(pruner) & CLIP:
        return frozenset()
    return CLIP if reads_of(pruner).clip else frozenset()


def _clip_of(name: str, reads: Reads, family: Family, model: nn.Module) -> str:
    """The CLIP that a method's CLIP signals come from; raises Unsupported for none."""
    clip = reads.clip or family.clip(model)
    if clip is None:
        raise Unsupported(
            f"{name} needs a CLIP, and nothing says which the encoder of this {family.name} came "
            "from; name it with clip=..."
        )
    return clip

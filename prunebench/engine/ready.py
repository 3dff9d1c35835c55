"""Ready: a method bound to a model, made once a cell; whatever works with the two takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunebench.border.text import one_line
from prunebench.budget import Stage
from prunebench.engine.counter import Tally
from prunebench.models.base import Family, Unsupported
from prunebench.pruner import MethodError, Pruner, contained, works_by_shape
from prunebench.reads import Reads
from prunebench.registry import build, name_of
from prunebench.signals import BEFORE, BEHIND, CLIP, PROBE, SEEN, Signal
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
    feature_block: int | None = None
    """The vision block whose output the projector reads; None where there is no encoder."""
    depth: int = 0
    """How many layers the decoder has."""
    stateful: frozenset[int] = frozenset()
    """Those of its layers that keep a state in place of keys and values."""
    by_shape: bool = False
    """Whether the method's own FLOPs depend on nothing but shapes."""
    tally: Tally = field(default_factory=Tally)
    """FLOPs of the method's work and of reading for it, as far as they are known already."""

    @property
    def name(self) -> str:
        """What the method is called."""
        return name_of(self.pruner)

    @property
    def needs(self) -> frozenset[Signal]:
        """All signals that the method reads, wherever."""
        return self.reads.signals

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
            attending = sorted({*range(self.depth)} - self.stateful)
            raise Unsupported(
                f"{self.name} reads {min(here & signals)} at {site}, and layer {layer} keeps a "
                "state instead of attending to tokens (linear attention, convolution), which "
                f"layers {attending} do{way_out}"
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
    reason = refusal(prepared, parts, elsewhere)
    if reason is not None:
        raise Unsupported(reason)
    reads = reads_of(prepared)
    signals = reads.signals - elsewhere
    clip = _clip_of(name, reads, parts, model) if signals & CLIP else None
    blocks: dict[Signal, Blocks] = {}
    for signal in sorted(signals & SEEN):
        if signal in CLIP:
            blocks[signal] = (str(clip),)
        else:
            blocks[signal] = _blocks_of(name, reads, signal, parts, model)
    return Ready(
        prepared,
        reads,
        blocks,
        clip,
        facts.feature_block,
        facts.layers,
        facts.stateful,
        works_by_shape(prepared),
    )


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
    needs = needs_of(pruner) - elsewhere
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


def _clip_of(name: str, reads: Reads, family: Family, model: nn.Module) -> str:
    """The CLIP that a method's CLIP signals come from; raises Unsupported for none."""
    clip = reads.clip or family.clip(model)
    if clip is None:
        raise Unsupported(
            f"{name} needs a CLIP, and nothing says which the encoder of this {family.name} came "
            "from"
        )
    return clip

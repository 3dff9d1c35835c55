"""Ready: a method bound to a model. It is made once a cell, and whatever works with the two takes
it from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from prunebench.border.text import one_line
from prunebench.budget import Stage
from prunebench.models.base import Family, Unsupported
from prunebench.pruner import MethodError, Pruner, contained
from prunebench.registry import build, name_of
from prunebench.signals import CLIP, SEEN, Signal
from prunebench.sites import Part

Blocks = tuple[int | str, ...]
"""Encoder blocks counted from 0, or the name of a CLIP."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A method that a model can serve: prepared, with the places where its signals are read.

    `reads` names, for every signal of the vision encoder, the blocks it is read in, or the CLIP
    that gives it; `clip` is the CLIP that any of the method's signals come from, None where it asks
    none.
    """

    pruner: Pruner
    reads: Mapping[Signal, Blocks] = field(default_factory=dict)
    clip: str | None = None
    feature_block: int | None = None
    """The vision block whose output the projector reads; None where there is no encoder."""
    needs: frozenset[Signal] = field(init=False)
    """The signals that the method reads, asked once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", needs_of(self.pruner))

    @property
    def name(self) -> str:
        """What the method is called."""
        return name_of(self.pruner)

    def inside_encoder(self, plan: Sequence[Stage] | None = None) -> bool:
        """Whether it prunes inside the vision encoder: where the caller's plan says so, or else
        where its site lies.
        """
        if plan is not None:
            return any(stage.site.part is Part.VISION for stage in plan)
        with contained(self.name, "site"):
            return self.pruner.site().part is Part.VISION


def needs_of(pruner: Pruner) -> frozenset[Signal]:
    """The signals that a method reads; raises MethodError where it names something else."""
    name = name_of(pruner)
    with contained(name, "needs"):
        needs = pruner.needs
    if not isinstance(needs, frozenset | set) or not all(
        isinstance(signal, Signal) for signal in needs
    ):
        raise MethodError(one_line(f"{name}.needs is {needs!r}; it must be a frozenset of Signal"))
    return frozenset(needs)


def make_ready(
    parts: Family,
    model: nn.Module,
    pruner: Pruner | str,
    known: frozenset[Signal] = frozenset(),
) -> Ready:
    """Prepare a method for a model, once; signals that are `known` need not come from it.

    Raises Unsupported where the model cannot serve the method, and whatever the method itself
    raises.
    """
    method = build(pruner) if isinstance(pruner, str) else pruner
    facts = parts.facts(model)
    with contained(name_of(method), "prepared"):
        prepared = method.prepared(facts)
    if not isinstance(prepared, Pruner):
        raise TypeError(
            f"{name_of(method)}.prepared gave a {type(prepared).__name__}; it must give the method, ready"
        )
    reason = refusal(prepared, parts, known)
    if reason is not None:
        raise Unsupported(reason)
    asked = needs_of(prepared) - known
    clip = _clip(parts, model, prepared) if asked & CLIP else None
    reads: dict[Signal, Blocks] = {}
    for signal in sorted(asked & SEEN):
        reads[signal] = (str(clip),) if signal in CLIP else _blocks(parts, model, prepared, signal)
    return Ready(prepared, reads, clip, facts.feature_block)


def refusal(pruner: Pruner, parts: Family, known: frozenset[Signal] = frozenset()) -> str | None:
    """Why a family cannot serve a method, whatever the budget; None where it can. Signals that are
    `known` need no family.
    """
    name = name_of(pruner)
    with contained(name, "needs"):
        needs = pruner.needs
    for signal in (
        Signal
    ):  # in the order of their declaration, so that the reason does not depend on spelling
        if signal not in needs or signal in known:
            continue
        reason = parts.lacks(signal)
        if reason is not None:
            return f"{name} needs {signal}; {reason}"
    with contained(name, "site"):
        part = pruner.site().part
    if part is Part.VISION and parts.vision_inputs == ():
        return f"{name} prunes at {pruner.site()}; a decoder by itself has no vision encoder"
    if part is Part.PIXELS and not parts.resizes:
        return (
            f"{name} shrinks the image, and {parts.name} scales every image to its own resolution"
        )
    return None


def union(methods: Sequence[Ready]) -> dict[Signal, Blocks]:
    """Every encoder signal that any of the methods reads, with all its blocks."""
    blocks: dict[Signal, set[int | str]] = {}
    for method in methods:
        for signal, places in method.reads.items():
            blocks.setdefault(signal, set()).update(places)
    return {signal: tuple(sorted(places, key=str)) for signal, places in blocks.items()}


def _blocks(family: Family, model: nn.Module, pruner: Pruner, signal: Signal) -> Blocks:
    """The encoder blocks in which a method reads a signal; raises Unsupported where there is no
    such block.
    """
    depth = len(family.blocks(model))
    with contained(name_of(pruner), "blocks"):
        asked = pruner.blocks(signal) or (family.feature_block(model),)
    beyond = [block for block in asked if not -depth <= block < depth]
    if beyond:
        raise Unsupported(
            f"{name_of(pruner)} reads {signal} in vision block {beyond[0]}; {family.name}'s encoder has blocks 0..{depth - 1}"
        )
    return tuple(block % depth for block in asked)


def _clip(family: Family, model: nn.Module, pruner: Pruner) -> str:
    """The CLIP that a method's CLIP signals come from; raises Unsupported where nobody names one."""
    with contained(name_of(pruner), "clip"):
        name = pruner.clip or family.clip(model)
    if name is None:
        raise Unsupported(
            f"{name_of(pruner)} needs a CLIP, and nothing says which the encoder of this {family.name} came from"
        )
    return name

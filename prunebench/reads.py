"""Reads: what a method looks at, as one thing that composes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from prunebench.signals import CLIP, CLIP_TEXTS, Signal
from prunebench.sites import Part, Site, llm

Place = Site | Part
"""One seam, or all seams of a part of the model."""


def question_alone(question: str) -> tuple[str, ...]:
    """The one text that CLIP is asked about where a method names no others."""
    return (question,)


@dataclass(frozen=True)
class Reads:
    """The signals that a method looks at, and what there is to say of how they are read.

    `blocks` names, for signals of the vision encoder, the blocks in which they are observed, from 0
    or from -1 backwards; without an entry it is the block whose output the projector reads, and at
    a stage inside the encoder the block before it. `layers` names, for Signal.TRANSITIONS, layers
    of the language model, from 0; a stage is shown those that lie before it, in ascending order,
    and without an entry the last one before it. `cls_query_counts` says whether the query of a CLS
    token is among those over which Signal.RECEIVED_ATTENTION averages. `texts` makes of the
    question the texts behind Signal.CLIP_TEXT; `clip` is the CLIP behind all CLIP signals, a hub id
    or a folder, empty for the one that the model's encoder came from. With `regions` above 1,
    Signal.CLIP_TILES is of the tiles that `regions_of` makes of the layout.

    `probe` gives what a probe token behind the prompt is, [L, D]: row 0 enters layer 0, the others
    are added before their layers. It runs through the layers before a stage, sees every token and
    is seen by none; its attention is what the PROBE signals show. `lora` is a folder with a
    low-rank adapter in peft's layout, which the model wears while the method works.

    `places` restricts signals to some of the stages, those at a site or in a part of the model; the
    others are shown at every stage where they exist. What a stage does not read is not computed for
    it. Two of these compose with `|`, so that a method which holds others forwards one thing.
    """

    signals: frozenset[Signal] = frozenset()
    blocks: Mapping[Signal, tuple[int, ...]] = field(default_factory=dict)
    layers: Mapping[Signal, tuple[int, ...]] = field(default_factory=dict)
    cls_query_counts: bool = True
    texts: Callable[[str], tuple[str, ...]] = question_alone
    clip: str = ""
    regions: int = 1
    probe: Callable[[], Tensor] | None = None
    lora: Path | None = None
    places: Mapping[Signal, frozenset[Place]] = field(default_factory=dict)

    def __or__(self, other: Reads) -> Reads:
        """What two methods read together.

        Raises ValueError where they want to be shown different things by one name.
        """
        self._check_places(other)
        self._check_readings(other)
        counting = self if Signal.RECEIVED_ATTENTION in self.signals else other
        return Reads(
            signals=self.signals | other.signals,
            blocks={**self.blocks, **other.blocks},
            layers={**self.layers, **other.layers},
            cls_query_counts=counting.cls_query_counts,
            texts=self.texts if self.signals & CLIP_TEXTS else other.texts,
            clip=self.clip if self.signals & CLIP else other.clip,
            regions=self.regions if Signal.CLIP_TILES in self.signals else other.regions,
            probe=self.probe if self.probe is not None else other.probe,
            lora=self.lora if self.lora is not None else other.lora,
            places=self._joined_places(other),
        )

    def _check_readings(self, other: Reads) -> None:
        """Raise ValueError where two methods want to be shown different things by one name."""
        received = Signal.RECEIVED_ATTENTION
        counts = {self.cls_query_counts, other.cls_query_counts}
        if received in self.signals & other.signals and len(counts) > 1:
            raise ValueError(f"{received} cannot be read with and without the CLS token's query")
        # only where both ask one: an empty name is a choice, too, the model's own CLIP
        both = self.signals & CLIP and other.signals & CLIP
        if both and self.clip != other.clip:
            raise ValueError(f"one CLIP is asked, not {self.clip!r} and {other.clip!r}")
        tiles = Signal.CLIP_TILES
        if tiles in self.signals & other.signals and self.regions != other.regions:
            raise ValueError(f"{tiles} cannot be read in {self.regions} and {other.regions} parts")
        both = self.signals & CLIP_TEXTS and other.signals & CLIP_TEXTS
        if both and self.texts != other.texts:
            raise ValueError(f"{Signal.CLIP_TEXT} cannot be read of two methods' texts")
        if self.probe is not None and other.probe is not None and self.probe != other.probe:
            raise ValueError("one probe token runs behind a prompt, not those of two methods")
        if self.lora is not None and other.lora is not None and self.lora != other.lora:
            raise ValueError(f"the model wears one adapter, not {self.lora} and {other.lora}")

    def _check_places(self, other: Reads) -> None:
        """Raise ValueError where two methods read a signal in other blocks or layers."""
        for kind in ("blocks", "layers"):
            own, others = getattr(self, kind), getattr(other, kind)
            for signal in sorted(self.signals & other.signals):
                pair = list(own.get(signal, ())), list(others.get(signal, ()))
                if pair[0] != pair[1]:
                    raise ValueError(
                        f"{signal} cannot be read in {kind} {pair[0]} and {pair[1]} by methods "
                        "that work together"
                    )

    def _joined_places(self, other: Reads) -> dict[Signal, frozenset[Place]]:
        """Where two methods read; a signal that one of them reads everywhere is not restricted."""
        places: dict[Signal, frozenset[Place]] = {}
        for signal in self.signals | other.signals:
            readers = [reads for reads in (self, other) if signal in reads.signals]
            if all(signal in reads.places for reads in readers):
                parts = [reads.places[signal] for reads in readers]
                places[signal] = frozenset().union(*parts)
        return places

    def with_stand_ins(self, stand_ins: Mapping[Signal, Signal | None]) -> Reads:
        """The same with other signals in the place of some, read in the same blocks and at the same
        stages, and without those for which None stands.
        """
        signals = set(self.signals)
        blocks, places = dict(self.blocks), dict(self.places)
        for signal, stand_in in stand_ins.items():
            if signal not in signals:
                continue
            signals.remove(signal)
            if stand_in is None:
                continue
            signals.add(stand_in)
            # one stand-in may serve for several, and a method may read it for its own sake
            if signal in blocks:
                blocks.setdefault(stand_in, blocks.pop(signal))
            if signal in places:
                places.setdefault(stand_in, places.pop(signal))
        return replace(self, signals=frozenset(signals), blocks=blocks, places=places)

    def only_at(self, *places: Place) -> Reads:
        """The same, read at the stages of these sites or parts of the model alone."""
        return replace(self, places=dict.fromkeys(self.signals, frozenset(places)))

    def without(self, signals: frozenset[Signal]) -> Reads:
        """The same but for some signals."""
        return replace(self, signals=self.signals - signals)

    def signals_at(self, site: Site) -> frozenset[Signal]:
        """The signals that a stage at that site is shown."""
        return frozenset(
            signal
            for signal in self.signals
            if self.exists_at(signal, site) and self.covers(signal, site)
        )

    def layers_at(self, signal: Signal, site: Site) -> tuple[int, ...]:
        """The layers in which a stage at a site is shown a signal of LLM layers, ascending."""
        layers = self.layers.get(signal) or (site.layer - 1,)
        return tuple(layer for layer in sorted(layers) if 0 <= layer < site.layer)

    def exists_at(self, signal: Signal, site: Site) -> bool:
        """Whether a stage at that site can be shown the signal as it is read here."""
        exists = signal.exists_at(site)
        return exists and (signal not in self.layers or bool(self.layers_at(signal, site)))

    def covers(self, signal: Signal, site: Site) -> bool:
        """Whether a stage at that site reads the signal, if it exists there."""
        places = self.places.get(signal)
        return places is None or site in places or site.part in places

    def whereabouts(self, signal: Signal) -> str:
        """Why the signal does not exist at some sites, and where it does."""
        if self.layers.get(signal):
            first = min(self.layers[signal]) + 1
            return f"before the layers that it is read in; prune at {llm(first)} or later"
        return signal.whereabouts

    def misplaced(self, sites: Sequence[Site]) -> frozenset[Signal]:
        """The signals that a method would look for in vain with stages at these sites.

        They exist at none of them, or are read at one where they do not exist.
        """
        lost = set()
        for signal in self.signals:
            wishes = [site for site in sites if self.covers(signal, site)]
            exists = [self.exists_at(signal, site) for site in wishes]
            # named places are wanted each, while any other signal is shown wherever it exists
            fine = all(exists) if signal in self.places else any(exists)
            if wishes and not fine:
                lost.add(signal)
        return frozenset(lost)

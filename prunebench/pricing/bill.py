"""Bill: the FLOPs of one request by part and phase, and what its answer leaves in the caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from prunebench.budget import Budget, Stage, alive, cached
from prunebench.engine.ready import Ready
from prunebench.engine.trace import SampleTrace
from prunebench.measure.flops import head, vision_saved
from prunebench.models.base import Unsupported
from prunebench.pricing.clips import LARGE, Clip
from prunebench.pricing.reading import Prompt, Reader
from prunebench.pricing.selection import QUESTION, Choice, Room, choose
from prunebench.pricing.subject import Scene
from prunebench.pruner import Pruner
from prunebench.regions import regions_of
from prunebench.signals import CLIP, Signal
from prunebench.sites import Part, Site
from prunebench.sizes import Sizes


@dataclass(frozen=True)
class Lengths:
    """Visual tokens of one request: what there are, what enters each LLM layer, and what is left in
    each layer's cache after the prefill; `text` rows stand beside them everywhere.
    """

    available: int
    entering: tuple[int, ...]
    cached: tuple[int, ...]
    text: int

    @property
    def rows(self) -> list[int]:
        """Rows that run through each layer."""
        return [visual + self.text for visual in self.entering]

    @property
    def kept_rows(self) -> list[int]:
        """Rows in each layer's cache."""
        return [visual + self.text for visual in self.cached]

    @property
    def mean(self) -> float:
        """Visual tokens entering a layer, averaged over layers."""
        return sum(self.entering) / len(self.entering)

    @property
    def kv(self) -> float:
        """Visual tokens in a layer's cache, averaged over layers."""
        return sum(self.cached) / len(self.cached)


@dataclass(frozen=True)
class Bill:
    """FLOPs of one request, 2 per multiply-add.

    `signals` is what reading for the method takes, `selection` its own work; `layers` are the
    decoder layers of the prefill, each at its own length, attention in full, and
    `causal_layers` the same with half of attention's products, which a causal kernel may skip.
    `steps` are, for every decoder layer, those of the answer behind its first token, one by one.
    `notes` say what is not counted exactly.
    """

    lengths: Lengths
    vision: int
    projector: int
    signals: int
    selection: int
    layers: tuple[int, ...]
    causal_layers: tuple[int, ...]
    head: int
    steps: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def new_tokens(self) -> int:
        """Steps of the answer behind its first token, which the prefill gives."""
        return len(self.steps[0])

    @property
    def decode(self) -> int:
        """All these steps, their logits included."""
        return sum(map(sum, self.steps)) + self.new_tokens * self.head

    @property
    def language(self) -> int:
        """All decoder layers of the prefill."""
        return sum(self.layers)

    @property
    def causal_language(self) -> int:
        """The same with half of attention's products."""
        return sum(self.causal_layers)

    @property
    def prefill(self) -> int:
        """Everything up to the first token's logits."""
        seeing = self.vision + self.projector + self.signals + self.selection
        return seeing + self.language + self.head

    @property
    def total(self) -> int:
        """The whole request."""
        return self.prefill + self.decode


def unpruned(scene: Scene, new_tokens: int) -> Bill:
    """The bill of the model as it is."""
    layers = scene.subject.layers
    full = (scene.visual,) * layers
    return _bill(scene, Lengths(scene.visual, full, full, scene.text), new_tokens)


def pruned(
    scene: Scene,
    pruner: Pruner,
    budget: Budget | None,
    new_tokens: int,
    clip: Clip = LARGE,
) -> Bill:
    """The bill of a method at a budget; None is its own. `clip` is the one that it may ask.

    Raises BudgetError where the budget is out of reach, Unsupported where the model cannot serve
    the method.
    """
    if pruner.site().part is Part.PIXELS:
        return _smaller(scene, pruner, budget, new_tokens)
    subject = scene.subject
    ready = subject.ready(pruner)
    stages = tuple(ready.pruner.plan(budget, scene.visual, subject.layers))
    choice = choose(ready, stages, _room(scene, clip), (budget, subject.layers))
    spent = scene.visual, subject.layers
    lengths = Lengths(
        scene.visual,
        tuple(alive(choice.stages, *spent)),
        tuple(cached(choice.stages, *spent)),
        scene.text,
    )
    bill = _bill(scene, lengths, new_tokens, choice)
    signals = _signals(scene, ready, choice, lengths, clip)
    return replace(
        bill, signals=signals, selection=choice.flops, notes=_notes(ready, choice.stages)
    )


def _smaller(scene: Scene, pruner: Pruner, budget: Budget | None, new_tokens: int) -> Bill:
    """The bill of a method that makes the image smaller."""
    subject = scene.subject
    cell = subject.family.token_pixels(subject.outline)
    if cell is None:
        raise Unsupported(
            f"{type(pruner).__name__} shrinks the image, and {subject.family.name} scales every "
            "image to its own resolution"
        )
    size = pruner.resize(scene.size, cell, budget)
    words = scene.text - subject.scene(scene.size, 1).text + 1
    small = unpruned(subject.scene(size, words), new_tokens)
    return replace(small, lengths=replace(small.lengths, available=scene.visual))


def _bill(scene: Scene, lengths: Lengths, new_tokens: int, choice: Choice | None = None) -> Bill:
    """Everything but the method's own work."""
    subject = scene.subject
    family, config, text = subject.family, subject.config, subject.text_config
    vision, projector = family.vision_flops(config, scene.inputs)
    if choice is not None and any(site.part is Part.VISION for site in choice.kept):
        vision -= vision_saved(subject.outline, family, scene.inputs, _trace(scene, choice))
    full, causal, steps = [], [], []
    for number, rows in enumerate(lengths.rows):
        whole = family.layer_flops(text, number, rows, rows)
        # without keys there are no products, and nothing else depends on them
        products = whole - family.layer_flops(text, number, rows, 0)
        full.append(whole)
        causal.append(whole - products // 2)
        # a new token attends to itself, too
        keys = range(lengths.kept_rows[number] + 1, lengths.kept_rows[number] + new_tokens)
        steps.append(tuple(family.layer_flops(text, number, 1, count) for count in keys))
    parts = vision, projector, 0, 0
    return Bill(lengths, *parts, tuple(full), tuple(causal), head(text), tuple(steps))


def _trace(scene: Scene, choice: Choice) -> SampleTrace:
    """The record that a run would have left, as far as the encoder's work depends on it."""
    return SampleTrace(
        scene.layout, scene.visual, scene.text, choice.stages, kept=dict(choice.kept)
    )


def _room(scene: Scene, clip: Clip) -> Room:
    """How large what a method is shown is."""
    subject = scene.subject
    text, vision = subject.text_config, subject.config.vision_config
    facts = subject.family.facts(subject.outline)
    heads = getattr(vision, "num_heads", None) or vision.num_attention_heads
    width = int(facts.vision_width or 0)
    wide, high = scene.size
    language = Sizes(
        tokens=scene.visual,
        tiles=len(scene.layout.tiles),
        images=1,
        image=(1, high, wide, 3),
        width=text.hidden_size,
        heads=facts.heads,
        kv_heads=int(facts.kv_heads or facts.heads),
        head_width=int(facts.head_width or 0),
        text=scene.text,
        lead=scene.lead,
        axes=3 if subject.images.get("cut") == "grid" else 1,
        encoder_width=width,
        clip_width=clip.shared,
        question=QUESTION,
    )
    encoder = replace(language, heads=heads, kv_heads=heads, head_width=width // heads)
    (rows,) = subject.family.encoder_rows(subject.outline, scene.inputs, [scene.layout])
    return Room(scene.layout, scene.marks, language, encoder, width * rows.patches.shape[1])


def _signals(scene: Scene, ready: Ready, choice: Choice, lengths: Lengths, clip: Clip) -> int:
    """What reading takes for all stages."""
    subject = scene.subject
    stretches = partial(_stretches, scene, choice.kept)
    reader = Reader(subject.family, subject.config, stretches, clip)
    parts = len(regions_of(scene.layout, ready.reads.regions).tiles)
    prompt = Prompt(lengths.entering, lengths.text, scene.text - scene.lead, parts)
    total = reader.of_crops(ready)
    blocks: dict[Signal, set[int | str]] = {}
    left = scene.visual
    for stage in choice.stages:
        for signal, places in ready.blocks_at(stage.site).items():
            blocks.setdefault(signal, set()).update(places)
        # a stage that keeps nothing, or finds nothing, asks nobody
        if stage.keep and left:
            here = ready.reads.signals_at(stage.site)
            if stage.site.part is Part.LLM:
                total += reader.of_layers(here, stage.site, prompt)
            total += reader.of_clip(ready, stage.site, QUESTION, prompt)
        left = min(left, stage.keep)
    return total + reader.of_encoder({name: tuple(places) for name, places in blocks.items()})


def _stretches(scene: Scene, kept: Mapping[Site, Tensor], block: int) -> list[int]:
    """How many rows attend to each other in a block of the encoder, without those that left."""
    subject = scene.subject
    full = subject.family.stretches(subject.config, scene.inputs, block)
    passed = [site for site in kept if site.part is Part.VISION and site.layer <= block]
    if not passed:
        return full
    (rows,) = subject.family.encoder_rows(subject.outline, scene.inputs, [scene.layout])
    live = rows.live(sum(full), kept[max(passed)])
    return [int(part.sum()) for part in live.split(full)]


def _notes(ready: Ready, stages: Sequence[Stage]) -> tuple[str, ...]:
    """What of a method's bill is no exact count."""
    notes = []
    if not ready.by_shape:
        notes.append("selection depends on values: counted on one drawn example")
    if ready.pruner.dynamic:
        notes.append("the method may keep fewer tokens than planned")
    if ready.reads.signals & CLIP:
        notes.append("a CLIP is asked: ViT-L/14 at 336 px, texts of 77 tokens")
    if any(stage.site.part is Part.VISION for stage in stages):
        notes.append("which patches leave is drawn: windows and crops share them by chance")
    if ready.pruner.decodes_at() is not None:
        notes.append("what the method does while decoding is not counted")
    if ready.reads.lora is not None:
        notes.append("the adapter's own products are not counted")
    return tuple(notes)

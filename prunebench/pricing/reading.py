"""Reading: what it takes to show a method the signals of a stage, in FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunebench.engine.ready import Blocks, Ready
from prunebench.models.arithmetic import linear
from prunebench.models.base import Family
from prunebench.pricing.clips import Clip
from prunebench.signals import BEFORE, BEHIND, CLIP, CLIP_CROPS, CLIP_TEXTS, PROBE, Signal
from prunebench.sites import Site

LAST = frozenset({Signal.LAST_QUERY_ATTENTION, Signal.NEXT_QUERY_ATTENTION})
"""Signals that one query's scores are worked out for."""

TEXT = frozenset({Signal.TEXT_ATTENTION, Signal.NEXT_TEXT_ATTENTION})
"""Those for which the text behind the image asks."""

VISUAL = frozenset({Signal.VISUAL_ATTENTION})
"""Those for which every visual token asks."""

UNROTATED = frozenset({Signal.NEXT_QUERIES, Signal.NEXT_KEYS})
"""Those that take projections of their own, for they are read before rotation."""

ALL_QUERIES = frozenset({Signal.NEXT_QUERIES, Signal.NEXT_TEXT_ATTENTION})
"""Those of the layer behind a site that need more queries than the last."""


@dataclass(frozen=True)
class Prompt:
    """What a stage stands in: visual tokens that enter each layer, `text` rows beside them of which
    `asking` stand behind the first visual token, and of the one picture `parts` that a CLIP beside
    the model is shown apart.
    """

    entering: Sequence[int]
    text: int
    asking: int
    parts: int = 1

    def rows(self, layer: int) -> int:
        """Rows that run through a layer."""
        return self.entering[layer] + self.text


@dataclass(frozen=True)
class Reader:
    """The arithmetic of one model's layers and encoder, and of the CLIP that methods ask.

    `stretches` says, for a block of the vision encoder, how many rows attend to each other.
    """

    family: Family
    config: Any
    stretches: Callable[[int], Sequence[int]]
    clip: Clip

    @property
    def text_config(self) -> Any:
        """The language model's settings."""
        return self.config.get_text_config()

    @property
    def heads_width(self) -> int:
        """Channels of all query heads of a layer together."""
        text = self.text_config
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return int(text.num_attention_heads * width)

    @property
    def keys_width(self) -> int:
        """The same of its key heads."""
        text = self.text_config
        return int(self.heads_width // text.num_attention_heads * text.num_key_value_heads)

    # ---- the language model ----------------------------------------------------------------------

    def of_layers(self, signals: frozenset[Signal], site: Site, prompt: Prompt) -> int:
        """What the signals of a stage cost that come from layers of the language model."""
        total = 0
        if signals & BEFORE:
            total += self._scores(signals & BEFORE, prompt, site.layer - 1)
        behind = signals & BEHIND
        for part in (behind - UNROTATED, behind & UNROTATED):
            if part:
                total += self._dry_run(part, self._entering(site, prompt))
                total += self._scores(part, prompt, site.layer - 1)
        if signals & PROBE:
            total += self._probe(signals & PROBE, site, prompt)
        return total

    def _entering(self, site: Site, prompt: Prompt) -> int:
        """Rows that reach a site; those behind it are fewer."""
        return prompt.rows(site.layer - 1)

    def _scores(self, signals: frozenset[Signal], prompt: Prompt, layer: int) -> int:
        """Products of queries and all keys of a layer."""
        rows, visual = prompt.rows(layer), prompt.entering[layer]
        queries = len(signals & LAST) + prompt.asking * len(signals & TEXT)
        queries += visual * len(signals & VISUAL)
        return linear(queries, self.heads_width, rows)

    def _dry_run(self, signals: frozenset[Signal], rows: int) -> int:
        """Projections of the layer behind a site: keys, queries that are looked at, one value."""
        width, keys = self.text_config.hidden_size, self.keys_width
        queries = rows if signals & ALL_QUERIES else 1
        return linear(queries, width, self.heads_width) + linear(rows + 1, width, keys)

    def _probe(self, signals: frozenset[Signal], site: Site, prompt: Prompt) -> int:
        """A token behind the prompt that runs through the layers before a site."""
        total = 0
        for layer in range(site.layer):
            keys = prompt.rows(layer) + 1
            total += self.family.layer_flops(self.text_config, layer, 1, keys)
        return total + linear(len(signals), self.heads_width, prompt.rows(site.layer - 1) + 1)

    # ---- the vision encoder, and a CLIP ----------------------------------------------------------

    def of_encoder(self, blocks: Mapping[Signal, Blocks]) -> int:
        """What is read of attention in blocks of the vision encoder."""
        total = 0
        for signal in blocks.keys() - CLIP:
            for block in blocks[signal]:
                total += self._in_block(signal, self.stretches(int(block)))
        return total

    def _in_block(self, signal: Signal, lengths: Sequence[int]) -> int:
        """Products of queries and keys in one block, whose rows attend in stretches."""
        vision = self.config.vision_config
        width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
        if signal is Signal.RECEIVED_ATTENTION:
            return sum(linear(length, width, length) for length in lengths)
        if signal is Signal.CLS_ATTENTION:
            return sum(linear(1, width, length) for length in lengths)
        return 0

    def of_crops(self, ready: Ready) -> int:
        """What a CLIP makes of the encoder's own crops, once, charged to every signal of it."""
        crops = len(self.stretches(0))
        return sum(self.clip.sees(crops) for signal in ready.blocks if signal in CLIP_CROPS)

    def of_clip(self, ready: Ready, site: Site, question: str, prompt: Prompt) -> int:
        """What a CLIP makes for one stage of texts, and of pictures where it stands beside the
        model.
        """
        here = ready.reads.signals_at(site)
        total = 0
        if here & CLIP_TEXTS and ready.clip is not None:
            texts = ready.reads.texts(question)
            total += self.clip.reads(len(texts), whole=Signal.CLIP_TEXT_TOKENS in here)
        if ready.beside:
            if Signal.CLIP_PATCHES in here:
                total += self.clip.sees(1)
            if Signal.CLIP_TILES in here:
                total += self.clip.sees(prompt.parts)
        return total

"""FLOPs of a pruned run from the model's configuration: 2 per multiply-add of every matrix product.

Counted are projections, both attention products, and convolutions; not counted are element-wise
operations (norms, activations, softmax, rotary embedding, residuals). Attention counts in full,
although a causal kernel may skip the upper half: every number is therefore an upper bound that
treats all methods alike, and equals torch's own counter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunebench.engine.counter import counter
from prunebench.models import decoders
from prunebench.models.arithmetic import linear
from prunebench.sites import Part

if TYPE_CHECKING:
    from prunebench.engine.trace import SampleTrace
    from prunebench.models.base import Family

LayerFlops = Callable[[Any, int, int, int], int]
"""FLOPs of a decoder's layer: its configuration, the layer's number, tokens that run through it,
and positions that they attend to.
"""

__all__ = [
    "Flops",
    "PrefillFlops",
    "counter",
    "decode",
    "head",
    "llm_prefill",
    "sample_flops",
]


@dataclass(frozen=True)
class Flops:
    """What one sample's prefill costs, by part; `selector` is the method's own work, its signals
    included.
    """

    vision: int
    projector: int
    llm: int
    head: int
    selector: int

    @property
    def total(self) -> int:
        """The whole prefill, up to the logits of the first new token."""
        return self.vision + self.projector + self.llm + self.head + self.selector


class PrefillFlops:
    """FLOPs of one model's prefills. What a layer takes at a length, and the vision encoder for
    pictures of one size, is worked out once for all samples.
    """

    def __init__(self, model: Any, family: Family) -> None:
        self.model, self.family = model, family
        self._text_config = model.config.get_text_config()
        self._head = head(self._text_config)
        self._layers: dict[tuple[int, int], int] = {}
        self._encoders: dict[Hashable, tuple[int, int]] = {}

    def of(
        self,
        sample: SampleTrace,
        inputs: Callable[[], Mapping[str, Any]],
        pictures: Hashable | None = None,
    ) -> Flops:
        """The prefill of one sample, whose trace is `sample`; `inputs` gives those of that sample
        alone.

        `pictures` are all that decides the shapes in which its pictures reach the encoder; where it
        is None the inputs are always asked for. Every block of the vision encoder and every LLM
        layer counts at the length that really entered it. Raises ValueError for inputs of several
        samples.
        """
        vision, projector = self._encoder(inputs, pictures)
        if any(site.part is Part.VISION for site in sample.kept):
            vision -= vision_saved(self.model, self.family, inputs(), sample)
        lengths = [visual + sample.text for visual in sample.entering]
        llm = llm_prefill(self._text_config, lengths, self._layer)
        return Flops(vision, projector, llm, self._head, sample.selector_flops or 0)

    def _encoder(
        self, inputs: Callable[[], Mapping[str, Any]], pictures: Hashable | None
    ) -> tuple[int, int]:
        """What the vision encoder and the projector take for a sample's pictures."""
        if pictures in self._encoders:
            return self._encoders[pictures]
        alone = inputs()
        rows = alone["input_ids"].shape[0]
        if rows != 1:
            raise ValueError(
                f"FLOPs are those of one sample, and these are inputs of {rows} samples"
            )
        flops = self.family.vision_flops(self.model.config, alone)
        if pictures is not None:
            self._encoders[pictures] = flops
        return flops

    def _layer(self, text_config: Any, number: int, queries: int, keys: int) -> int:
        """What a layer takes in a prefill, where every token is a query and a key."""
        place = number, queries
        if place not in self._layers:
            self._layers[place] = self.family.layer_flops(text_config, number, queries, keys)
        return self._layers[place]


def sample_flops(
    model: Any, family: Family, inputs: Mapping[str, Any], sample: SampleTrace
) -> Flops:
    """The prefill of one sample: `inputs` are those of that sample alone, `sample` is its trace.

    Raises ValueError for inputs of several samples.
    """
    return PrefillFlops(model, family).of(sample, lambda: inputs)


def vision_saved(model: Any, family: Family, inputs: Mapping[str, Any], sample: SampleTrace) -> int:
    """What the vision encoder does without because rows left it; 0 where none did."""
    sites = sorted(site for site in sample.kept if site.part is Part.VISION)
    if not sites:
        return 0
    (rows,) = family.encoder_rows(model, inputs, [sample.layout])
    saved = 0
    for block in range(sites[0].layer, len(family.blocks(model))):
        full = family.stretches(model.config, inputs, block)
        # a site lies in front of its block, which is the first to run without the rows
        passed = [site for site in sites if site.layer <= block]
        live = rows.live(sum(full), sample.kept[passed[-1]])
        left = [int(part.sum()) for part in live.split(full)]
        saved += family.block_flops(model.config, full)
        saved -= family.block_flops(model.config, left)
    return saved


def llm_prefill(
    text_config: Any, lengths: Sequence[int], layer: LayerFlops = decoders.layer
) -> int:
    """All decoder layers, layer i at `lengths[i]` tokens (text and visual); a family's
    `layer_flops` says what one of its layers does.

    A sparse layer counts its router and, for every token, the experts it is sent to and no others.

    Raises ValueError where the number of lengths is not the number of layers.
    """
    _check_layers(text_config, lengths)
    return sum(layer(text_config, number, length, length) for number, length in enumerate(lengths))


def decode(
    text_config: Any,
    cache_lengths: Sequence[int],
    steps: int,
    layer: LayerFlops = decoders.layer,
) -> int:
    """All decoder layers over `steps` new tokens, one by one, behind a prefill that left
    `cache_lengths` in the caches.

    The LM head comes on top: `head(text_config, steps)`.
    """
    _check_layers(text_config, cache_lengths)
    total = 0
    for number, length in enumerate(cache_lengths):
        for step in range(1, steps + 1):
            # a new token attends to itself, too
            total += layer(text_config, number, 1, length + step)
    return total


def head(text_config: Any, positions: int = 1) -> int:
    """The LM head on `positions` positions; a prefill needs the last one only."""
    return linear(positions, text_config.hidden_size, text_config.vocab_size)


def _check_layers(config: Any, lengths: Sequence[int]) -> None:
    if len(lengths) != config.num_hidden_layers:
        raise ValueError(
            f"got {len(lengths)} lengths for a language model of {config.num_hidden_layers} layers"
        )

"""FLOPs of a pruned run from the model's configuration: 2 per multiply-add of every matrix product.

Counted are projections, both attention products, and convolutions; not counted are element-wise
operations (norms, activations, softmax, rotary embedding, residuals). Attention counts in full,
although a causal kernel may skip the upper half: every number is therefore an upper bound that
treats all methods alike, and equals torch's own counter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

__all__ = ["Flops", "counter", "decode", "head", "llm_prefill", "sample_flops"]


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


def sample_flops(
    model: Any, family: Family, inputs: Mapping[str, Any], sample: SampleTrace
) -> Flops:
    """The prefill of one sample: `inputs` are those of that sample alone, `sample` is its trace.

    Every block of the vision encoder and every LLM layer counts at the length that really entered
    it. Raises ValueError for inputs of several samples.
    """
    rows = inputs["input_ids"].shape[0]
    if rows != 1:
        raise ValueError(f"sample_flops got inputs of {rows} samples; give it one and its trace")
    vision, projector = family.vision_flops(model.config, inputs)
    vision -= vision_saved(model, family, inputs, sample)
    text_config = model.config.get_text_config()
    lengths = [visual + sample.text for visual in sample.entering]
    return Flops(
        vision,
        projector,
        llm_prefill(text_config, lengths, family.layer_flops),
        head(text_config),
        sample.selector_flops or 0,
    )


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

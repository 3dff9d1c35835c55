"""FLOPs of a pruned run from the model's configuration: 2 per multiply-add of every matrix product.

Counted are projections, both attention products, and convolutions; not counted are element-wise
operations (norms, activations, softmax, rotary embedding, residuals). Attention counts in full,
although a causal kernel may skip the upper half: every number is therefore an upper bound that
treats all methods alike, and equals torch's own counter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunebench.engine.counter import counter
from prunebench.models.arithmetic import attention, linear
from prunebench.sites import Part

if TYPE_CHECKING:
    from prunebench.engine.trace import SampleTrace
    from prunebench.models.base import Family

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
        llm_prefill(text_config, lengths),
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


def llm_prefill(text_config: Any, lengths: Sequence[int]) -> int:
    """All decoder layers, layer i at `lengths[i]` tokens (text and visual); grouped queries, SwiGLU
    or experts.

    A sparse layer counts its router and, for every token, the experts it is sent to and no others.

    Raises ValueError where the number of lengths is not the number of layers.
    """
    _check_layers(text_config, lengths)
    return sum(_layer(text_config, number, length, length) for number, length in enumerate(lengths))


def decode(text_config: Any, cache_lengths: Sequence[int], steps: int) -> int:
    """All decoder layers over `steps` new tokens, one by one, behind a prefill that left
    `cache_lengths` in the caches.

    The LM head comes on top: `head(text_config, steps)`.
    """
    _check_layers(text_config, cache_lengths)
    total = 0
    for number, length in enumerate(cache_lengths):
        for step in range(1, steps + 1):
            # a new token attends to itself, too
            total += _layer(text_config, number, 1, length + step)
    return total


def head(text_config: Any, positions: int = 1) -> int:
    """The LM head on `positions` positions; a prefill needs the last one only."""
    return linear(positions, text_config.hidden_size, text_config.vocab_size)


def _layer(config: Any, number: int, queries: int, keys: int) -> int:
    """Decoder layer `number`: `queries` tokens run through it and attend to `keys`."""
    width = config.hidden_size
    # some models name it, and then heads together are not as wide as the model
    head_width = getattr(config, "head_dim", None) or width // config.num_attention_heads
    query_width = config.num_attention_heads * head_width
    key_width = config.num_key_value_heads * head_width
    # the output projection costs what the query's does
    projections = linear(queries, width, 2 * query_width + 2 * key_width)
    return projections + attention(queries, keys, query_width) + _mlp(config, number, queries)


def _mlp(config: Any, number: int, tokens: int) -> int:
    """SwiGLU over `tokens`, or in a sparse layer the router and the experts that it chooses for
    each of them.
    """
    experts = getattr(config, "num_experts", None) or 0
    dense_layers = getattr(config, "mlp_only_layers", None) or ()
    sparse_step = getattr(config, "decoder_sparse_step", 1)
    # transformers' own rule: with a step of n every n-th layer is sparse
    dense = number in dense_layers or (number + 1) % sparse_step
    if not experts or dense:
        return 3 * linear(tokens, config.hidden_size, config.intermediate_size)
    router = linear(tokens, config.hidden_size, experts)
    expert_tokens = tokens * config.num_experts_per_tok
    expert = linear(expert_tokens, config.hidden_size, config.moe_intermediate_size)
    return router + 3 * expert


def _check_layers(config: Any, lengths: Sequence[int]) -> None:
    if len(lengths) != config.num_hidden_layers:
        raise ValueError(
            f"got {len(lengths)} lengths for a language model of {config.num_hidden_layers} layers"
        )

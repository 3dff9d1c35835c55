"""Decoders: what follows from how a language model is built: FLOPs of a layer, frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from torch import Tensor, nn

from prunebench.models.arithmetic import attention, linear

CHUNK = 64
"""Tokens that the gated delta rule takes at once, in transformers' own implementation."""


def layer(config: Any, number: int, queries: int, keys: int, gated: bool = False) -> int:
    """Layer `number` of a Llama-like model: `queries` tokens run through it and attend to `keys`.

    `gated` says that attention's output has a gate, which the query's projection makes.
    """
    return attending(config, queries, keys, gated) + mlp(config, number, queries)


def attending(config: Any, queries: int, keys: int, gated: bool = False) -> int:
    """Grouped-query attention with its projections."""
    width = config.hidden_size
    # some models name it, and then heads together are not as wide as the model
    head_width = getattr(config, "head_dim", None) or width // config.num_attention_heads
    query_width = config.num_attention_heads * head_width
    key_width = config.num_key_value_heads * head_width
    # the output projection costs what the query's does, and so does a gate's
    projections = linear(queries, width, (2 + gated) * query_width + 2 * key_width)
    return projections + attention(queries, keys, query_width)


def delta_rule(config: Any, queries: int, keys: int) -> int:
    """A gated delta rule (linear attention) with its projections and its short convolution.

    A prompt is read chunk by chunk, the last one in full; a step updates the state of every head,
    which torch's counter does not see, for transformers does it element by element.
    """
    heads, taps = int(config.linear_num_value_heads), int(config.linear_conv_kernel_dim)
    key, value = int(config.linear_key_head_dim), int(config.linear_value_head_dim)
    channels = 2 * int(config.linear_num_key_heads) * key + heads * value
    # queries, keys and values; a gate of the output; step size and decay; and the way back
    projections = linear(queries, config.hidden_size, channels + heads * (2 * value + 2))
    if queries < keys:
        # the state that the convolution is given holds one position more than it needs
        return projections + 2 * 2 * taps * channels + 3 * heads * linear(queries, key, value)
    convolution = 2 * (queries + taps - 1) * taps * channels
    within = 2 * linear(CHUNK, key, CHUNK) + linear(CHUNK, CHUNK, value)
    across = 3 * linear(CHUNK, key, value)
    return projections + convolution + ceil(queries / CHUNK) * heads * (within + across)


def swiglu(tokens: int, width: int, intermediate: int) -> int:
    """An MLP of three matrices, one of which is a gate's."""
    return 3 * linear(tokens, width, intermediate)


def mlp(config: Any, number: int, tokens: int) -> int:
    """SwiGLU over `tokens`, or in a sparse layer the router and the experts that it chooses for
    each of them, with one that all share where there is such.
    """
    width = config.hidden_size
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    dense_layers = getattr(config, "mlp_only_layers", None) or ()
    sparse_step = getattr(config, "decoder_sparse_step", 1)
    # transformers' own rule: with a step of n every n-th layer is sparse
    dense = number in dense_layers or (number + 1) % sparse_step
    if not experts or dense:
        return swiglu(tokens, width, config.intermediate_size)
    total = routed(config, tokens, experts)
    shared = getattr(config, "shared_expert_intermediate_size", None)
    if shared:
        # one number a token says how much of it is added
        total += swiglu(tokens, width, shared) + linear(tokens, width, 1)
    return total


def routed(config: Any, tokens: int, experts: int) -> int:
    """A router over so many experts, and for every token those that it chooses."""
    width, choices = config.hidden_size, tokens * config.num_experts_per_tok
    # where every layer is sparse, some models have one name for the width of all MLPs
    inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    return linear(tokens, width, experts) + swiglu(choices, width, inner)


def of_full_layers(config: Any, kinds: Sequence[str]) -> Any:
    """The settings of the first layer that looks at everything, in models whose layers differ; of
    all layers in the others.
    """
    own = getattr(config, "per_layer_config", None)
    return own[kinds.index("full_attention")] if own and "full_attention" in kinds else config


def frequencies(rotary: nn.Module) -> tuple[float, ...] | None:
    """The inverse frequencies of a rotary module, one a pair of channels; where kinds of layers
    differ, those of layers that look at everything, and None where there are none.
    """
    for name in ("inv_freq", "full_attention_inv_freq"):
        values = getattr(rotary, name, None)
        # without weights they are not worked out either
        if isinstance(values, Tensor) and not values.is_meta:
            return tuple(values.float().tolist())
    return None

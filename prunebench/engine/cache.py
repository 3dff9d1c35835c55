"""Cache: what the layers of a transformers cache hold, and how they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from prunebench.engine.stream import EngineError


def checked(cache: Any) -> Any:
    """The cache, where layers may differ in length; raises EngineError otherwise."""
    if cache is None:
        raise EngineError(
            "the model kept no cache (use_cache is off in its configuration); set "
            "model.config.use_cache = True"
        )
    if type(cache) is not DynamicCache:
        raise EngineError(
            f"the cache is {type(cache).__name__}; layers of different length need a DynamicCache: "
            "leave cache_implementation and past_key_values out"
        )
    return cache


def picked(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, n] of cache `values` [B, H, S, d]."""
    return values.gather(
        2, index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    )


def pick(layer: Any, index: Tensor) -> None:
    """Leave the rows `index` [B, n] in a layer of the cache."""
    layer.keys, layer.values = picked(layer.keys, index), picked(layer.values, index)
    if hasattr(layer, "cumulative_length"):  # a layer with a window counts what it was given
        layer.cumulative_length = index.shape[1]


def length_of(layer: Any) -> int | None:
    """How many positions a layer of the cache has read; None for one that keeps a state of fixed
    size and does not count.
    """
    count = getattr(layer, "get_seq_length", None)
    return None if count is None else int(count())


def held_by(layer: Any, count: int) -> int:
    """How many keys a layer of the cache will attend over once it has `count` further tokens."""
    length = int(layer.keys.shape[-2])
    window = getattr(layer, "sliding_window", None)
    # where a layer may have to take tokens back, it keeps more than it hands out
    return (length if window is None else min(length, int(window) - 1)) + count


STATES = ("conv_states", "recurrent_states")
"""Where a layer of the cache keeps a state of fixed size, under transformers' own names."""


def state_bytes(layer: Any) -> int:
    """Bytes of one sample's states in a layer of the cache that keeps such; 0 for any other."""
    total = 0
    for name in STATES:
        for state in getattr(layer, name, {}).values():
            if isinstance(state, Tensor):
                total += state[0].numel() * state.element_size()
    return total


def position_bytes(layer: Any, number: int) -> int:
    """Bytes of the keys and values of one position of one sample in layer `number`; 0 where it
    holds none.

    Raises ValueError for a layer that keeps no plain keys and values (a quantised or
    linear-attention cache).
    """
    if not getattr(layer, "is_initialized", True):
        return 0
    tensors = [getattr(layer, name, None) for name in ("keys", "values")]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise ValueError(
            f"layer {number} of the cache, a {type(layer).__name__}, holds no plain keys and values"
        )
    return sum(
        t.shape[1] * t.shape[-1] * t.element_size()
        for t in tensors
        if isinstance(t, Tensor) and t.dim() == 4
    )


def live_bytes(cache: Any, lengths: Sequence[int]) -> int:
    """Bytes of the keys and values of one sample with so many live positions in each layer,
    whatever pads it; of a layer that keeps a state in their place, the state's.
    """
    return bytes_of(cache, [lengths])[0]


def bytes_of(cache: Any, lengths: Sequence[Sequence[int]]) -> list[int]:
    """The same of several samples, one a list of `lengths`."""
    totals = [0] * len(lengths)
    for number, layer in enumerate(cache.layers):
        if length_of(layer) is None and any(hasattr(layer, name) for name in STATES):
            states = state_bytes(layer)
            totals = [total + states for total in totals]
            continue
        bytes_each = position_bytes(layer, number)
        if not bytes_each:
            continue
        # a layer with a window holds no more than its last positions
        most = layer.keys.shape[-2]
        for sample, live in enumerate(lengths):
            totals[sample] += bytes_each * min(live[number], most)
    return totals

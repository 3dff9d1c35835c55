"""Aside: tokens that run behind a prompt through its cache, see it, and leave no trace in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.engine.attention import Heads, implementation, unwatch, watch
from prunebench.engine.masks import attention_mask
from prunebench.engine.stream import Stream
from prunebench.models.base import Family


def aside(
    parts: Family,
    model: nn.Module,
    hidden: Tensor,
    *,
    added: Tensor,
    ids: Tensor,
    streams: Sequence[Stream],
    cache: Any,
    kwargs: Mapping[str, Any],
    watched: int | None,
) -> tuple[Tensor, Heads | None]:
    """Run `hidden` [B, T, D] through as many layers as there are `streams`, behind the prompt whose
    keys `cache` holds.

    `streams[l]` is what of the prompt is in layer l's cache, `ids` [.., B, T] the position ids,
    `kwargs` what the layers were given for the prompt; `added` [L, D] is added to the first token
    before every layer but the first. Gradients flow, into the prompt's keys, too, where these have
    any. Returns the last layer's output and the heads of layer `watched`, whose keys are the
    prompt's with the T tokens' behind them. The cache is left as it was.
    """
    layers, rotary = parts.layers(model), parts.rotary(model)
    kernel = implementation(parts.decoder(model).config)
    tables = rotary.forward(hidden, ids)
    own = ids if ids.dim() == 2 else ids[0]
    count = hidden.shape[1]
    found: list[Heads] = []
    attention = None if watched is None else parts.attention(layers[watched])
    if attention is not None:
        watch(attention, found.append)
    try:
        for number, stream in enumerate(streams):
            part = cache.layers[number]
            before = part.keys, part.values, getattr(part, "cumulative_length", None)
            if number:
                first = hidden[:, :1] + added[number].to(hidden)
                hidden = torch.cat([first, hidden[:, 1:]], dim=1) if hidden.shape[1] > 1 else first
            given = {
                **kwargs,
                "position_embeddings": tables,
                "position_ids": own,
                "attention_mask": attention_mask(stream, count, count, kernel, hidden),
                "past_key_values": cache,
                "use_cache": True,
            }
            # not called as a module: the session's own hooks are for the prompt
            out = layers[number].forward(hidden, **given)
            hidden = out[0] if isinstance(out, tuple) else out
            part.keys, part.values = before[:2]
            if before[2] is not None:  # a layer with a window counts what it was given
                part.cumulative_length = before[2]
    finally:
        if attention is not None:
            unwatch(attention)
    return hidden, found[0] if found else None

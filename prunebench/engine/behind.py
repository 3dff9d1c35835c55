"""Behind: tokens that run behind a prompt through its cache, see it, and leave no trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.engine.attention import Heads, implementation, unwatch, watch
from prunebench.engine.cache import held_by, length_of
from prunebench.engine.masks import Sight, attention_mask
from prunebench.engine.stream import Stream
from prunebench.engine.window import window_of
from prunebench.models.base import STATEFUL, Family


@dataclass(frozen=True)
class CachedPrompt:
    """A prompt that layers have read.

    `streams[l]` is what of it is in layer l's part of the `cache`, for as many layers as there are
    entries; `kwargs` is what the layers were given for it.
    """

    streams: Sequence[Stream]
    cache: Any
    kwargs: Mapping[str, Any]


def aside(
    parts: Family,
    model: nn.Module,
    hidden: Tensor,
    prompt: CachedPrompt,
    *,
    added: Tensor,
    ids: Tensor,
    layer: int | None = None,
) -> tuple[Tensor, Heads | None]:
    """Run `hidden` [B, T, D] behind a prompt, through the layers that it has streams for.

    `ids` [.., B, T] are the position ids; `added` [L, D] is added to the first token before every
    layer but the first. Gradients flow, into the prompt's keys, too, where these have any. Returns
    the last layer's output and the heads of `layer`, whose keys are the prompt's with the T tokens'
    behind them. The cache is left as it was.
    """
    layers, kinds = parts.layers(model), parts.kinds(model)
    tables = parts.tables(model, hidden, ids)
    config = parts.decoder(model).config
    kernel = implementation(config)
    count = hidden.shape[1]
    same_for_all = {
        **prompt.kwargs,
        "position_ids": ids if ids.dim() == 2 else ids[0],
        "past_key_values": prompt.cache,
        "use_cache": True,
    }
    heads: list[Heads] = []
    attention = None if layer is None else parts.attention(layers[layer])
    if attention is not None:
        watch(attention, heads.append)
    try:
        for number, stream in enumerate(prompt.streams):
            if number:
                first = hidden[:, :1] + added[number].to(hidden)
                hidden = torch.cat([first, hidden[:, 1:]], dim=1)
            mask = None
            if kinds[number] not in STATEFUL:
                sight = Sight(window_of(config, kinds[number]))
                mask = attention_mask(stream, count, count, kernel, hidden, sight)
                if mask is not None:
                    mask = mask[..., -held_by(prompt.cache.layers[number], count) :]
            with _restored(prompt.cache.layers[number]):
                # not called as a module: the session's own hooks are for the prompt
                own = {"attention_mask": mask, "position_embeddings": tables[kinds[number]]}
                kwargs = {**same_for_all, **own}
                out = layers[number].forward(hidden, **kwargs)
            hidden = out[0] if isinstance(out, tuple) else out
    finally:
        if attention is not None:
            unwatch(attention)
    return hidden, heads[0] if heads else None


@contextmanager
def _restored(part: Any) -> Iterator[None]:
    """Put one layer's part of a cache back as it was."""
    if length_of(part) is None:
        with _state_restored(part):
            yield
        return
    keys, values = part.keys, part.values
    # a layer with a window counts what it was given
    length = getattr(part, "cumulative_length", None)
    yield
    part.keys, part.values = keys, values
    if length is not None:
        part.cumulative_length = length


@contextmanager
def _state_restored(part: Any) -> Iterator[None]:
    """The same for a layer that keeps a state, which is overwritten in place."""
    states = []
    for name in ("conv_states", "recurrent_states"):
        for number, state in getattr(part, name).items():
            if state is not None:
                states.append((getattr(part, name), number, state.clone()))
    yield
    for owner, number, state in states:
        owner[number] = state

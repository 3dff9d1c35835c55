"""Compaction: what a stage drops leaves the caches of layers before it, too."""

from __future__ import annotations

from typing import Any

from prunebench.engine.cache import checked, length_of, pick
from prunebench.engine.stream import Stream
from prunebench.models.base import Unsupported


def compact(live: list[Stream], layers: range, stream: Stream, cache: Any) -> None:
    """Remove what died at a stage from the caches of these layers, which lie before it.

    `live` is what each layer holds, and is changed to what it holds then; `stream` is what the
    stage left.
    """
    narrower: dict[int, Stream] = {}
    for number in layers:
        part, before = checked(cache).layers[number], live[number]
        # a state has read what is dropped now, and holds no position that could be taken out
        if length_of(part) is not None:
            _check_whole(number, part, before)
            pick(part, before.columns(stream, part.keys.device))
        if stream.bias is None:
            live[number] = stream
            continue
        # a bias holds from its stage on, so that earlier layers keep their own; those that
        # shared a stream go on sharing one
        if id(before) not in narrower:
            narrower[id(before)] = before.narrowed(stream.source)
        live[number] = narrower[id(before)]


def _check_whole(number: int, part: Any, stream: Stream) -> None:
    """Raise Unsupported where a layer's cache has let go of what lies behind its window."""
    if part.keys.shape[-2] != stream.width:
        raise Unsupported(
            f"layer {number} keeps {part.keys.shape[-2]} of {stream.width} positions (its window), "
            "which cannot be compacted; use shorter inputs"
        )

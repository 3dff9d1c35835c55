"""Injection: visual features that a decoder adds behind its first layers, to what is alive."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prunebench.engine.call import Call
from prunebench.engine.stream import Stream, sent
from prunebench.sites import Part, Site


def in_the_way(sites: Sequence[Site], features: Sequence[Tensor]) -> bool:
    """Whether a stage comes before the last of the layers behind which `features` are added."""
    # the decoder adds a row to every visual token of the prompt, which fits while all are there
    if any(site.part is not Part.LLM for site in sites):
        return bool(features)
    # features[j] come behind layer j, and a stage at llm:k thins what enters layer k
    return any(site.layer < len(features) for site in sites)


def added(hidden: Tensor, features: Tensor, stream: Stream, call: Call) -> Tensor:
    """What leaves a layer, `hidden` [B, n, D], with `features` added to the visual tokens of the
    `stream` that is in it.

    `features` has a row for every visual token of the batch, in prompt order.
    """
    hidden, start = hidden.clone(), 0
    for row, layout in enumerate(call.layouts):
        live = stream.visual(row, call.visual[row])
        columns = sent(live.columns, hidden.device)
        own = features[sent(live.ordinal + start, features.device)].to(hidden)
        hidden[row, columns] = hidden[row, columns] + own
        start += len(layout)
    return hidden

"""Injection: visual features that a decoder adds behind its first layers, for the tokens that are
left there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prunebench.engine.call import Call
from prunebench.engine.stream import Stream, sent
from prunebench.sites import Part, Site


def takes_over(sites: Sequence[Site], features: Sequence[Tensor]) -> bool:
    """Whether a stage comes before the last of the layers behind which `features` are added."""
    # the decoder adds a row to every visual token of the prompt, which fits while all are there
    if any(site.part is not Part.LLM for site in sites):
        return bool(features)
    # features[j] come behind layer j, and a stage at llm:k thins what enters layer k
    return any(site.layer < len(features) for site in sites)


def with_injected(stream: Stream, call: Call, features: Tensor, hidden: Tensor) -> Tensor:
    """What leaves a layer with that stream, with `features` added to the visual tokens in it.

    `features` has a row for every visual token of the batch, in prompt order.
    """
    hidden, start = hidden.clone(), 0
    for row, layout in enumerate(call.layouts):
        live = stream.visual(row, call.visual[row])
        columns = sent(live.columns, hidden.device)
        added = features[sent(live.ordinal + start, features.device)].to(hidden)
        hidden[row, columns] = hidden[row, columns] + added
        start += len(layout)
    return hidden

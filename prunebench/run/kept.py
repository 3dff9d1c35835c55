"""Kept: the tokens that a method keeps of one image, stage by stage, for a drawing of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunebench.display import Mask, mask
from prunebench.run.backend import Answer, Backend, Encoded
from prunebench.run.quality import Bound
from prunebench.run.samples import Samples
from prunebench.sites import Site


@dataclass(frozen=True)
class Kept:
    """What is alive behind every site, in order, and the answer; where nothing was pruned there is
    one mask of all tokens, without a site.

    `samples` are those that the model saw, with a smaller image where the method works on pixels.
    """

    samples: Samples
    answer: Answer
    masks: list[tuple[Site | None, Mask]]


def kept(backend: Backend, bound: Bound, full: Samples) -> Kept:
    """What a method keeps of one image; raises what a cell of it raises."""
    samples = full
    if bound.on_pixels:
        samples = backend.resized(full, bound.pruner, bound.budget)
    # one method only, so no encoding is shared
    encoded = Encoded(samples, samples.inputs)
    answer = backend.answer(encoded, bound.method, bound.conditions(full.requests))
    trace = answer.traces[0]
    layout = trace.layout if bound.on_pixels else full.layouts[0]
    masks: list[tuple[Site | None, Mask]] = []
    for site in sorted(trace.kept):
        masks.append((site, mask(layout, trace.kept[site])))
    if not masks:
        masks.append((None, mask(layout, torch.arange(len(layout)))))
    return Kept(samples, answer, masks)

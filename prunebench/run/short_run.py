"""Short run: two tokens of an answer, for what a method leaves behind on the way to them."""

from __future__ import annotations

from dataclasses import replace

from prunebench.engine.ready import Ready
from prunebench.engine.trace import SampleTrace
from prunebench.run.backend import Backend, Conditions, Encoded
from prunebench.run.quality import Bound
from prunebench.run.samples import Samples


def traces(
    backend: Backend, samples: Samples, ready: Ready, method: Bound | None, seed: int = 0
) -> list[SampleTrace]:
    """A trace a sample, of a run without budget where `method` is None; then `ready` is what leaves
    every token, and `seed` is that of whatever is random.
    """
    short = {"max_new_tokens": 2}
    requests = tuple(replace(one, generation=short) for one in samples.requests)
    encoded = Encoded(replace(samples, requests=requests), samples.inputs)
    conditions = Conditions(None, None, (seed,) * len(requests))
    if method is not None:
        conditions = method.conditions(requests)
    return backend.answer(encoded, ready, conditions).traces

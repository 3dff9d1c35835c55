"""Short run: two tokens of an answer, for what a method leaves behind on the way to them."""

from __future__ import annotations

from dataclasses import replace

from prunebench.engine.trace import SampleTrace
from prunebench.registry import build
from prunebench.run.backend import Backend, Conditions, Encoded
from prunebench.run.quality import Bound
from prunebench.run.samples import Samples
from prunebench.study.record import BASELINE


def traces(
    backend: Backend, samples: Samples, method: Bound | None = None, seed: int = 0
) -> list[SampleTrace]:
    """A trace a sample, of the unpruned model where `method` is None; then `seed` is that of
    whatever is random.
    """
    short = {"max_new_tokens": 2}
    requests = tuple(replace(one, generation=short) for one in samples.requests)
    encoded = Encoded(replace(samples, requests=requests), samples.inputs)
    if method is None:
        ready = backend.ready(build(BASELINE))
        conditions = Conditions(None, None, (seed,) * len(requests))
    else:
        ready, conditions = method.method, method.conditions(requests)
    return backend.answer(encoded, ready, conditions).traces

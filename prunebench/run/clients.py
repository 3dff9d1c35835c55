"""Clients: as many replicas of a loaded model as there are requests in flight, each with prompts of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from prunebench.measure.latency import sessions
from prunebench.measure.load import Client, replica
from prunebench.run.quality import Bound
from prunebench.run.samples import Samples
from prunebench.run.transformers_backend import TransformersBackend


class Clients:
    """Makes clients of a model; its replicas are made once."""

    def __init__(self, backend: TransformersBackend) -> None:
        self._backends = [backend]
        self._streams: list[torch.cuda.Stream | None] = []

    def plain(self, prompts: Sequence[Samples]) -> list[Client]:
        """Clients of the unpruned model, one for each of the prompts."""
        self._grow(len(prompts))
        clients = []
        for backend, stream, samples in zip(self._backends, self._streams, prompts, strict=False):
            clients.append(Client(backend.loaded.model, samples.inputs, nullcontext, stream))
        return clients

    def pruned(self, method: Bound, prompts: Sequence[Samples]) -> list[Client]:
        """The same under a method, which is bound to every replica."""
        clients = []
        for number, client in enumerate(self.plain(prompts)):
            backend, samples = self._backends[number], prompts[number]
            loaded, ready = backend.loaded, backend.ready(method.pruner)
            conditions = method.conditions(samples.requests)
            arguments = backend.session_arguments(samples, ready, conditions)
            session = sessions(loaded.model, loaded.family, samples.inputs, **arguments)
            clients.append(replace(client, session=session))
        return clients

    def _grow(self, count: int) -> None:
        """Have so many replicas, and a stream of the GPU for each."""
        first = self._backends[0]
        while len(self._backends) < count:
            model = replica(first.loaded.model)
            self._backends.append(replace(first, loaded=replace(first.loaded, model=model)))
        while len(self._streams) < count:
            on_gpu = first.loaded.device.type == "cuda"
            self._streams.append(torch.cuda.Stream(first.loaded.device) if on_gpu else None)

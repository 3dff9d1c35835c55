"""Load: several requests in flight at once, under a method and of the unpruned model in turn.

Every client has a model of its own, whose weights it shares with the others: a session serves one
call at a time, and stock models keep things of a call on themselves (Qwen2.5-VL its rope_deltas).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Barrier, BrokenBarrierError
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunebench.measure.energy import energy
from prunebench.measure.latency import fixed_length, interleaved
from prunebench.measure.memory import peak
from prunebench.measure.pairs import PairSettings, Variant
from prunebench.measure.throughput import LoadRow

ROUNDS = 4
"""Requests that a client sends in a run, each when the one before is answered: but for the end, as
many are in flight as there are clients.
"""

Module = TypeVar("Module", bound=nn.Module)


def replica(model: Module) -> Module:
    """A copy of the model that shares its weights and buffers; whatever else it keeps is its own,
    and no hook of a session comes along.
    """
    shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, dict(shared))


@dataclass(frozen=True)
class Client:
    """Who sends one request after the other: a model of its own, and the prompts of each request.

    `session` opens what the calls run in, for all requests of a run: a prune(...) block, or none.
    `stream` is where its work goes on a GPU.
    """

    model: Any
    inputs: Mapping[str, Any]
    session: Callable[[], AbstractContextManager[Any]]
    stream: torch.cuda.Stream | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The client's own stream and session, in its own thread."""
        with torch.cuda.stream(self.stream), self.session(), torch.inference_mode():
            yield

    def answer(self, new_tokens: int) -> Tensor:
        """[B, prompt + new_tokens] ids, once the device has them; raises ValueError for a model
        that stops early.
        """
        ids = fixed_length(self.model, self.inputs, new_tokens)
        if self.stream is not None:
            # no more than this: to wait for the device would be to wait for all clients
            self.stream.synchronize()
        return ids


@dataclass(frozen=True)
class Wave:
    """One run of all clients: what every request took, from the moment when all of them began."""

    requests: tuple[LoadRow, ...]

    def rows(self, pair: int, order: int, variant: Variant) -> list[LoadRow]:
        """The requests under the number of their pair."""
        return [replace(row, pair=pair, order=order, variant=variant) for row in self.requests]


def measure_load(
    methods: Sequence[Sequence[Client]], baseline: Sequence[Client], settings: PairSettings
) -> list[list[LoadRow]]:
    """Time clients under each of the methods against those of the unpruned model, at a fixed output
    length.

    All clients of a run begin together and send `ROUNDS` requests each. Runs alternate as those of
    single requests do. No hook takes the time of a phase, and nobody waits for the device but for
    an answer: while several requests share it, a phase has no time of its own.

    Raises what a client raises, ValueError for a model that stops early.
    """
    runs = [partial(wave, clients, settings.new_tokens) for clients in methods]
    return interleaved(runs, partial(wave, baseline, settings.new_tokens), settings)


def wave(clients: Sequence[Client], new_tokens: int) -> Wave:
    """One run of all clients at once."""
    device = clients[0].model.device
    start = Barrier(len(clients), action=lambda: began.append(perf_counter()))
    began: list[float] = []
    if device.type == "cuda":
        # the inputs came by another stream
        torch.cuda.synchronize(device)
    with peak(device) as peaks, energy(device) as used, ThreadPoolExecutor(len(clients)) as pool:
        waiting = [pool.submit(_requests, client, start, new_tokens) for client in clients]
        spans = _all(waiting)
    rows = []
    for number, of_client in enumerate(spans):
        for request, (start_time, end_time) in enumerate(of_client):
            times = 1e3 * (start_time - began[0]), 1e3 * (end_time - start_time)
            row = LoadRow(0, 0, "method", number, request, *times, peaks.mib, used.joules)
            rows.append(row)
    return Wave(tuple(rows))


def _requests(client: Client, start: Barrier, new_tokens: int) -> list[tuple[float, float]]:
    """When each of a client's requests was sent and answered."""
    spans = []
    try:
        with client.opened():
            start.wait()
            for _ in range(ROUNDS):
                start_time = perf_counter()
                client.answer(new_tokens)
                spans.append((start_time, perf_counter()))
    except BaseException:
        # whoever waits for this client would wait for ever
        start.abort()
        raise
    return spans


def _all(waiting: Sequence[Future[Any]]) -> list[Any]:
    """What the clients gave; raises what the first of them stumbled over, not that the others were
    sent home.
    """
    errors = [error for one in waiting if (error := one.exception()) is not None]
    for error in errors:
        if not isinstance(error, BrokenBarrierError):
            raise error
    return [one.result() for one in waiting]

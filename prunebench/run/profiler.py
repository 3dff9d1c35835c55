"""Profile: what a model still answers when all visual tokens leave before a layer, and how much of
its attention lies on the evidence there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunebench.benchmarks import Benchmark, load_task
from prunebench.border.text import one_line
from prunebench.budget import Budget, Stage
from prunebench.pruner import Pruner
from prunebench.run import options
from prunebench.run.backend import Conditions, ModelSetup
from prunebench.run.options import OptionError
from prunebench.run.profile import ProfileKeys
from prunebench.run.samples import Samples, groups_of, seed_of
from prunebench.run.summary import drawn_together
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.signals import Signal
from prunebench.sites import INPUT, llm
from prunebench.study.profile import Level, Profile
from prunebench.study.statistics import Interval, clustered_interval
from prunebench.study.tables import Row
from prunebench.tokens import Keep, VisualTokens


@dataclass(frozen=True)
class Withdrawal(Pruner):
    """Let all visual tokens go before a layer, and note what the last prompt token paid them in the
    layer before it; None lets none go.

    Not for studies: a method has no memory, and this one is the instrument itself.
    """

    dynamic = True
    before: int | None = None
    attention: list[Tensor] = field(default_factory=list, compare=False, repr=False)
    """[heads, N] a sample, in the order in which they came."""

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.LAST_QUERY_ATTENTION} if self.before else ())

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        if self.before is None:
            return (Stage(INPUT, available),)
        if not self.before:
            return (Stage(INPUT, 0),)
        # not 0, which leaves nothing to ask the method
        return (Stage(llm(before=self.before), max(1, available - 1)),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        if self.before is None:
            return Keep(torch.arange(len(tokens)))
        if self.before:
            self.attention.append(tokens.last_query_attention.float().cpu())
        return Keep(torch.empty(0, dtype=torch.long))


def profile(texts: Iterable[str]) -> tuple[Profile, str]:
    """What key=value texts ask for, and the folder to write it to; raises OptionError and what a
    sweep raises.
    """
    content: dict[str, Any] = {}
    strangers = options.override(content, texts, ProfileKeys)
    for name in strangers:
        raise OptionError(f"unknown key {name}")
    keys = options.structured(ProfileKeys, content)
    if keys.limit < 1:
        raise OptionError(f"limit is {keys.limit}; it starts at 1")
    setup = ModelSetup(
        keys.model, keys.device, keys.dtype, trust_remote_code=keys.trust_remote_code
    )
    backend = TransformersBackend.load(setup)
    benchmark = load_task(keys.task, keys.limit, model_name=backend.manner.wrapper)
    return measured(backend, benchmark, keys.batch or backend.batch), keys.out


def measured(backend: TransformersBackend, benchmark: Benchmark, batch: int) -> Profile:
    """The profile of a loaded model on a task."""
    layers = backend.layers
    answers: list[dict[int, str]] = [{} for _ in range(layers + 1)]
    looks = _Looks(layers)
    rows: list[Row] = []
    for requests in groups_of(benchmark.requests, batch):
        samples = backend.read(benchmark, requests)
        rows += _rows(samples)
        encoded = backend.encode(samples, [])
        conditions = Conditions(None, seeds=[seed_of(one, 0) for one in requests])
        for before in range(layers + 1):
            method = Withdrawal(before if before < layers else None)
            answer = backend.answer(encoded, backend.ready(method), conditions)
            for request, text in zip(requests, answer.texts, strict=True):
                answers[before][request.doc_id] = text
            looks.add(before, samples, method.attention)
    levels = []
    for before, texts in enumerate(answers):
        score, by_type = _scores(benchmark, rows, texts)
        levels.append(Level(before, score, by_type, *looks.means(before)))
    name, count = backend.setup.model, len(benchmark.requests)
    return Profile(name, benchmark.name, count, tuple(levels), looks.evidence)


class _Looks:
    """Where the last prompt token looks, layer by layer, averaged over samples."""

    def __init__(self, layers: int) -> None:
        self._values: list[dict[str, list[float]]] = [defaultdict(list) for _ in range(layers + 1)]
        self._shares: list[float] = []

    def add(self, before: int, samples: Samples, attention: Sequence[Tensor]) -> None:
        """The attention [heads, N] of each of the samples in the layer before `before`."""
        for number, weights in enumerate(attention):
            values = self._values[before]
            values["image"].append(float(weights.sum(-1).mean()))
            mask = _mask(samples, number)
            if mask is None:
                continue
            on_evidence = weights[:, mask].sum(-1)
            values["evidence"].append(float(on_evidence.mean()))
            values["best"].append(float(on_evidence.max()))
            if before == 1:
                self._shares.append(float(mask.float().mean()))

    def means(self, before: int) -> tuple[float | None, float | None, float | None]:
        """On the image, on the evidence, and that of the head that pays it most."""
        image, evidence, best = (
            _mean(self._values[before][name]) for name in ("image", "evidence", "best")
        )
        return image, evidence, best

    @property
    def evidence(self) -> float | None:
        """The share of visual tokens that is evidence."""
        return _mean(self._shares)


def _mask(samples: Samples, number: int) -> Tensor | None:
    """[N] the evidence's tokens; None where the data do not say or have none."""
    boxes = samples.evidence(number)
    return torch.stack(boxes).any(0) if boxes else None


def _rows(samples: Samples) -> list[Row]:
    """What tells samples apart: their names, their kind of question, and what they show."""
    rows = []
    for number, request in enumerate(samples.requests):
        row: Row = {"sample_id": request.sample_id, "doc_id": request.doc_id}
        kind, image = request.question_type, samples.digest(number)
        rows.append({**row, "question_type": kind, "image": image})
    return rows


def _scores(
    benchmark: Benchmark, rows: Sequence[Row], texts: Mapping[int, str]
) -> tuple[Interval, dict[str, float]]:
    """The task's score of answers by doc_id, over all and by kind of question; its interval draws
    samples together as a cell's does.
    """
    scores = benchmark.score(texts)
    scored_rows: list[Row] = []
    values: list[float] = []
    of_type: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        value = scores[row["doc_id"]].get(benchmark.primary)
        if value is None:
            continue
        scored_rows.append(row)
        values.append(float(value))
        if row["question_type"] is not None:
            of_type[row["question_type"]].append(float(value))
    if not values:
        name = one_line(benchmark.name, 60)
        raise OptionError(f"task {name} scores no question by itself; profile another one")
    by_type = {kind: sum(marks) / len(marks) for kind, marks in of_type.items()}
    clusters = drawn_together(benchmark, scored_rows, scores)
    _, low, high = clustered_interval(values, clusters, benchmark.scoring.reviewed.bounds)
    mean = sum(values) / len(values)
    if low is None or high is None:
        low = high = math.nan
    return Interval(mean, low, high, len(values)), by_type


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

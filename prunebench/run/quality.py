"""Quality: the answers of one cell to one group of samples, with what they cost in tokens, FLOPs
and cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from prunebench.benchmarks import Request
from prunebench.border.text import message, one_line
from prunebench.budget import Budget, BudgetError
from prunebench.engine.checks import planned
from prunebench.engine.ready import Ready
from prunebench.measure.evidence import recall
from prunebench.measure.flops import Flops
from prunebench.pruner import Positions, Pruner
from prunebench.registry import build
from prunebench.run.backend import Backend, Conditions, Encoded
from prunebench.run.samples import Samples, seed_of
from prunebench.run.store import Row
from prunebench.sites import Part
from prunebench.study.columns import FLOPS_PARTS
from prunebench.study.record import BASELINE, SampleStatus

if TYPE_CHECKING:
    from prunebench.engine.trace import SampleTrace
    from prunebench.run.cell import Cell


@dataclass(frozen=True)
class Bound:
    """A cell's method, bound to the model, with the cell's budget and seed; `pruner` is the method
    as it was built, and `positions` what its cell does with position ids.
    """

    pruner: Pruner
    method: Ready
    budget: Budget | None
    seed: int
    positions: Positions | None = None

    @classmethod
    def alone(cls, backend: Backend, cell: Cell) -> Self:
        """A cell's method by itself: one that works on pixels has the model run unpruned."""
        pruner: Pruner = cell.variant.pruner
        method = backend.ready(build(BASELINE) if on_pixels(pruner) else pruner)
        return cls(pruner, method, cell.budget, cell.seed, cell.variant.positions)

    @property
    def on_pixels(self) -> bool:
        """Whether the method works before the processor."""
        return on_pixels(self.pruner)

    def conditions(self, requests: Sequence[Request], count_flops: bool = False) -> Conditions:
        """Under what the model runs on these samples; what works on pixels has met its budget
        before.
        """
        seeds = [seed_of(request, self.seed) for request in requests]
        budget = None if self.on_pixels else self.budget
        return Conditions(budget, self.positions, seeds, count_flops)


def on_pixels(pruner: Pruner) -> bool:
    """Whether a method works before the processor."""
    return pruner.site().part is Part.PIXELS


def answer(backend: Backend, cell: Bound, plain: Ready, shared: Encoded) -> list[Row]:
    """One row a sample, without its score; `plain` is the method that prunes nothing, for those
    that work on pixels.
    """
    start = perf_counter()
    full = shared.samples
    conditions = cell.conditions(full.requests, count_flops=True)
    if cell.on_pixels:
        # its work is done before the processor, so the model runs on the smaller image unpruned
        samples = backend.resized(full, cell.method.pruner, cell.budget)
        encoded, method = backend.encode(samples, []), plain
    else:
        method = cell.method
        # nothing was dropped in the encoding that is shared
        encoded = Encoded(full, full.inputs) if method.inside_encoder() else shared
        errors = _beyond_budget(backend, cell, full)
        if errors:
            raise errors[0]
    preparing = perf_counter() - start
    answers = backend.answer(encoded, method, conditions)
    # a group is timed as one, so each of its samples has an equal share
    seconds = (preparing + answers.seconds) / len(answers.texts)
    rows = []
    for number, (text, trace) in enumerate(zip(answers.texts, answers.traces, strict=True)):
        request, layout = full.requests[number], full.layouts[number]
        row = {
            **_identity(request),
            "status": "ok",
            "prediction": text,
            "error": None,
            # available are those of the full image, also for a method that shrinks it
            **_tokens(trace, len(layout)),
            "image": full.digest(number),
        }
        if not cell.on_pixels:  # a smaller image keeps no token, so it has no recall
            row |= _evidence(trace, full.evidence(number))
        # of the inputs that the model ran on, which may be smaller images
        row |= _flops(backend.flops(encoded.samples, number, trace))
        row |= _video(full, number)
        row |= {
            "kv_bytes": trace.kv_bytes,
            "kv_bytes_padded": trace.kv_bytes_padded,
            "seconds": seconds,
        }
        rows.append(row)
    return rows


def rows_of(backend: Backend, cell: Bound, plain: Ready, shared: Encoded) -> list[Row]:
    """What `answer` gives; where none of the samples can meet the budget, a row each that says so,
    for then nothing is gained by asking them one by one.
    """
    requests = shared.samples.requests
    try:
        return answer(backend, cell, plain, shared)
    except BudgetError:
        # of what works on pixels nothing can be planned
        errors = [] if cell.on_pixels else _beyond_budget(backend, cell, shared.samples)
        if len(errors) < len(requests):
            raise
    reasons = [one_line(message(error)) for error in errors]
    pairs = zip(requests, reasons, strict=True)
    return [unanswered(request, "infeasible", reason) for request, reason in pairs]


def unanswered(request: Request, status: SampleStatus, error: str) -> Row:
    """The row of a sample that has no answer, and why."""
    return {**_identity(request), "status": status, "prediction": None, "error": error}


def _beyond_budget(backend: Backend, cell: Bound, samples: Samples) -> list[BudgetError]:
    """Why samples cannot meet the budget, one error each that cannot: found by plans, without a
    call of the model. Raises Unsupported where one cannot be served.
    """
    errors: dict[int, BudgetError] = {}
    counts = [len(layout) for layout in samples.layouts]
    for available in dict.fromkeys(counts):
        try:
            planned(cell.method, cell.budget, None, available, backend.layers)
        except BudgetError as error:
            errors[available] = error
    return [errors[available] for available in counts if available in errors]


def _identity(request: Request) -> Row:
    return {
        "sample_id": request.sample_id,
        "doc_id": request.doc_id,
        "reference": request.reference,
        "question_type": request.question_type,
        "complexity": request.complexity,
    }


def _tokens(trace: SampleTrace, available: int) -> Row:
    sites = sorted(trace.kept)
    return {
        "available": available,
        "stages": [len(trace.kept[site]) for site in sites],
        "sites": " ".join(map(str, sites)),
        "entering": list(trace.entering),
        "tokens_input": trace.spent("input"),
        "tokens_mean": trace.spent("mean"),
        "tokens_kv": trace.spent("kv"),
    }


def _evidence(trace: SampleTrace, boxes: Sequence[Tensor] | None) -> Row:
    """Where it is known which tokens are evidence: `boxes` holds [N] bool a box.

    All is averaged over the LLM's layers, as a mean budget is: at one budget a method that keeps
    all for two layers and few from there on stands beside one that keeps some throughout.
    """
    if boxes is None:
        # the answer counts all the same
        return {}
    sites = [trace.thinned_at(layer) for layer in range(len(trace.entering))]
    # by site, for layers behind the same stage have the same tokens
    kept = {site: trace.behind(site) for site in set(sites)}
    answerable = {site: _all_seen(boxes, tokens) for site, tokens in kept.items()}
    row: Row = {"perfect": _mean([answerable[site] for site in sites])}
    if boxes:
        evidence = torch.stack(list(boxes)).any(0)
        shares = {site: recall(tokens, evidence) for site, tokens in kept.items()}
        row["evidence_recall"] = _mean([shares[site] for site in sites])
        row["evidence_tokens"] = int(evidence.sum())
    return row


def _all_seen(boxes: Sequence[Tensor], kept: Tensor) -> bool:
    """Whether of each of the boxes [N] a token is among the `kept` [K]."""
    return all(bool(box[kept].any()) for box in boxes)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _video(samples: Samples, number: int) -> Row:
    """Which frames a sample shows of its videos; nothing where it shows none."""
    frames, fps = samples.shown(number)
    return {"frames": frames, "video_fps": fps} if frames else {}


def _flops(flops: Flops) -> Row:
    return {f"flops_{part}": int(getattr(flops, part)) for part in FLOPS_PARTS}

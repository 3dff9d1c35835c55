"""Latency: a method and the unpruned model in interleaved pairs, by phase, on synchronised clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from math import comb
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from prunebench.budget import Budget
from prunebench.engine.cache import live_bytes
from prunebench.engine.call import CallerGives
from prunebench.engine.ready import Ready, make_ready
from prunebench.engine.session import prune
from prunebench.measure import Metric
from prunebench.measure.memory import peak
from prunebench.pruner import Positions, Pruner

if TYPE_CHECKING:
    from prunebench.engine.trace import Trace
    from prunebench.models.base import Family

Variant = Literal["method", "baseline"]
Phase = Literal["vision", "select", "prefill", "decode", "total"]

VARIANTS: tuple[Variant, ...] = ("method", "baseline")
PHASES: tuple[Phase, ...] = ("vision", "select", "prefill", "decode", "total")


@dataclass(frozen=True)
class PairRow:
    """One phase of one run; `order` is 0 for the run that came first in its pair, 1 for the second.

    `ms` is per token for decode. Memory stands in the rows of the phase "total"; `peak_memory_mib`
    is None where the platform does not tell, `kv_bytes` are those of live keys and values after the
    prefill, without padding.
    """

    pair: int
    order: int
    variant: Variant
    phase: Phase
    ms: float
    peak_memory_mib: float | None = None
    kv_bytes: int | None = None


def measure_pairs(
    model: Any,
    family: Family,
    inputs: Mapping[str, Any],
    pruner: Pruner | Ready | str | None,
    budget: Budget | float | str | None,
    *,
    new_tokens: int = 8,
    warmup: int = 2,
    pairs: int = 10,
    min_seconds: float = 0.0,
    positions: Positions | None = None,
    baseline_inputs: Mapping[str, Any] | None = None,
    **session: Any,
) -> list[PairRow]:
    """Time `generate` under the pruner against plain `generate` without the engine, at a fixed
    output length.

    At least `pairs` pairs and at least `min_seconds` of them, after `warmup` pairs that are thrown
    away; who goes first alternates. A method that works on pixels has done so in `inputs`: then
    `pruner` is None, the engine stays out, and `baseline_inputs` hold the full image. `session`
    goes to `prune` (seeds, questions, layouts). Greedy, no end of sequence. A method is bound to
    the model and tokens are located once, and a session is opened outside the clock: it lives for
    many calls.

    The phases: "vision", the encoder's forward without what a method observes there; "select",
    signals and selection as the engine reports them; "prefill", the model's first forward with its
    LM head, less what of these two lay inside; "decode", from the end of that to the end of the
    last forward, per token, sampling between them included; "total", the whole call. The hooks that
    take the time are the same for both. On a GPU the engine also waits for the device around every
    selection, at the method's expense.

    Raises ValueError for fewer than 2 new tokens, no pair, or a model that stops early.
    """
    if new_tokens < 2:
        raise ValueError(f"new_tokens is {new_tokens}; decode time needs at least 2")
    if pairs < 1 or warmup < 0:
        raise ValueError(
            f"pairs is {pairs} and warmup {warmup}; measure at least 1 pair after 0 or more of warm-up"
        )

    full = baseline_inputs if baseline_inputs is not None else inputs

    ready = (
        pruner if pruner is None or isinstance(pruner, Ready) else make_ready(family, model, pruner)
    )
    if ready is not None:
        session = _located(model, family, inputs, ready, session)

    def method() -> _Run:
        if ready is None:
            return _run(model, family, inputs, new_tokens)
        opened = prune(model, ready, budget, positions=positions, timed=True, **session)
        return _run(model, family, inputs, new_tokens, opened)

    def baseline() -> _Run:
        return _run(model, family, full, new_tokens)

    for _ in range(warmup):
        method(), baseline()
    variants: list[tuple[Variant, Callable[[], _Run]]] = [
        ("method", method),
        ("baseline", baseline),
    ]
    rows: list[PairRow] = []
    pair, start = 0, perf_counter()
    while pair < pairs or perf_counter() - start < min_seconds:
        for order, (variant, measure) in enumerate(
            variants if pair % 2 == 0 else reversed(variants)
        ):
            rows += measure().rows(pair, order, variant)
        pair += 1
    return rows


def _located(
    model: Any, family: Family, inputs: Mapping[str, Any], ready: Ready, session: Mapping[str, Any]
) -> dict[str, Any]:
    """The session's arguments with where the tokens lie, so that no timed call has to look."""
    located = dict(session)
    if located.get("layouts") is None:
        told = CallerGives(
            **{name: session.get(name) for name in ("pictures", "masks", "processor")}
        )
        located["layouts"] = family.layouts(model, inputs, told.originals())
    if located.get("rows") is None and ready.blocks:
        located["rows"] = family.encoder_rows(model, inputs, located["layouts"])
    return located


def summarize(rows: Sequence[PairRow]) -> list[Metric]:
    """Median of every phase and variant, median of the ratios method / baseline within pairs,
    memory of both.

    Intervals are order statistics of the median, hold for any distribution and cover at least 95 %;
    fewer than 6 pairs give none. Selection has no baseline. Raises ValueError where a pair lacks a
    variant.
    """
    pairs = sorted({row.pair for row in rows})
    by_place = {(row.pair, row.variant, row.phase): row for row in rows}
    for pair in pairs:
        for variant in VARIANTS:
            if (pair, variant, "total") not in by_place:
                raise ValueError(f"pair {pair} has no {variant} run")
    metrics = []
    for phase in PHASES:
        method = [by_place[pair, "method", phase].ms for pair in pairs]
        metrics.append(_median(f"latency_{phase}_ms", method, "ms"))
        if phase == "select":
            continue
        baseline = [by_place[pair, "baseline", phase].ms for pair in pairs]
        metrics.append(_median(f"latency_{phase}_baseline_ms", baseline, "ms"))
        if all(baseline):
            ratios = [ours / theirs for ours, theirs in zip(method, baseline, strict=True)]
            metrics.append(_median(f"latency_{phase}_ratio", ratios, "ratio"))
    for variant in VARIANTS:
        suffix = "" if variant == "method" else "_baseline"
        totals = [by_place[pair, variant, "total"] for pair in pairs]
        peaks = [row.peak_memory_mib for row in totals if row.peak_memory_mib is not None]
        caches = [float(row.kv_bytes) for row in totals if row.kv_bytes is not None]
        metrics += [_median(f"peak_memory{suffix}_mib", peaks, "MiB")] if peaks else []
        metrics += [_median(f"kv_bytes{suffix}", caches, "bytes")] if caches else []
    return metrics


def median_interval(values: Sequence[float], coverage: float = 0.95) -> tuple[float, float] | None:
    """The narrowest symmetric pair of order statistics that covers the median at least so often, by
    the binomial law.

    None where even the smallest and the largest value do not (below 6 values for 95 %).
    """
    ranked, n = sorted(values), len(values)
    outside, low = 0.0, -1
    for place in range(n // 2):
        outside += 2 * comb(n, place) / 2**n
        if outside > 1 - coverage:
            break
        low = place
    return None if low < 0 else (ranked[low], ranked[n - 1 - low])


@dataclass
class _Run:
    """What the hooks saw of one call of `generate`, in seconds of one clock."""

    started: float = 0.0
    ended: float = 0.0
    vision: float = 0.0
    vision_in_prefill: float = 0.0
    select: float = 0.0
    observe: float = 0.0
    forwards: list[list[float]] = field(default_factory=list)
    kv_bytes: int = 0
    cache: Any = None
    peak_memory_mib: float | None = None

    def rows(self, pair: int, order: int, variant: Variant) -> list[PairRow]:
        """A row for each phase; a baseline selects nothing."""
        (prefill_start, prefill_end), last = self.forwards[0], self.forwards[-1][1]
        seconds: dict[Phase, float] = {"vision": self.vision - self.observe}
        if variant == "method":
            seconds["select"] = self.select
        inside = self.select - self.observe  # what was observed lay in the encoder
        seconds["prefill"] = prefill_end - prefill_start - self.vision_in_prefill - inside
        seconds["decode"] = (last - prefill_end) / (len(self.forwards) - 1)
        rows = [
            PairRow(pair, order, variant, phase, 1e3 * value) for phase, value in seconds.items()
        ]
        total = 1e3 * (self.ended - self.started)
        return [
            *rows,
            PairRow(pair, order, variant, "total", total, self.peak_memory_mib, self.kv_bytes),
        ]


def _run(
    model: Any,
    family: Family,
    inputs: Mapping[str, Any],
    new_tokens: int,
    session: AbstractContextManager[Trace] | None = None,
) -> _Run:
    """One timed call of `generate`, in a session of its own where one is given."""
    with _clocks(
        model, family
    ) as run:  # before the session's hooks, whose work belongs to the method
        if session is None:
            _generate(model, inputs, new_tokens, run)
            run.kv_bytes = _prompt_bytes(run.cache, inputs)
            return run
        with session as trace:
            _generate(model, inputs, new_tokens, run)
            run.select, run.observe = trace.seconds["select"], trace.seconds["observe"]
            run.kv_bytes = sum(sample.kv_bytes for sample in trace.samples)
    return run


def _prompt_bytes(cache: Any, inputs: Mapping[str, Any]) -> int:
    """Bytes of the live keys and values of an unpruned prompt, over the batch."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(dim=1).tolist()
    return sum(live_bytes(cache, [length] * len(cache.layers)) for length in lengths)


@contextmanager
def _clocks(model: Any, family: Family) -> Iterator[_Run]:
    """Hooks on the model and its vision encoder, for one run; they change nothing."""
    run, device = _Run(), model.device
    entered: list[float] = []

    def before_vision(*_: Any) -> None:
        entered.append(_now(device))

    def after_vision(*_: Any) -> None:
        seconds = _now(device) - entered.pop()
        run.vision += seconds
        if run.forwards:
            run.vision_in_prefill += seconds

    def before_model(_model: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        run.cache = kwargs["past_key_values"]
        run.forwards.append([_now(device)])

    def after_model(*_: Any) -> None:
        run.forwards[-1].append(_now(device))

    with ExitStack() as undo:
        vision = family.vision(model)
        undo.callback(vision.register_forward_pre_hook(before_vision).remove)
        undo.callback(vision.register_forward_hook(after_vision).remove)
        undo.callback(model.register_forward_pre_hook(before_model, with_kwargs=True).remove)
        undo.callback(model.register_forward_hook(after_model).remove)
        yield run


def _generate(model: Any, inputs: Mapping[str, Any], new_tokens: int, run: _Run) -> None:
    """One timed call of exactly `new_tokens` new tokens."""
    with torch.inference_mode(), peak(model.device) as memory:
        run.started = _now(model.device)
        # eos_token_id=None: whatever the model says, it goes on
        ids = model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            eos_token_id=None,
        )
        run.ended = _now(model.device)
    run.peak_memory_mib = memory.mib
    made = ids.shape[1] - inputs["input_ids"].shape[1]
    if made != new_tokens or len(run.forwards) != new_tokens:
        raise ValueError(
            f"the model made {made} tokens in {len(run.forwards)} forwards where {new_tokens} were asked for, "
            "so its times cannot be compared"
        )


def _now(device: torch.device) -> float:
    """The clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def _median(name: str, values: Sequence[float], unit: str) -> Metric:
    """Lower is better in everything measured here."""
    low, high = median_interval(values) or (None, None)
    return Metric(name, median(values), unit, None, low, high, len(values), False)

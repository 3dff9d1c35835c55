"""Latency: a method and the unpruned model in turn, by phase, on synchronised clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from prunebench.budget import Budget
from prunebench.engine.cache import live_bytes
from prunebench.engine.call import CallerGives
from prunebench.engine.ready import Ready, make_ready
from prunebench.engine.session import prune
from prunebench.measure.energy import energy
from prunebench.measure.memory import Peak, peak
from prunebench.measure.pairs import USUAL, PairRow, PairSettings, Variant
from prunebench.pruner import Pruner
from prunebench.study.columns import Phase

if TYPE_CHECKING:
    from prunebench.engine.trace import Trace
    from prunebench.models.base import Family


Row = TypeVar("Row")


class Run(Protocol[Row]):
    """What was measured of one run, whatever was timed."""

    def rows(self, pair: int, order: int, variant: Variant) -> list[Row]:
        """Its rows, once it is known which run of which pair it was."""


@dataclass
class TimedRun:
    """What the hooks saw of one call of `generate`, in seconds of one clock.

    `forwards` are the start and the end of every forward of the model; `select` is what the method
    took, `observe` the part of it that lay inside the vision encoder, which ran for `vision`
    seconds, `vision_in_prefill` of them inside the model's first forward.
    """

    started: float = 0.0
    ended: float = 0.0
    vision: float = 0.0
    vision_in_prefill: float = 0.0
    select: float = 0.0
    observe: float = 0.0
    forwards: list[list[float]] = field(default_factory=list)
    kv_bytes: int = 0
    cache: Any = None
    peaks: Peak = field(default_factory=lambda: Peak(None))
    joules: float | None = None

    def rows(self, pair: int, order: int, variant: Variant) -> list[PairRow]:
        """A row for each phase; a baseline selects nothing."""
        prefill_start, prefill_end = self.forwards[0]
        last_end = self.forwards[-1][1]
        # what was observed lay in the encoder, whose time the prefill is without already
        select_in_prefill = self.select - self.observe
        seconds: dict[Phase, float] = {"vision": self.vision - self.observe}
        if variant == "method":
            seconds["select"] = self.select
        seconds["prefill"] = (
            prefill_end - prefill_start - self.vision_in_prefill - select_in_prefill
        )
        # the prefill makes the first token, so there is a forward less to share among
        seconds["decode"] = (last_end - prefill_end) / (len(self.forwards) - 1)
        rows = []
        for phase, value in seconds.items():
            peak_mib = self.peaks.phases.get(phase)
            rows.append(PairRow(pair, order, variant, phase, 1e3 * value, peak_mib))
        total = 1e3 * (self.ended - self.started)
        spent = self.peaks.mib, self.kv_bytes, self.joules
        return [*rows, PairRow(pair, order, variant, "total", total, *spent)]


def measure_pairs(
    model: Any,
    family: Family,
    inputs: Mapping[str, Any],
    pruner: Pruner | Ready | str | None,
    budget: Budget | float | str | None,
    settings: PairSettings = USUAL,
    *,
    baseline_inputs: Mapping[str, Any] | None = None,
    **session: Any,
) -> list[PairRow]:
    """Time `generate` under the pruner against plain `generate` without the engine, at a fixed
    output length.

    Who goes first alternates. A method that works on pixels has done so in `inputs`: then `pruner`
    is None, the engine stays out, and `baseline_inputs` hold the full image. `session` goes to
    `prune` (positions, seeds, questions, layouts). Greedy, no end of sequence. A method is bound to
    the model and tokens are located once, and a session is opened outside the clock: it lives for
    many calls.

    The phases: "vision", the encoder's forward without what a method observes there; "select",
    signals and selection as the engine reports them; "prefill", the model's first forward with its
    LM head, less what of these two lay inside; "decode", from the end of that to the end of the
    last forward, per token, sampling between them included; "total", the whole call. The hooks that
    take the time are the same for both. On a GPU the engine also waits for the device around every
    selection, at the method's expense.

    Raises ValueError for a model that stops early.
    """
    full = baseline_inputs if baseline_inputs is not None else inputs
    method = runs(model, family, inputs, settings.new_tokens, pruner, budget, **session)
    (rows,) = interleaved([method], runs(model, family, full, settings.new_tokens), settings)
    return rows


def runs(
    model: Any,
    family: Family,
    inputs: Mapping[str, Any],
    new_tokens: int,
    pruner: Pruner | Ready | str | None = None,
    budget: Budget | float | str | None = None,
    **session: Any,
) -> Callable[[], TimedRun]:
    """What makes one timed run after the other, under the pruner or, where it is None, without the
    engine; all that a run need not do again is done here.
    """
    if pruner is None:
        return partial(timed_run, model, family, inputs, new_tokens)
    ready = pruner if isinstance(pruner, Ready) else make_ready(family, model, pruner)
    opened = sessions(model, family, inputs, ready, budget=budget, timed=True, **session)

    def run() -> TimedRun:
        return timed_run(model, family, inputs, new_tokens, opened())

    return run


def interleaved(
    methods: Sequence[Callable[[], Run[Row]]],
    baseline: Callable[[], Run[Row]],
    settings: PairSettings,
) -> list[list[Row]]:
    """The rows of pairs of runs, for each of the methods, whatever makes the runs.

    In a round every method runs once and the baseline once, which is that of all their pairs; in
    the next round another one begins, so that of one method and the baseline who goes first
    alternates. `settings.min_seconds` are those of a method's runs and of the baseline's beside it.
    """
    order = [*methods, baseline]
    for _ in range(settings.warmup):
        for run in order:
            run()
    rows: list[list[Row]] = [[] for _ in methods]
    # a pair is two runs of a round
    seconds = settings.min_seconds * len(order) / 2
    pair, start = 0, perf_counter()
    while pair < settings.pairs or perf_counter() - start < seconds:
        first = pair % len(order)
        places = [(first + place) % len(order) for place in range(len(order))]
        timings = {number: order[number]() for number in places}
        last = len(methods)
        for number, of_method in enumerate(rows):
            of_method += timings[number].rows(pair, places.index(number), "method")
            of_method += timings[last].rows(pair, places.index(last), "baseline")
        pair += 1
    return rows


def sessions(
    model: Any, family: Family, inputs: Mapping[str, Any], pruner: Ready, **session: Any
) -> Callable[[], AbstractContextManager[Trace]]:
    """What opens one session after the other; the tokens are located here, so that no timed call
    has to look.
    """
    located = dict(session)
    if located.get("layouts") is None:
        originals = {name: session.get(name) for name in ("pictures", "masks", "processor")}
        caller = CallerGives(**originals)
        located["layouts"] = family.layouts(model, inputs, caller.originals())
    if located.get("rows") is None and pruner.blocks:
        located["rows"] = family.encoder_rows(model, inputs, located["layouts"])
    return partial(prune, model, pruner, **located)


def timed_run(
    model: Any,
    family: Family,
    inputs: Mapping[str, Any],
    new_tokens: int,
    session: AbstractContextManager[Trace] | None = None,
) -> TimedRun:
    """One timed call of `generate`, in a session of its own where one is given."""
    # before the session's hooks, whose work belongs to the method
    with _clocks(model, family) as run:
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
    # not the cache's own length: that has the new tokens and the padding, too
    lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(dim=1).tolist()
    depth = len(cache.layers)
    return sum(live_bytes(cache, [length] * depth) for length in lengths)


@contextmanager
def _clocks(model: Any, family: Family) -> Iterator[TimedRun]:
    """Hooks on the model and its vision encoder, for one run; they change nothing."""
    run, device = TimedRun(), model.device
    entered: list[float] = []

    def before_vision(*_: Any) -> None:
        run.peaks.note("prefill" if run.forwards else "rest")
        entered.append(_now(device))

    def after_vision(*_: Any) -> None:
        seconds = _now(device) - entered.pop()
        run.vision += seconds
        run.peaks.note("vision")
        # where the model itself calls its encoder, its time lies inside the model's forward
        if run.forwards:
            run.vision_in_prefill += seconds

    def before_model(_model: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        # `generate` makes the cache itself and returns only ids
        run.cache = kwargs["past_key_values"]
        if not run.forwards:
            run.peaks.note("rest")
        run.forwards.append([_now(device)])

    def after_model(*_: Any) -> None:
        run.forwards[-1].append(_now(device))
        if len(run.forwards) == 1:
            run.peaks.note("prefill")

    with ExitStack() as undo:
        vision = family.vision(model)
        undo.callback(vision.register_forward_pre_hook(before_vision).remove)
        undo.callback(vision.register_forward_hook(after_vision).remove)
        undo.callback(model.register_forward_pre_hook(before_model, with_kwargs=True).remove)
        undo.callback(model.register_forward_hook(after_model).remove)
        yield run


def _generate(model: Any, inputs: Mapping[str, Any], new_tokens: int, run: TimedRun) -> None:
    """One timed call of exactly `new_tokens` new tokens."""
    device = model.device
    with torch.inference_mode(), peak(device) as run.peaks, energy(device) as used:
        run.started = _now(device)
        fixed_length(model, inputs, new_tokens)
        run.ended = _now(device)
        run.peaks.note("decode")
    run.joules = used.joules
    if len(run.forwards) != new_tokens:
        raise ValueError(
            f"the model ran {len(run.forwards)} times for {new_tokens} tokens, so that decoding "
            "has no time a token"
        )


def fixed_length(model: Any, inputs: Mapping[str, Any], new_tokens: int) -> Tensor:
    """[B, prompt + new_tokens] ids of a greedy call of `generate`; raises ValueError for a model
    that stops early.
    """
    # eos_token_id=None: whatever the model says, it goes on
    ids: Tensor = model.generate(
        **inputs,
        do_sample=False,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        eos_token_id=None,
    )
    length = ids.shape[1] - inputs["input_ids"].shape[1]
    if length != new_tokens:
        raise ValueError(
            f"the model made {length} tokens where {new_tokens} were asked for, so its times "
            "cannot be compared"
        )
    return ids


def _now(device: torch.device) -> float:
    """The clock, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()

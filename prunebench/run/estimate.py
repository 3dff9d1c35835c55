"""Estimate: what methods cost on a public model at real size, worked out and not run.

No weights, no hub and no device: seconds of arithmetic on the configurations that the package
brings along.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.border import files
from prunebench.border.bounds import Bound
from prunebench.border.text import one_line
from prunebench.run import options
from prunebench.run.bench import size_of
from prunebench.run.grid import CONTROLS, build
from prunebench.run.keys import GridError, check_values, key
from prunebench.run.question import DEFAULT_TASK
from prunebench.study.record import BASELINE

if TYPE_CHECKING:
    from prunebench.pricing.bill import Bill
    from prunebench.pricing.memory import Footprint
    from prunebench.pricing.roofline import Accelerator, Times
    from prunebench.pricing.subject import Scene, Subject
    from prunebench.run.cell import Cell

LISTS = ("methods", "budgets", "batch", "convention")
ALL = "all"
TYPES = ("bfloat16", "float16", "float32")
MOST_CONTEXT = 10_000_000


@dataclass
class Cost:
    """What is worked out: every method at every budget, for a request with one image."""

    model: str = key(
        "qwen2.5-vl-7b", "A public model, by its short name or hub id.", "model=llava-1.5-7b"
    )
    methods: list[Any] = key(["all"], "Methods, as in a grid.", "methods=divprune,fastv")
    budgets: list[Any] = key(
        ["0.5", "0.25", "0.1"], "Budgets, as in a grid.", "budgets=own,0.25,kv:0.25"
    )
    image: str = key("1344x1344", "Size of the image in pixels.", "image=672x448")
    text: int = key(
        64, "Tokens of text in the prompt.", "text=200", Bound(least=1, most=MOST_CONTEXT)
    )
    context: int | None = key(
        None,
        "Tokens of an unpruned request in all, image, text and answer; text fills it up.",
        "context=8192",
        Bound(least=2, most=MOST_CONTEXT),
    )
    new_tokens: int = key(
        64, "Tokens of the answer.", "new_tokens=256", Bound(least=1, most=100_000)
    )
    batch: list[int] = key([1], "Requests that run together.", "batch=1,8,32")
    accelerator: str | None = key(
        None, "A card whose peak and bandwidth are known.", "accelerator=h100"
    )
    peak_tflops: float | None = key(
        None,
        "TFLOP a second of dense products, in place of a card's.",
        "peak_tflops=989",
        Bound(least=0.001),
    )
    bandwidth_gb_s: float | None = key(
        None,
        "Gigabytes a second of its memory, in place of a card's.",
        "bandwidth_gb_s=3350",
        Bound(least=0.001),
    )
    memory: float | None = key(
        None, "Gigabytes of memory; without it the card's.", "memory=80", Bound(least=0.001)
    )
    usable: float = key(
        0.9,
        "Share of the memory for weights and caches; the rest is for activations.",
        "usable=0.85",
        Bound(least=0.01, most=1.0),
    )
    dtype: str = key(
        "bfloat16", "The type of weights and caches.", "dtype=float16", Bound(choices=TYPES)
    )
    convention: list[str] = key(
        [],
        "Formulas of papers that stand beside the FLOPs: fastv, sparsevlm, glimpseprune, or all.",
        "convention=fastv,sparsevlm",
    )
    out: str | None = key(None, "A CSV file that all numbers are written to.", "out=cost.csv")


@dataclass(frozen=True)
class Line:
    """One method at one budget: its bill and what it takes of memory, or why it has none."""

    label: str
    budget: str
    bill: Bill | None = None
    footprint: Footprint | None = None
    status: str = "ok"
    reason: str = ""


class Estimate:
    """A question's answers: a line a method and budget, the unpruned model first."""

    def __init__(self, question: Cost, cells: Sequence[Cell]) -> None:
        """Look up model, card and formulas; raises GridError or Unsupported for what is unknown."""
        from prunebench.pricing.public import record
        from prunebench.pricing.subject import Subject

        self.question = question
        self.record = record(question.model)
        self.subject: Subject = Subject.of(self.record)
        self.card = card_of(question)
        self.conventions = conventions_of(question)
        self.cells = cells

    @cached_property
    def scene(self) -> Scene:
        """The prompt; raises GridError where image and answer do not fit the context."""
        question, size = self.question, size_of(self.question.image)
        if question.context is None:
            return self.subject.scene(size, question.text)
        bare = self.subject.scene(size, 1)
        text = question.context - bare.visual - bare.text + 1 - question.new_tokens
        if text < 1:
            least = question.context - text + 1
            raise GridError(
                f"context is {question.context}; image and answer alone take {least}, so give "
                "that or more"
            )
        return self.subject.scene(size, text)

    @property
    def asks_transformers(self) -> bool:
        """Whether transformers itself says how an image is cut, which takes seconds to import."""
        from prunebench.pricing.pictures import BY_TRANSFORMERS

        return self.record.images.get("cut") in BY_TRANSFORMERS

    @property
    def memory(self) -> float | None:
        """Gigabytes that weights and caches have, before the share that is usable."""
        if self.question.memory is not None:
            return self.question.memory
        return None if self.card is None or not self.card.memory else self.card.memory

    @cached_property
    def lines(self) -> list[Line]:
        """Every line, worked out once."""
        return [self._line(cell) for cell in self.cells]

    @property
    def baseline(self) -> Line:
        """The unpruned model."""
        return self.lines[0]

    def times(self, line: Line, batch: int) -> Times | None:
        """How long a batch of such requests takes at least; None without a card."""
        from prunebench.pricing.roofline import Roofline

        if self.card is None or line.bill is None:
            return None
        return Roofline(self.card, self.subject, batch, self.question.dtype).times(line.bill)

    def fits(self, line: Line) -> int | None:
        """How many requests have room at once; None where no memory is named."""
        if self.memory is None or line.footprint is None:
            return None
        return line.footprint.fits(self.memory, self.question.usable)

    def _line(self, cell: Cell) -> Line:
        """A cell's numbers, or why the model or the budget does not allow it."""
        from prunebench.budget import BudgetError
        from prunebench.models.base import Unsupported
        from prunebench.pricing.bill import pruned, unpruned
        from prunebench.pricing.memory import footprint

        kind = cell.budget_kind
        budget = cell.amount if kind in ("", "mean") else f"{kind}:{cell.amount}"
        label, tokens = cell.variant.label, self.question.new_tokens
        scene = self.scene
        try:
            if cell.variant.name == BASELINE:
                bill = unpruned(scene, tokens)
            else:
                bill = pruned(scene, drawn_weights(cell.variant.pruner), cell.budget, tokens)
        except BudgetError as error:
            return Line(label, budget, status="infeasible", reason=one_line(str(error), 300))
        except Unsupported as error:
            return Line(label, budget, status="unsupported", reason=one_line(str(error), 300))
        room = footprint(self.subject, bill.lengths, bill.new_tokens, self.question.dtype)
        return Line(label, budget, bill, room)


def drawn_weights(pruner: Any) -> Any:
    """The method with drawn weights where it has any and names none: they cost the same."""
    from prunebench.trained import RANDOM, Trained

    if isinstance(pruner, Trained) and not pruner.weights:
        return replace(pruner, weights=RANDOM)
    return pruner


def load(words: Iterable[str]) -> Estimate:
    """What key=value words ask for; raises GridError, OptionError or Unsupported."""
    content: dict[str, Any] = {}
    settings = options.override(content, words, Cost, LISTS)
    question = options.structured(Cost, content)
    check_values(question)
    size_of(question.image)
    for batch in question.batch:
        if not 1 <= batch <= 100_000:
            raise GridError(f"batch has {batch}; a batch is from 1 to 100000")
    shared = {"methods": question.methods, "budgets": question.budgets, "cost": False}
    grid = build({"models": ["tiny-qwen2.5-vl"], **shared}, settings)
    named = {str(name) for name in question.methods}
    cells = []
    for cell in grid.cells([DEFAULT_TASK]):
        label = cell.variant.label
        # a study needs its controls; who asks for a price need not
        if label == BASELINE or label not in CONTROLS or named & {label, ALL}:
            cells.append(cell)
    return Estimate(question, cells)


def card_of(question: Cost) -> Accelerator | None:
    """The card that is named, with what is given in place of its numbers; None for none."""
    from prunebench.pricing.roofline import ACCELERATORS, Accelerator

    name, numbers = question.accelerator, (question.peak_tflops, question.bandwidth_gb_s)
    if name is not None and name not in ACCELERATORS:
        raise GridError(
            f"accelerator is {one_line(name, 40)!r}; known are {', '.join(ACCELERATORS)}, or give "
            "peak_tflops and bandwidth_gb_s"
        )
    if name is None and numbers == (None, None):
        return None
    card = None if name is None else ACCELERATORS[name]
    if card is None and None in numbers:
        raise GridError("a card has peak_tflops and bandwidth_gb_s; give both, or accelerator=h100")
    if question.dtype == "float32" and question.peak_tflops is None:
        raise GridError(
            "the peaks of accelerators are those of 16 bits; for float32 give peak_tflops"
        )
    if card is None:
        card = Accelerator("given", 0.0, 0.0, 0.0, "given")
    peak, bandwidth = question.peak_tflops, question.bandwidth_gb_s
    return replace(
        card,
        peak=card.peak if peak is None else 1e12 * peak,
        bandwidth=card.bandwidth if bandwidth is None else 1e9 * bandwidth,
    )


def conventions_of(question: Cost) -> list[Any]:
    """The formulas that are asked for."""
    from prunebench.pricing.conventions import CONVENTIONS

    small = [name.lower() for name in question.convention]
    names = list(CONVENTIONS) if ALL in small else small
    for name in names:
        if name not in CONVENTIONS:
            raise GridError(
                f"convention has {one_line(name, 40)!r}; it is one of {', '.join(CONVENTIONS)}"
            )
    return [CONVENTIONS[name] for name in names]


# ---- the table -----------------------------------------------------------------------------------


def rows(estimate: Estimate) -> Iterator[dict[str, Any]]:
    """A row a method, budget and batch size, with every number by name."""
    for line in estimate.lines:
        for batch in estimate.question.batch:
            yield {
                **_about(estimate, line, batch),
                **_flops(estimate, line),
                **_memory(estimate, line),
                **_times(estimate, line, batch),
            }


def write(estimate: Estimate, path: Path) -> Path:
    """Write the rows as CSV, whole or not at all."""
    table = list(rows(estimate))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    files.write(path, text.getvalue().encode())
    return path


def _about(estimate: Estimate, line: Line, batch: int) -> dict[str, Any]:
    question, scene = estimate.question, estimate.scene
    return {
        "model": estimate.record.name,
        "image": question.image,
        "text": scene.text,
        "new_tokens": question.new_tokens,
        "method": line.label,
        "budget": line.budget,
        "batch": batch,
        "status": line.status,
        "reason": line.reason,
    }


def _flops(estimate: Estimate, line: Line) -> dict[str, Any]:
    """Tokens and FLOPs of one request; empty where there are none."""
    bill, full = line.bill, estimate.baseline.bill
    if bill is None or full is None:
        names = [*_flop_names(), *(f"as_{one.name.lower()}" for one in estimate.conventions)]
        ratios = [f"as_{one.name.lower()}_ratio" for one in estimate.conventions]
        return dict.fromkeys([*names, *ratios], "")
    lengths = bill.lengths
    values: tuple[Any, ...] = (
        lengths.available,
        lengths.mean,
        lengths.kv,
        runs(lengths.rows),
        bill.vision,
        bill.projector,
        bill.signals,
        bill.selection,
        bill.language,
        bill.causal_language,
        runs(bill.layers),
        bill.head,
        bill.prefill,
        bill.decode,
        bill.total,
        bill.prefill / full.prefill,
        bill.language / full.language,
        bill.causal_language / full.causal_language,
        "; ".join(bill.notes),
    )
    numbers = dict(zip(_flop_names(), values, strict=True))
    for one in estimate.conventions:
        text = estimate.subject.text_config
        numbers[f"as_{one.name.lower()}"] = one.formula(text, lengths)
        numbers[f"as_{one.name.lower()}_ratio"] = one.formula(text, lengths) / one.formula(
            text, full.lengths
        )
    return numbers


def _flop_names() -> tuple[str, ...]:
    return (
        "tokens_available",
        "tokens_mean",
        "tokens_kv",
        "rows_by_layer",
        "flops_vision",
        "flops_projector",
        "flops_signals",
        "flops_selection",
        "flops_llm",
        "flops_llm_causal",
        "flops_by_layer",
        "flops_head",
        "flops_prefill",
        "flops_decode",
        "flops_total",
        "flops_prefill_ratio",
        "flops_llm_ratio",
        "flops_llm_causal_ratio",
        "notes",
    )


def runs(values: Sequence[int]) -> str:
    """Numbers in order, each with how often it stands there in a row: "640x2 320x26"."""
    parts = [(value, len(list(group))) for value, group in groupby(values)]
    return " ".join(f"{value}x{count}" for value, count in parts)


def _memory(estimate: Estimate, line: Line) -> dict[str, Any]:
    room, fits = line.footprint, estimate.fits(line)
    return {
        "dtype": estimate.question.dtype,
        "weights_bytes": "" if room is None else room.weights,
        "kv_bytes_prompt": "" if room is None else room.prompt_cache,
        "kv_bytes": "" if room is None else room.cache,
        "memory_gb": "" if estimate.memory is None else estimate.memory,
        "usable": estimate.question.usable,
        "requests_fit": "" if fits is None else fits,
    }


def _times(estimate: Estimate, line: Line, batch: int) -> dict[str, Any]:
    """The estimates of a batch in milliseconds; empty without a card."""
    card, times = estimate.card, estimate.times(line, batch)
    about = {
        "accelerator": "" if card is None else card.name,
        "peak_flops_s": "" if card is None else card.peak,
        "bandwidth_bytes_s": "" if card is None else card.bandwidth,
    }
    names = ("vision", "projector", "select", "prefill", "decode", "first_token", "later_token")
    for name in (*names, "total"):
        value = "" if times is None else 1000 * getattr(times, name)
        about[f"estimate_{name}_ms"] = value
    full = estimate.times(estimate.baseline, batch)
    has_both = times is not None and full is not None
    about["estimate_total_ratio"] = times.total / full.total if has_both else ""  # type: ignore[union-attr]
    return about

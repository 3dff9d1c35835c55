"""The command `cost`: FLOPs, memory and an estimate of time at real size, with nothing run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.border.text import clean, short_path
from prunebench.cli.completion import add_options
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, keys_of

if TYPE_CHECKING:
    from prunebench.run.estimate import Estimate, Line

TERA, GIGA, MEBI = 1e12, 1e9, 2**20

LESSER = (
    "KV tokens",
    "select ms",
    "decode",
    "vision ms",
    "causal",
    "select",
    "prefill ms",
    "vision",
)
"""What a narrow screen does without, in this order."""

NARROWEST = 12
"""Columns of a method's name that is wrapped."""

GAP = 3
"""Columns between two of a table."""

ESTIMATE = (
    "an estimate, no measurement: the longer of FLOPs over the peak and bytes over the bandwidth; "
    "launches, activations and a method's own loops are not in it (`prunebench bench` measures)"
)


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "cost",
        cost,
        "Work out what methods cost on a public model at real size, without weights.",
        examples=(
            "prunebench cost model=qwen2.5-vl-7b methods=divprune,fastv budgets=0.5,0.25 "
            "image=1344x1344 batch=1,8,32 accelerator=h100",
            "prunebench cost model=llava-1.5-7b methods=sparsevlm budgets=own convention=all",
        ),
        keys=cost_keys,
    )
    add_options(parser, cost_keys, "options, METHOD.SETTING=value for a method's own settings")


def cost_keys() -> Sequence[Key]:
    """The keys of an estimate."""
    from prunebench.run.estimate import Cost

    return keys_of(Cost)


def cost(arguments: argparse.Namespace) -> int:
    """Print the tables and what they leave out; write the CSV where one is asked for."""
    from prunebench.cli.screen import quiet_libraries
    from prunebench.run.estimate import load, write
    from prunebench.run.names import expanded

    estimate = load(arguments.options)
    if estimate.asks_transformers:
        quiet_libraries()
    print(text_of(estimate), end="")
    if estimate.question.out is not None:
        path = write(estimate, Path(expanded(estimate.question.out)))
        print(clean(short_path(path)))
    return 0


def text_of(estimate: Estimate) -> str:
    """What is printed, as wide as the screen."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    # captured: where nobody reads on, rich would end the program
    with console.capture() as captured:
        for part in parts(estimate, console.width):
            console.print(part)
    return captured.get()


def parts(estimate: Estimate, width: int) -> Iterator[Any]:
    """What is printed in so many columns, in order."""
    yield clean(head(estimate))
    yield from _fitted(flops_rows(estimate), width)
    if estimate.conventions:
        yield from _fitted(convention_rows(estimate), width)
    if estimate.card is not None:
        card = estimate.card
        yield from _fitted(time_rows(estimate), width)
        peak, bandwidth = card.peak / TERA, card.bandwidth / GIGA
        yield clean(
            f"{card.name}: {peak:,.0f} TFLOP/s, {bandwidth:,.0f} GB/s ({card.source}); {ESTIMATE}"
        )
    for text in remarks(estimate):
        yield clean(text)


def head(estimate: Estimate) -> str:
    """The model, the prompt and what stands in the table."""
    question, scene = estimate.question, estimate.scene
    record = estimate.record
    return (
        f"{record.name}: {record.parameters.total / 1e9:.2f} billion parameters "
        f"({'; '.join(record.source)})\n"
        f"one image of {question.image}: {scene.visual:,} visual tokens, {scene.text:,} of text, "
        f"{question.new_tokens:,} new; TFLOPs of one request, 2 per multiply-add; LLM counts "
        "attention in full, causal half of its products"
    )


def flops_rows(estimate: Estimate) -> list[dict[str, str]]:
    """FLOPs by part and phase, and memory, of the lines that have any."""
    return [_flops_row(estimate, line) for line in estimate.lines if line.bill is not None]


def _flops_row(estimate: Estimate, line: Line) -> dict[str, str]:
    """A line's cells."""
    bill, room, full = line.bill, line.footprint, estimate.baseline.bill
    assert bill is not None  # the three come together
    assert room is not None
    assert full is not None
    lengths = bill.lengths
    row = {
        "method": clean(line.label),
        "budget": clean(line.budget),
        "tokens": f"{lengths.mean:,.0f}",
        "KV tokens": f"{lengths.kv:,.0f}",
        "vision": _tera(bill.vision + bill.projector),
        "select": _tera(bill.signals + bill.selection),
        "LLM": _tera(bill.language + bill.head),
        "causal": _tera(bill.causal_language + bill.head),
        "prefill": _tera(bill.prefill),
        "ratio": f"{bill.prefill / full.prefill:.2f}",
        "decode": _tera(bill.decode),
        "KV MiB": f"{room.cache / MEBI:,.0f}",
    }
    if estimate.memory is not None:
        row[f"fit {estimate.memory:g} GB"] = f"{estimate.fits(line):,}"
    return row


def convention_rows(estimate: Estimate) -> list[dict[str, str]]:
    """The language model's prefill as it is and by the formulas, each as a share of unpruned."""
    text, full = estimate.subject.text_config, estimate.baseline.bill
    rows = []
    for line in estimate.lines:
        if line.bill is None or full is None:
            continue
        share = line.bill.language / full.language
        row = {
            "method": clean(line.label),
            "budget": clean(line.budget),
            "LLM": f"{_tera(line.bill.language)} ({share:.3f})",
        }
        for one in estimate.conventions:
            number, whole = (one.formula(text, of.lengths) for of in (line.bill, full))
            row[f"as {one.name}"] = f"{_tera(number)} ({number / whole:.3f})"
        rows.append(row)
    return rows


def time_rows(estimate: Estimate) -> list[dict[str, str]]:
    """Milliseconds of every batch size, at least."""
    rows = []
    for line in estimate.lines:
        for batch in estimate.question.batch:
            times, full = estimate.times(line, batch), estimate.times(estimate.baseline, batch)
            if times is None or full is None:
                continue
            row = {
                "method": clean(line.label),
                "budget": clean(line.budget),
                "batch": f"{batch}",
                "vision ms": _milli(times.vision + times.projector),
                "select ms": _milli(times.select),
                "prefill ms": _milli(times.prefill),
                "first token": _milli(times.first_token),
                "next token": _milli(times.later_token),
                "all ms": _milli(times.total),
                "ratio": f"{times.total / full.total:.2f}",
            }
            rows.append(row)
    return rows


def remarks(estimate: Estimate) -> Iterator[str]:
    """What a reader should know of single lines."""
    remarks_made = set()
    for line in estimate.lines:
        if line.bill is None:
            yield f"{line.label} {line.budget}: {line.status}, {line.reason}"
            continue
        for text in line.bill.notes:
            if (line.label, text) not in remarks_made:
                remarks_made.add((line.label, text))
                yield f"{line.label}: {text}"
    for one in estimate.conventions:
        yield f"{one.name}: {one.expression} ({one.source}); it leaves out {one.leaves_out}"


def _fitted(rows: Sequence[Mapping[str, str]], width: int) -> Iterator[Any]:
    """A table as wide as the screen: columns of LESSER go in their order where it is too wide, and
    a line says which; numbers are never cut off.
    """
    names = list(rows[0])
    left_out = []
    for name in LESSER:
        if _width(names, rows) > width and name in names:
            names.remove(name)
            left_out.append(name)
    yield _table(names, rows)
    if left_out:
        yield f"not shown on so narrow a screen: {', '.join(left_out)}"


def _width(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> int:
    """Columns of the screen that a table takes."""
    total = GAP * len(names)
    for name in names:
        least = NARROWEST if name == "method" else len(name)
        total += max(least, *(len(row.get(name, "")) for row in rows))
    return total


def _table(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Any:
    """Texts to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        is_text = name in ("method", "budget")
        table.add_column(
            name,
            justify="left" if is_text else "right",
            # a name may be wrapped, a number may not
            no_wrap=name != "method",
            min_width=NARROWEST if name == "method" else None,
        )
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    return table


def _tera(flops: float) -> str:
    """TFLOPs with three digits that count."""
    value = flops / TERA
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _milli(seconds: float) -> str:
    """Milliseconds with three digits that count."""
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

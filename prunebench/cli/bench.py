"""The command `bench`: time and memory of methods beside the unpruned model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunebench.border.text import clean, short_path
from prunebench.cli.completion import add_options
from prunebench.cli.ending import FAILED
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key, keys_of

if TYPE_CHECKING:
    from prunebench.run.bench import Case
    from prunebench.run.bencher import Timed
    from prunebench.study.record import Metric

UNUSABLE = "the machine was too busy to compare anything"


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "bench",
        bench,
        "Measure time and memory of methods beside the unpruned model.",
        examples=(
            "prunebench bench methods=fastv,divprune images=448x448 batches=1,8",
            "prunebench bench model=qwen2.5-vl-7b weights=random device=cuda images=1344x1344",
            "prunebench bench methods=divprune batches=1,8 concurrent=1,4",
        ),
        keys=bench_keys,
        kept="finished cases are kept",
    )
    add_options(parser, bench_keys, "options, METHOD.SETTING=value for a method's own settings")


def bench_keys() -> Sequence[Key]:
    """The keys of a bench."""
    from prunebench.run.bench import Bench

    return keys_of(Bench)


def bench(arguments: argparse.Namespace) -> int:
    """Measure every case, print a line for each, and say where the tables lie."""
    from prunebench.cli.screen import quiet_libraries
    from prunebench.run.backend import setup_of
    from prunebench.run.bench import load
    from prunebench.run.names import expanded

    question, grid = load(arguments.options)
    quiet_libraries()
    from prunebench.run.bench_table import BenchTable
    from prunebench.run.bencher import measured

    folder = Path(expanded(question.out))
    table = BenchTable(folder, question, setup_of(grid, grid.models[0]))
    failed = False
    for timed in measured(question, grid, table):
        print(clean(line(timed)), flush=True)
        failed |= timed.status == "failed"
    print(clean(short_path(folder / "bench.csv")))
    return FAILED if failed else 0


def line(timed: Timed) -> str:
    """What there is to say of a case."""
    from prunebench.study.machine import BUSY

    case = timed.case
    name = f"{case.label} {case.budget}, {_place(case)}"
    if timed.fault is not None:
        return f"{name}: {timed.status}, {timed.fault.reason}"
    parts = [f"{timed.mean:,.0f} of {timed.available:,} tokens"]
    parts += _together(timed) if timed.load else _phases(timed)
    if timed.machine == BUSY:
        parts.append(UNUSABLE if timed.itself is None else f"{UNUSABLE}: {_itself(timed.itself)}")
    return f"{name}: {', '.join(parts)}"


def _place(case: Case) -> str:
    """At what a case is measured."""
    together = "" if case.concurrent == 1 else f", {case.concurrent} requests at once"
    return f"{case.image}, batch {case.batch}{together}"


def _phases(timed: Timed) -> list[str]:
    """What single requests took, by phase."""
    parts = []
    for phase in ("prefill", "decode", "total"):
        ratio = timed.metrics[f"latency_{phase}_ratio"]
        least = "" if timed.ceilings is None else f" ({getattr(timed.ceilings, phase):.2f} at best)"
        parts.append(f"{phase} {_ratio(ratio)}{least}")
    return [*parts, f"select {timed.metrics['latency_select_ms'].value:.1f} ms"]


def _together(timed: Timed) -> list[str]:
    """What requests in flight together came to."""
    rate, ratio = timed.rates["requests_per_s"].value, timed.rates["requests_per_s_ratio"]
    slow, usual = timed.rates["latency_p95_ms"].value, timed.metrics["latency_total_ms"].value
    return [
        f"{rate:,.1f} requests/s, {_ratio(ratio)} of the unpruned model's",
        f"total {_ratio(timed.metrics['latency_total_ratio'])}",
        f"{usual:,.0f} ms a request, 95 % below {slow:,.0f}",
    ]


def _itself(ratio: Metric) -> str:
    """What the unpruned model took beside itself."""
    return f"the unpruned model took {_ratio(ratio)} of its own time, run after run"


def _ratio(ratio: Metric) -> str:
    """A ratio with its interval, where it has one."""
    if ratio.ci_low is None:
        return f"{ratio.value:.2f}"
    return f"{ratio.value:.2f} [{ratio.ci_low:.2f}, {ratio.ci_high:.2f}]"

"""Columns: every number that a study holds, declared once.

A row of the table says what a number is and what becomes of it: the metric of the cell that is its
mean, and its columns in leaderboard.csv. So a new number is a row here and the line that measures
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args

from prunebench.border.text import one_line
from prunebench.study.record import SampleStatus

if TYPE_CHECKING:
    import pyarrow as pa

Type = Literal["text", "whole", "number", "list"]
"""What stands in a column; a list is one of whole numbers."""

Better = Literal["higher", "lower"]

Fold = Literal["mean", "available", "measured", "interval"]
"""How the leaderboard gets a number from the cells of a row: "mean", over tasks, and empty where
one of them lacks it; "available", the same of the unpruned model; "measured", over the tasks on
which it was measured; "interval", that with the interval of the cells.
"""

Beside = Literal["share", "ratio", "random"]
"""What stands beside a number: it over the available tokens, it over that of the unpruned model, or
that of the random control.
"""

Phase = Literal["vision", "select", "prefill", "decode", "total"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""The parts of a timed run."""

FLOPS_PARTS: Mapping[str, str] = {
    "vision": "the vision encoder",
    "projector": "the projector",
    "llm": "the layers of the LLM",
    "head": "the LM head",
    "selector": "what the method computes",
    "total": "all of these together",
}
"""What the FLOPs of a sample are counted by."""

STATUSES = get_args(SampleStatus)
INTERVAL = ("", "_low", "_high")
BEHIND = 1000
"""The place in the leaderboard of a number that names none."""

LARGEST_WHOLE = 2**63
LARGEST_NUMBER = 2.0**1000
"""What a column of 64 bits can hold, and be calculated with."""


@dataclass(frozen=True)
class Board:
    """How a number stands in the leaderboard: its name there, and what stands beside it.

    Numbers follow each other by `place`, those of the same place as in the table.
    """

    name: str
    fold: Fold = "mean"
    beside: Beside | None = None
    place: int = BEHIND

    @property
    def names(self) -> list[str]:
        """The columns of leaderboard.csv."""
        if self.fold == "interval":
            return [self.name + end for end in INTERVAL]
        if self.beside is None:
            return [self.name]
        return [self.name, f"{self.name}_{self.beside}"]


@dataclass(frozen=True)
class Column:
    """A number, or a text, of a sample, of a timed run, or of a cell.

    `metric` is the number of the cell that it becomes: of a sample, the mean over answered samples;
    empty where it becomes none. `board` is None where the leaderboard does not show that.
    """

    name: str
    type: Type
    about: str
    unit: str = ""
    better: Better | None = None
    metric: str = ""
    board: Board | None = None

    @property
    def higher_is_better(self) -> bool | None:
        """The direction as cell.json has it; None for a number that only describes."""
        return None if self.better is None else self.better == "higher"


def _flops() -> Iterator[Column]:
    board = Board("flops", beside="ratio", place=5)
    for part, about in FLOPS_PARTS.items():
        name = f"flops_{part}"
        board_of_part = board if part == "total" else None
        yield Column(
            name, "whole", f"FLOPs of a prefill: {about}", "FLOP", "lower", name, board_of_part
        )


SAMPLES: tuple[Column, ...] = (
    Column("sample_id", "text", "the sample's name, the same in every cell of a task"),
    Column("doc_id", "whole", "its number in the task's data"),
    Column("prediction", "text", "the answer, up to where the task cuts it"),
    Column("reference", "text", "what the task expects"),
    Column("score", "number", "the sample's part of the task's primary metric"),
    Column("status", "text", f"one of {', '.join(STATUSES)}"),
    Column("error", "text", "why there is no answer"),
    Column(
        "available",
        "whole",
        "visual tokens before anything is pruned",
        unit="tokens",
        metric="tokens_available",
        board=Board("tokens_available", fold="available", place=1),
    ),
    Column("frames", "list", "the numbers of the frames that are shown of its videos"),
    Column("video_fps", "number", "frames a second that its first video has"),
    Column("stages", "list", "tokens kept after each stage, in their order"),
    Column("sites", "text", "where each stage lies, in the same order: vision:22 llm:2"),
    Column("entering", "list", "visual tokens that enter each layer of the LLM"),
    Column(
        "tokens_input",
        "number",
        "visual tokens that enter the first LLM layer",
        unit="tokens",
        better="lower",
        metric="tokens_input",
        board=Board("tokens_input", beside="share", place=3),
    ),
    Column(
        "tokens_mean",
        "number",
        "visual tokens that enter an LLM layer, mean over layers",
        unit="tokens",
        better="lower",
        metric="tokens_mean",
        board=Board("tokens_mean", beside="share", place=2),  # what budgets count is seen first
    ),
    Column(
        "tokens_kv",
        "number",
        "visual tokens in the KV cache after prefill, mean over layers",
        unit="tokens",
        better="lower",
        metric="tokens_kv",
        board=Board("tokens_kv", beside="share", place=4),
    ),
    Column(
        "evidence_recall",
        "number",
        "share of the evidence boxes' tokens that is alive, mean over layers",
        unit="share",
        better="higher",
        metric="evidence_recall",
        board=Board("evidence_recall", beside="random", place=10),
    ),
    Column("evidence_tokens", "whole", "visual tokens under the evidence boxes", unit="tokens"),
    Column(
        "perfect",
        "number",
        "1 where every object of the evidence has a token alive, so that one who misses nothing of "
        "what is left answers right, mean over layers",
        unit="share",
        better="higher",
        metric="perfect",
        board=Board("perfect", beside="random", place=11),
    ),
    *_flops(),
    Column(
        "kv_bytes",
        "whole",
        "bytes of live keys and values after prefill",
        unit="bytes",
        better="lower",
        metric="kv_bytes",
        board=Board("kv_bytes", place=6),
    ),
    Column("kv_bytes_padded", "whole", "the same with the batch's padding", unit="bytes"),
    Column("seconds", "number", "time of the call, shared by the samples of a batch", unit="s"),
    Column("question_type", "text", "the kind of question, where the data say"),
    Column("complexity", "whole", "how hard the question is, where the data say"),
    Column("group", "text", "the samples that the task scores this one with, where it does"),
    Column("image", "text", "a digest of what it shows, by which questions of one image are told"),
)
"""samples.parquet: one row a sample."""

PAIRS: tuple[Column, ...] = (
    Column("pair", "whole", "the number of the pair: method and baseline, one after the other"),
    Column("order", "whole", "0 for the run that came first in its pair, 1 for the second"),
    Column("variant", "text", "method or baseline"),
    Column("phase", "text", f"one of {', '.join(PHASES)}"),
    Column("ms", "number", "time of the phase; of decode, a token's", unit="ms"),
    Column("peak_memory_mib", "number", "peak memory of the phase, or of the run", unit="MiB"),
    Column("kv_bytes", "whole", "live keys and values after prefill, with phase total", "bytes"),
    Column("joules", "number", "energy of the run, with phase total", "J"),
)
"""pairs.parquet: one row a phase of a timed run."""


def _cost(name: str, about: str, unit: str, board: Board | None = None) -> Column:
    """A median over pairs; less is better in all that is measured so."""
    return Column(name, "number", about, unit, "lower", name, board)


def _latencies() -> Iterator[Column]:
    boards = {
        "prefill": Board("prefill_ratio", fold="interval", place=8),
        "total": Board("total_ratio", fold="interval", place=9),
    }
    for phase in PHASES:
        yield _cost(f"latency_{phase}_ms", f"time of {phase}", "ms")
        if phase == "select":  # the unpruned model selects nothing
            continue
        yield _cost(f"latency_{phase}_baseline_ms", f"time of {phase}, unpruned", "ms")
        about = f"time of {phase} over that of the unpruned model, within pairs"
        yield _cost(f"latency_{phase}_ratio", about, "ratio", boards.get(phase))


def _peaks() -> Iterator[Column]:
    for phase in ("vision", "prefill", "decode"):
        yield _cost(f"peak_memory_{phase}_mib", f"peak memory of {phase}", "MiB")
        about = f"peak memory of {phase}, unpruned"
        yield _cost(f"peak_memory_{phase}_baseline_mib", about, "MiB")


COST: tuple[Column, ...] = (
    *_latencies(),
    _cost(
        "peak_memory_mib", "peak memory", "MiB", Board("peak_memory_mib", fold="measured", place=7)
    ),
    _cost("peak_memory_baseline_mib", "peak memory, unpruned", "MiB"),
    *_peaks(),
    _cost("kv_bytes_baseline", "bytes of keys and values after prefill, unpruned", "bytes"),
    _cost("energy_j", "energy of the run, where the device tells it", "J"),
    _cost("energy_baseline_j", "energy of the run, unpruned", "J"),
    _cost("energy_ratio", "energy of the run / unpruned, pair by pair", "ratio"),
)
"""What the cost pass makes of its pairs; these are numbers of the cell alone."""


def _yardsticks() -> Iterator[Column]:
    name = "latency_itself_ratio"
    yield _cost(name, "time of the unpruned model over its own, run after run", "ratio")
    for phase in ("prefill", "decode", "total"):
        name, of = f"{phase}_ceiling", "bytes that a step reads" if phase == "decode" else "FLOPs"
        about = f"the least that the ratio of {phase} could come to: that of {of}"
        yield Column(name, "number", about, "ratio", None, name)
        name = f"{phase}_reached"
        about = f"of what {phase} could save, the share that it did"
        yield Column(name, "number", about, "share", "higher", name)


YARDSTICKS: tuple[Column, ...] = tuple(_yardsticks())
"""What the cost pass sets beside its ratios, so that they can be judged."""


def _rates() -> Iterator[Column]:
    abouts = {"requests_per_s": "prompts answered a second", "tokens_per_s": "tokens made a second"}
    for name, about in abouts.items():
        unit = f"{name.partition('_')[0]}/s"
        yield Column(name, "number", about, unit, "higher", name)
        unpruned = f"{name}_baseline"
        yield Column(unpruned, "number", f"{about}, unpruned", unit, "higher", unpruned)


LOAD: tuple[Column, ...] = (
    *_rates(),
    Column(
        "requests_per_s_ratio",
        "number",
        "prompts answered a second / unpruned, pair by pair",
        "ratio",
        "higher",
        "requests_per_s_ratio",
    ),
    _cost("latency_p95_ms", "time that 95 % of the requests stay below", "ms"),
    _cost("latency_p95_baseline_ms", "time that 95 % of the requests stay below, unpruned", "ms"),
)
"""What a bench makes of requests in flight together, beside the numbers above."""

TABLES: Mapping[str, tuple[Column, ...]] = {"samples": SAMPLES, "pairs": PAIRS}


# ---- selections ----------------------------------------------------------------------------------


def declared(metric: str) -> Column:
    """The row of a cell's number; raises KeyError where the table has none."""
    for column in (*SAMPLES, *COST, *YARDSTICKS, *LOAD):
        if column.metric == metric:
            return column
    raise KeyError(metric)


def on_board() -> list[tuple[Column, Board]]:
    """The numbers that the leaderboard shows, in its order."""
    numbers = []
    for column in (*SAMPLES, *COST):
        if column.board is not None:
            numbers.append((column, column.board))
    return sorted(numbers, key=lambda number: number[1].place)


def compared() -> list[Column]:
    """The numbers of a sample that are set against those of the unpruned model."""
    columns = []
    for column in SAMPLES:
        board = column.board
        if board is not None and (
            board.fold == "available" or board.beside in ("share", "ratio", "random")
        ):
            columns.append(column)
    return columns


# ---- tables --------------------------------------------------------------------------------------


def schema(table: str) -> pa.Schema:
    """The schema of "samples" or "pairs", so that a column of nothing but nulls has a type too."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "whole": pa.int64(),
        "number": pa.float64(),
        "list": pa.list_(pa.int64()),
    }
    return pa.schema([(column.name, types[column.type]) for column in TABLES[table]])


def fault(table: str, row: Any) -> str:
    """What is wrong with a row of "samples" or "pairs", such as "score is nan"; empty where nothing
    is.
    """
    if not isinstance(row, Mapping):
        return "it is no row"
    types = {column.name: column.type for column in TABLES[table]}
    for name, value in row.items():
        if name not in types:
            return f"it has an unknown column {one_line(repr(name), 60)}"
        if value is not None and not _fits(value, types[name]):
            return f"{name} is {one_line(repr(value), 60)}"
    return _sample_fault(row) if table == "samples" else ""


def _sample_fault(row: Mapping[str, Any]) -> str:
    """What a sample's row lacks for being told from others, and for being counted."""
    for name in ("sample_id", "doc_id"):
        if row.get(name) is None:
            return f"it has no {name}"
    if "error" not in row:
        return "it does not say whether it was answered"
    if row.get("status") not in (None, *STATUSES):
        return f"status is {one_line(repr(row['status']), 60)}"
    return ""


def _fits(value: Any, kind: Type) -> bool:
    """Whether a value has a column's type, and can be written: finite, and within 64 bits."""
    if kind == "text":
        return isinstance(value, str)
    if kind == "list":
        return isinstance(value, list) and all(_fits(part, "whole") for part in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind == "whole":
        return isinstance(value, int) and -LARGEST_WHOLE <= value < LARGEST_WHOLE
    return abs(value) < LARGEST_NUMBER and isfinite(value)

"""Export: a study as a data set that `datasets.load_dataset` reads: a card, a table of cells, and a
table of answers.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prunebench
from prunebench.border.text import clean, one_line, short_path
from prunebench.report import tables
from prunebench.study import cells, columns
from prunebench.study import tables as stored
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.facts import Damaged
from prunebench.study.record import Metric
from prunebench.study.schema import UNSAID

if TYPE_CHECKING:
    import pyarrow as pa

CARD = "README.md"
DATA = "data"

GROUP = 1000
"""Cells whose answers make a row group."""

LISTED = 40
"""Names that the card lists of a kind; of more it gives the number."""

ABOUT = {
    "id": "the cell's name",
    "kind": "quality: answers were scored; cost: time and memory were measured",
    "model": "what was run",
    "method": "its label in the grid",
    "pruner": "the name or file behind the label",
    "settings": "its settings, as JSON",
    "control": "whether it is there only to be compared with",
    "budget_kind": "what the budget counts",
    "budget": "as written in the grid",
    "task": "as written in the grid",
    "seed": "of what is drawn at random",
    "status": "ok, failed, oom, unsupported, infeasible",
    "reason": "why it is not ok, or speaks for fewer samples",
    "asked": "samples that the task has",
    "answered": "samples that were answered",
    "metric": "the task's primary metric; its number is score in metrics",
    "higher_is_better": "its direction",
    "metrics": "every number with its standard error and 95 % interval",
    "port": "what stands in for something that the model lacks",
    "fingerprint": "a hash over all that decides the answers",
    "schema": "the version of what the cell's keys mean",
    "provenance": "code, versions, hardware and settings, as JSON",
}
"""The columns of the table of cells."""

KEYS = ("cell", "model", "method", "budget_kind", "budget", "task", "seed")
"""What an answer has of its cell."""


def write(study: Path, folder: Path, license_name: str = "") -> tuple[list[Path], list[str]]:
    """Write the data set of a study into a folder; gives its files, and a warning for every cell
    that could not be read.

    Raises ReportError where there is no study, or the folder holds something else.
    """
    _check(folder)
    records, warnings = cells.read(study)
    answered = [cell for cell in records if cell.of_samples is not None]
    content = {f"{DATA}/cells.parquet": _cells(records)}
    configs = {"cells": f"{DATA}/cells.parquet"}
    if answered:
        content[f"{DATA}/answers.parquet"] = _answers(answered)
        configs = {"answers": f"{DATA}/answers.parquet", **configs}
    # the card last, so that a folder with one is whole
    content[CARD] = _card(study, records, configs, license_name).encode()
    return [tables.write(folder / name, data) for name, data in content.items()], warnings


def _check(folder: Path) -> None:
    """That nothing is overwritten but an earlier export."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise ReportError(f"{short_path(folder)} cannot be used: {error.strerror}") from None
    others = sorted(names - {CARD, DATA, ".git", ".gitattributes"})
    if others:
        raise ReportError(
            f"{short_path(folder)} holds {one_line(others[0], 60)}, which is no part of a data "
            "set; name an empty folder with out="
        )


# ---- tables --------------------------------------------------------------------------------------


def _cells(records: Sequence[StoredCell]) -> bytes:
    """The parquet file of cells, a row each."""
    import pyarrow as pa

    numbers = {"value", "stderr", "ci_low", "ci_high"}
    of_metric = []
    for fact in fields(Metric):
        kind = pa.float64() if fact.name in numbers else pa.string()
        kind = {"n": pa.int64(), "higher_is_better": pa.bool_()}.get(fact.name, kind)
        of_metric.append((fact.name, kind))
    types = {
        "control": pa.bool_(),
        "higher_is_better": pa.bool_(),
        "seed": pa.int64(),
        "asked": pa.int64(),
        "answered": pa.int64(),
        "schema": pa.int64(),
        "metrics": pa.list_(pa.struct(of_metric)),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in ABOUT])
    return _file(schema, [pa.Table.from_pylist([_row(cell) for cell in records], schema)])


def _row(cell: StoredCell) -> dict[str, Any]:
    counts: Mapping[str, int] = cell.samples or {}
    special = {
        "settings": cell.settings_line,
        "control": cell.is_control,
        "asked": counts.get("asked"),
        "answered": counts.get("answered"),
        "metrics": [asdict(metric) for metric in cell.metrics],
        "schema": cell.schema or UNSAID,
        "provenance": json.dumps(cell.provenance, sort_keys=True),
    }
    return {name: special.get(name, getattr(cell, name, None)) for name in ABOUT}


def _answers(records: Sequence[StoredCell]) -> bytes:
    """The parquet file of answers, a row a sample of every cell of quality."""
    import pyarrow as pa

    own = columns.schema("samples")
    keys = [pa.field(name, pa.string()) for name in KEYS]
    keys[KEYS.index("seed")] = pa.field("seed", pa.int64())
    schema = pa.schema([*keys, *own])

    def groups() -> Iterable[pa.Table]:
        for start in range(0, len(records), GROUP):
            parts = [_of_cell(cell, schema) for cell in records[start : start + GROUP]]
            yield pa.concat_tables(parts)

    return _file(schema, groups())


def _of_cell(cell: StoredCell, schema: pa.Schema) -> pa.Table:
    """The answers of one cell under these columns; what the file lacks is null."""
    import pyarrow as pa

    names = [name for name in schema.names if name not in KEYS]
    try:
        table = stored.read_columns(cell.folder / "samples.parquet", names)
        about = {name: getattr(cell, name, None) for name in KEYS} | {"cell": cell.id}
        arrays = []
        for field in schema:
            if field.name in about:
                arrays.append(pa.repeat(pa.scalar(about[field.name], field.type), len(table)))
            elif field.name in table.column_names:
                arrays.append(table.column(field.name).cast(field.type).combine_chunks())
            else:
                arrays.append(pa.nulls(len(table), field.type))
    except (Damaged, pa.ArrowInvalid) as error:
        raise ReportError(f"cell {one_line(cell.id, 100)}: {one_line(str(error))}") from None
    return pa.Table.from_arrays(arrays, schema=schema)


def _file(schema: pa.Schema, parts: Iterable[pa.Table]) -> bytes:
    from pyarrow import parquet

    buffer = io.BytesIO()
    with parquet.ParquetWriter(buffer, schema) as writer:
        for part in parts:
            writer.write_table(part)
    return buffer.getvalue()


# ---- the card ------------------------------------------------------------------------------------


def _card(
    study: Path, records: Sequence[StoredCell], configs: Mapping[str, str], license_name: str
) -> str:
    """What the data are, under a head that the hub and `load_dataset` read."""
    head = ["---"]
    if license_name:
        head.append(f"license: {json.dumps(license_name)}")
    head += ["tags:", "- visual-token-pruning", "- prunebench", "configs:"]
    for number, (name, path) in enumerate(configs.items()):
        head += [f"- config_name: {name}", "  data_files:", "  - split: test", f"    path: {path}"]
        head += ["  default: true"] if number == 0 else []
    head.append("---")
    name = _shown(study.resolve().name)
    commits = {cell.commit for cell in records if cell.commit}
    lines = [
        *head,
        f"# {name}",
        "",
        "What visual-token pruning keeps and what it costs: the cells of a study by prunebench "
        f"{prunebench.__version__}, each a model with a method at a budget on a task, and its "
        "answers.",
        "",
        "| | |",
        "|---|---|",
        f"| cells | {len(records)} |",
        f"| models | {_listed(cell.model for cell in records)} |",
        f"| methods | {_listed(cell.method for cell in records)} |",
        f"| tasks | {_listed(cell.task for cell in records)} |",
        f"| budgets | {_listed(_budget(cell) for cell in records)} |",
        f"| seeds | {_listed(str(cell.seed) for cell in records)} |",
        f"| code | {_listed(sorted(commits))} |",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        *(f'{name} = load_dataset("FOLDER OR HUB ID", "{name}")["test"]' for name in configs),
        "```",
        "",
        "Images are none of the data: they belong to the tasks. Failed cells stay in, with their "
        "status and reason.",
        "",
        "## cells: a row a cell",
        "",
        *_columns(ABOUT),
    ]
    if "answers" in configs:
        about = dict.fromkeys(KEYS, "of its cell")
        for column in columns.SAMPLES:
            unit = f", in {column.unit}" if column.unit else ""
            about[column.name] = f"{column.about}{unit}"
        lines += ["", "## answers: a row a sample of a cell", "", *_columns(about)]
    return "\n".join(lines) + "\n"


def _columns(about: Mapping[str, str]) -> list[str]:
    return ["| column | what it is |", "|---|---|"] + [
        f"| `{name}` | {text} |" for name, text in about.items()
    ]


def _listed(names: Iterable[str]) -> str:
    """Distinct names in a cell of a table."""
    distinct = list(dict.fromkeys(names))
    if len(distinct) > LISTED:
        return f"{len(distinct)} of them"
    return ", ".join(map(_shown, distinct))


def _shown(name: str) -> str:
    """A name that somebody chose, as text in Markdown."""
    text = clean(one_line(name, 80))
    return re.sub(r"([\\`*_{}\[\]<>#|&!])", r"\\\1", text)


def _budget(cell: StoredCell) -> str:
    kind = f"{cell.budget_kind}:" if cell.budget_kind not in ("", "mean") else ""
    return f"{kind}{cell.budget}"

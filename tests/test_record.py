"""The format of a study: what was written before is read, and what is written is what it was."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hand_written import change
from pyarrow import parquet

from prunebench.measure.pairs import PairRow, summarize
from prunebench.report import headings, leaderboard
from prunebench.study import cells, columns, schema
from prunebench.study.cells import ReportError, read_cell
from prunebench.study.columns import PHASES, Column, declared
from prunebench.study.facts import Damaged, to_json
from prunebench.study.record import CellRecord, Metric
from prunebench.study.seal import sealed

ROOT = Path(__file__).parents[1]
COMMITTED = sorted((ROOT / "results").glob("*/cells/*"))


def content(kind: str = "quality") -> dict[str, Any]:
    """What a committed cell of that kind holds."""
    end = "__cost" if kind == "cost" else "s0"
    folder = next(path for path in COMMITTED if path.name.endswith(end))
    facts: dict[str, Any] = json.loads((folder / "cell.json").read_text())
    return facts


@pytest.mark.parametrize("study", sorted({path.parents[1].name for path in COMMITTED}))
def test_a_committed_cell_is_written_as_it_was_to_the_byte(study: str) -> None:
    folders = [path for path in COMMITTED if path.parents[1].name == study]
    assert len(folders) > 10
    for folder in folders:
        before = (folder / "cell.json").read_bytes()
        record = CellRecord.read(json.loads(before))
        again = to_json(sealed(record.content()), indent=1)
        assert again.encode() == before


def test_every_committed_cell_bears_its_seal() -> None:
    for folder in COMMITTED:
        assert read_cell(folder).id == folder.name


def test_the_keys_of_cell_json_are_the_fields_in_their_order() -> None:
    names = [fact.name for fact in fields(CellRecord)]
    facts = content() | {"samples": {"asked": 4, "answered": 3}}
    facts |= {
        "schema": schema.SCHEMA,
        "reach": "nearest",
        "port": "received_attention in place of cls_attention",
        "entering": [16.0, 4.0],
        "encoder": {"vision:3": 16.0},
    }
    assert set(names) | {"seal"} == set(facts)
    assert list(CellRecord.read(facts).content()) == names


def test_what_a_record_leaves_out_has_no_key() -> None:
    later = ("control", "pruner", "samples")
    old = {key: value for key, value in content().items() if key not in later}
    again = CellRecord.read(old).content()
    assert not {"control", "pruner", "samples"} & set(again)


def test_a_key_of_another_version_is_passed_over() -> None:
    facts = content() | {"surprise": 1}
    assert CellRecord.read(facts) == CellRecord.read(content())


@pytest.mark.parametrize("name", [fact.name for fact in fields(CellRecord) if fact.name != "kind"])
def test_every_fact_is_checked(name: str) -> None:
    """A value that no fact can have; that of a new field is checked because it is declared."""
    with pytest.raises(Damaged, match=f"{name} 0j where .* belong"):
        CellRecord.read(content() | {name: 0j})


@pytest.mark.parametrize(
    "facts",
    [
        {"entering": []},
        {"entering": [16, -1]},
        {"entering": [16, "4"]},
        {"encoder": {"llm:3": 16}},
        {"encoder": {"vision:3": None}},
    ],
    ids=str,
)
def test_tokens_of_layers_are_counts(facts: dict[str, Any]) -> None:
    with pytest.raises(Damaged, match=r"cell.json has en\w+ a \w+ of \d where a .* belongs"):
        CellRecord.read(content() | facts)


@pytest.mark.parametrize("name", [fact.name for fact in fields(Metric) if fact.name != "metric"])
def test_every_part_of_a_metric_is_checked(name: str) -> None:
    with pytest.raises(Damaged, match=f"metric 'score' has {name} 0j where .* belongs"):
        Metric.read({"metric": "score", name: 0j})


def test_a_metric_has_its_interval_in_order() -> None:
    with pytest.raises(Damaged, match="low end 2 is above its high end 1"):
        Metric.read({"metric": "score", "ci_low": 2, "ci_high": 1})


# ---- the table of columns ------------------------------------------------------------------------


def test_committed_tables_have_the_declared_columns() -> None:
    for folder in COMMITTED:
        for path in folder.glob("*.parquet"):
            own = parquet.read_schema(path)
            schema = columns.schema(path.stem)
            assert set(own.names) <= set(schema.names)
            for name in own.names:
                assert own.field(name).type == schema.field(name).type


def test_committed_numbers_are_declared_with_their_unit_and_direction() -> None:
    for folder in COMMITTED:
        record = read_cell(folder)
        for metric in record.metrics:
            if metric.metric in ("score", record.metric):
                continue
            column = declared(metric.metric)
            assert (metric.unit, metric.higher_is_better) == (column.unit, column.higher_is_better)


def test_what_the_cost_pass_measures_is_what_the_table_declares() -> None:
    rows = []
    for pair in range(8):
        for variant in ("method", "baseline"):
            for phase in PHASES:
                if (variant, phase) != ("baseline", "select"):
                    rows.append(PairRow(pair, 0, variant, phase, 1.0, 2.0, 3, 4.0))
    names = {metric.metric for metric in summarize(rows)}
    assert names == {column.metric for column in columns.COST} | {"kv_bytes"}


def test_names_of_the_table_are_unique() -> None:
    for table in columns.TABLES.values():
        names = [column.name for column in table]
        assert len(set(names)) == len(names)
    metrics = [column.metric for column in (*columns.SAMPLES, *columns.COST) if column.metric]
    assert len(set(metrics)) == len(metrics)
    assert len(set(leaderboard.COLUMNS)) == len(leaderboard.COLUMNS)


def test_every_column_says_what_it_is() -> None:
    rows: list[Column] = [*columns.SAMPLES, *columns.PAIRS, *columns.COST]
    assert all(column.about for column in rows)
    assert all(heading.about for heading in (*headings.HEAD, *headings.TAIL))


def test_a_column_of_nothing_but_nulls_has_its_type() -> None:
    table = pyarrow.Table.from_pylist([{"sample_id": "a"}], schema=columns.schema("samples"))
    assert table.schema.field("evidence_recall").type == pyarrow.float64()
    assert table.schema.field("stages").type == pyarrow.list_(pyarrow.int64())


def test_an_undeclared_number_is_an_error() -> None:
    with pytest.raises(KeyError, match="surprise"):
        declared("surprise")


# ---- versions ------------------------------------------------------------------------------------


def copied(tmp_path: Path, **facts: Any) -> Path:
    """A study of one committed cell with other facts, under a seal that fits."""
    folder = next(path for path in COMMITTED if path.name.endswith("s0"))
    shutil.copytree(folder, tmp_path / "cells" / folder.name)
    change(tmp_path / "cells" / folder.name, **facts)
    return tmp_path / "cells" / folder.name


def test_every_schema_that_is_read_says_what_it_means() -> None:
    assert list(schema.MEANINGS) == list(range(1, schema.SCHEMA + 1))
    assert schema.OLDEST in schema.MEANINGS
    text = (ROOT / "docs" / "cells.md").read_text()
    for version, meaning in schema.MEANINGS.items():
        assert f"| {version} | {meaning} |" in text


@pytest.mark.parametrize("version", range(schema.OLDEST, schema.SCHEMA + 1))
def test_a_cell_of_any_schema_from_the_oldest_on_is_read(tmp_path: Path, version: int) -> None:
    assert read_cell(copied(tmp_path, schema=version)).schema == version


def test_a_cell_of_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    newer = schema.SCHEMA + 1
    folder = copied(tmp_path, schema=newer, provenance={"prunebench": "9.1"})
    says = (
        f"cell {folder.name}: cell.json is of schema {newer}, written by prunebench 9.1, and this "
        f"version reads {schema.OLDEST} to {schema.SCHEMA}: update prunebench"
    )
    with pytest.raises(ReportError, match=f"^{re.escape(says)}"):
        read_cell(folder)
    # nothing is folded of a study of which a part cannot be read
    with pytest.raises(ReportError, match="update prunebench"):
        cells.read(tmp_path)


def test_a_cell_of_a_schema_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"schema 0.* is no longer read .*sweep the study again"):
        read_cell(copied(tmp_path, schema=schema.OLDEST - 1))


def test_a_schema_that_is_no_version_is_damage(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"is damaged: .*schema 'two' where a count belongs"):
        read_cell(copied(tmp_path, schema="two"))

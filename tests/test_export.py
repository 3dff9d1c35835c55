"""Export: a study as a data set that `datasets` loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from hand_written import cell, cost, golden_study

from prunebench.cli import main
from prunebench.study import cells

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return golden_study(tmp_path / "study")


def exported(study: Path, *words: str) -> Path:
    folder = study.parent / "set"
    assert main(["export", str(study), f"out={folder}", *words]) == 0
    return folder


def loaded(folder: Path, *name: str) -> list[dict[str, object]]:
    cache = folder.parent / "cache"
    rows: list[dict[str, object]] = list(
        load_dataset(str(folder), *name, cache_dir=str(cache))["test"]
    )
    return rows


def test_answers_are_what_the_default_configuration_loads(study: Path) -> None:
    rows = loaded(exported(study))
    records, _ = cells.read(study)
    by_cell: dict[object, list[float]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], []).append(float(str(row["score"])))
    for record in records:
        if record.kind == "quality" and record.ok:
            assert by_cell[record.id] == record.scores.tolist()
    one = next(row for row in rows if row["cell"] == "tiny__fastv__0.5__count__s0")
    assert (one["model"], one["method"], one["budget"], one["task"], one["seed"]) == (
        "tiny",
        "fastv",
        "0.5",
        "count",
        0,
    )


def test_cells_are_rows_with_their_numbers_and_provenance(study: Path) -> None:
    rows = {str(row["id"]): row for row in loaded(exported(study), "cells")}
    records, _ = cells.read(study)
    assert set(rows) == {record.id for record in records}
    row = rows["tiny__fastv__0.5__color__s0"]
    metrics = {one["metric"]: one for one in row["metrics"]}  # type: ignore[attr-defined]
    assert metrics["score"]["value"] == 0.9
    assert json.loads(str(row["provenance"]))["commit"] == "abc1234"
    failed = rows["tiny__fastv__0.05__color__s0"]
    assert failed["status"] == "infeasible"
    assert "out of reach" in str(failed["reason"])
    assert rows["tiny__fastv__0.5__color__s0__cost"]["kind"] == "cost"


def test_a_committed_study_is_loaded_whole(tmp_path: Path) -> None:
    """With every column that a sweep writes, lists among them."""
    source = next(iter(sorted((ROOT / "results").glob("*/cells")))).parent
    shutil.copytree(source / "cells", tmp_path / "study" / "cells")
    rows = loaded(exported(tmp_path / "study"))
    records, _ = cells.read(source)
    assert len(rows) == sum(len(record.scores) for record in records if record.of_samples)
    assert {"prediction", "reference", "stages", "flops_total"} <= set(rows[0])


def test_the_card_says_what_there_is(study: Path) -> None:
    folder = exported(study, "license=cc-by-4.0")
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    assert [config["config_name"] for config in head["configs"]] == ["answers", "cells"]
    assert "| methods | fastv, none, pool, random |" in text
    assert "| `evidence_recall` | share of the evidence boxes' tokens" in text


def test_a_name_that_is_markup_is_text_in_the_card(tmp_path: Path) -> None:
    cell(tmp_path / "study", "fastv", "color", [1, 0], model="<b>|bold|</b>")
    text = (exported(tmp_path / "study") / "README.md").read_text()
    assert r"\<b\>\|bold\|\</b\>" in text


def test_a_study_of_cost_alone_has_no_answers(tmp_path: Path) -> None:
    cost(tmp_path / "study", "fastv", "color", 0.7, 0.8)
    folder = exported(tmp_path / "study")
    assert not (folder / "data" / "answers.parquet").exists()
    assert len(loaded(folder)) == 1


def test_exporting_again_replaces_and_nothing_else_is_overwritten(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(study)
    before = (folder / "README.md").read_bytes()
    exported(study)
    assert (folder / "README.md").read_bytes() == before
    (folder / "thesis.tex").write_text("mine")
    assert main(["export", str(study), f"out={folder}"]) == 2
    assert "holds thesis.tex, which is no part of a data set" in capsys.readouterr().err
    assert main(["export", str(study)]) == 2
    assert "out is missing" in capsys.readouterr().err

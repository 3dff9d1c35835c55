"""A study that is folded model by model, by several processes, says what one process says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic

from prunebench import report
from prunebench.report import drawing, pairs, parts
from prunebench.study import cells, facts, readers
from prunebench.study.cells import OtherSchema, ReportError
from prunebench.study.seal import sealed

SHAPE = synthetic.Shape(models=2, tasks=2, methods=4, seeds=2, samples=8)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    synthetic.write(tmp_path / "study", SHAPE)
    return tmp_path / "study"


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables alone are compared here."""
    monkeypatch.setattr(drawing, "together", lambda *_: {})


def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two processes fold."""
    monkeypatch.setattr(readers, "count", lambda folders: 2)


def tables_of(study: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(study.glob("*.csv"))}


def rewrite(folder: Path, **facts_of: object) -> None:
    """Change what a cell.json says, under a seal that holds."""
    content = json.loads((folder / "cell.json").read_text())
    del content["seal"]
    (folder / "cell.json").write_text(facts.to_json(sealed(content | facts_of)))


def test_the_tables_are_those_of_one_process(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = report.build(study)
    of_one = tables_of(study)
    assert {"by_type.csv", "leaderboard.csv", "metrics.csv", "pairs.csv"} <= {*of_one}
    several(monkeypatch)
    together = report.build(study, whole=False)
    assert tables_of(study) == of_one
    assert [cell.id for cell in together.records] == [cell.id for cell in alone.records]
    assert together.warnings == alone.warnings


def test_cells_of_several_processes_come_without_their_samples(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(monkeypatch)
    assert report.build(study, whole=False).records[0].of_samples is None
    assert report.build(study).records[0].of_samples is not None


def test_a_damaged_cell_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cells.folders(study)[-1]
    (folder / "samples.parquet").write_bytes(b"no table")
    alone = report.build(study)
    several(monkeypatch)
    together = report.build(study, whole=False)
    assert folder.name in together.warnings[0]
    assert together.warnings == alone.warnings


def test_a_cell_of_another_schema_ends_it(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(cells.folders(study)[-1], schema=99)
    several(monkeypatch)
    with pytest.raises(OtherSchema, match="schema 99"):
        report.build(study, whole=False)


def test_a_study_of_broken_cells_alone_is_none(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in cells.folders(study):
        (folder / "cell.json").write_text("{}")
    several(monkeypatch)
    with pytest.raises(ReportError, match="study has no finished cell; cell model00__method00"):
        report.build(study, whole=False)


def test_names_that_say_another_model_than_the_cells_do_no_harm(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in cells.folders(study):
        rewrite(folder, model="the same")
        if folder.name.startswith("model01"):
            rewrite(folder, seed=7)
    report.build(study)
    of_one = tables_of(study)
    several(monkeypatch)
    with pytest.raises(parts.Entangled):
        list(parts.of_study(study, whole=False))
    report.build(study, whole=False)
    assert tables_of(study) == of_one


@pytest.mark.parametrize("most", [10, 20, 10_000])
def test_as_many_pairs_stand_in_the_table(
    most: int, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MOST_PAIRS", most)
    of_one = report.build(study)
    table = tables_of(study)["pairs.csv"]
    several(monkeypatch)
    together = report.build(study, whole=False)
    assert tables_of(study)["pairs.csv"] == table
    assert together.left_out == of_one.left_out


def test_a_process_that_ends_early_is_an_error(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(monkeypatch)
    monkeypatch.setattr("sys.executable", "/bin/true")
    with pytest.raises(ReportError, match="a process that read cells ended before"):
        report.build(study, whole=False)

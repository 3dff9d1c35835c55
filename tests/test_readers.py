"""Several readers give the cells of a study as one does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import synthetic

from prunebench.study import cells, readers
from prunebench.study.cells import StoredCell

SHAPE = synthetic.Shape(models=1, tasks=2, methods=3, seeds=1, samples=6)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    synthetic.write(tmp_path / "study", SHAPE)
    return tmp_path / "study"


def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two processes read three cells at a time."""
    monkeypatch.setattr(readers, "count", lambda folders: 2)
    monkeypatch.setattr(readers, "PART", 3)


def facts_of(cell: StoredCell) -> dict[str, object]:
    facts = {one.name: getattr(cell, one.name) for one in dataclasses.fields(cell)}
    own = cell.samples_read
    facts["of_samples"] = own.ids.tolist()
    facts["numbers"] = {name: own.numbers[name].tolist() for name in own.numbers}
    facts["labels"] = {name: labels.texts.tolist() for name, labels in own.labels.items()}
    facts["answers"] = own.answers.tolist()
    return facts


def test_they_give_the_same_cells_in_the_same_order(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = cells.read(study)
    several(monkeypatch)
    together, warnings = cells.read(study)
    assert len(together) == SHAPE.cells
    assert not warnings
    np.testing.assert_equal(list(map(facts_of, together)), list(map(facts_of, alone)))


def test_cells_that_different_readers_read_share_their_samples(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(monkeypatch)
    together, _ = cells.read(study)
    for task in ("task00", "task01"):
        own = [cell.samples_read for cell in together if cell.task == task]
        assert len({id(samples.ids) for samples in own}) == 1
        assert len({id(samples.labels["image"]) for samples in own}) == 1


def test_damage_is_named_as_by_one_reader(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cells.folders(study)[4]
    (folder / "samples.parquet").write_bytes(b"no table")
    _, alone = cells.read(study)
    several(monkeypatch)
    together, warnings = cells.read(study)
    assert len(together) == SHAPE.cells - 1
    assert warnings == alone != []


def test_a_reader_that_ends_early_is_an_error(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several(monkeypatch)
    monkeypatch.setattr("sys.executable", "/bin/true")
    with pytest.raises(cells.ReportError, match=r"14 cells cannot be read: a process that read"):
        cells.read(study)


def test_few_cells_are_read_by_one() -> None:
    assert readers.count([Path("cell")] * readers.FEW) == 1

"""Merging: studies of several people become one, and what does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_written import cell, change, cost, facts_of

from prunebench.cli import main
from prunebench.run.grid import Grid, dump, load
from prunebench.study import cells


def grid(study: Path, **keys: object) -> None:
    """Give a study its question."""
    study.mkdir(parents=True, exist_ok=True)
    content = Grid(**{"methods": ["fastv"], "budgets": ["0.5"], "controls": False, **keys})  # type: ignore[arg-type]
    (study / "grid.yaml").write_text(dump(content))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two people ran a method each, and both the unpruned model."""
    for name, method in (("hers", "fastv"), ("his", "pool")):
        grid(tmp_path / name, methods=[method])
        cell(tmp_path / name, "none", "color", [1, 1, 0, 1])
        cell(tmp_path / name, method, "color", [1, 0, 0, 1])
    return tmp_path / "hers", tmp_path / "his"


def run(*words: object) -> int:
    return main(["merge", *map(str, words)])


def contents(study: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(study.rglob("*")) if path.is_file())
    return {str(path.relative_to(study)): path.read_bytes() for path in paths}


def test_two_studies_become_one_to_the_byte(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ours"
    assert run(*two, f"out={out}") == 0
    assert "3 cells of 2 studies, 1 of them more than once" in capsys.readouterr().out
    merged = contents(out)
    for study in two:
        own = {name: data for name, data in contents(study).items() if name.startswith("cells")}
        assert own.items() <= merged.items()
    united = load(out / "grid.yaml")
    assert {variant.label for variant in united.variants()} == {"fastv", "pool"}
    assert main(["report", str(out)]) == 0
    rows = capsys.readouterr().out
    assert "fastv" in rows
    assert "pool" in rows
    # where every number comes from is in its cell, as before
    records, _ = cells.read(out)
    assert [record.commit for record in records] == ["abc1234"] * 3


def test_merging_again_changes_nothing_and_a_third_study_is_added(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "ours"
    assert run(*two, f"out={out}") == 0
    before = contents(out)
    assert run(*two, f"out={out}") == 0
    assert contents(out) == before
    cell(tmp_path / "third", "uniform", "color", [0, 0, 0, 1])
    grid(tmp_path / "third", methods=["uniform"])
    assert run(tmp_path / "third", f"out={out}") == 0
    records, _ = cells.read(out)
    assert [record.method for record in records] == ["fastv", "none", "pool", "uniform"]


def test_the_same_cell_with_other_answers_is_a_conflict(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "third"
    grid(other)
    cell(other, "fastv", "color", [1, 1, 0, 1])
    assert run(two[0], other, f"out={tmp_path / 'ours'}") == 2
    said = capsys.readouterr().err
    assert "hers/cells/tiny__fastv__0.5__color__s0 and " in said
    assert "third/cells/tiny__fastv__0.5__color__s0 have different results" in said
    assert "sample 'color/1' has score 0.0 and 1.0" in said
    assert not (tmp_path / "ours").exists()


def test_the_same_cell_of_another_identity_is_a_conflict(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(two[1] / "cells" / "tiny__none__1.0__color__s0", fingerprint="other")
    assert run(*two, f"out={tmp_path / 'ours'}") == 2
    assert "were asked in different ways" in capsys.readouterr().err


def test_what_only_took_another_time_is_the_same(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Of two machines: another day and other seconds, with the same answers."""
    for study, seconds in zip(two, (0.1, 0.2), strict=True):
        cell(study, "uniform", "color", [1, 0], columns={"seconds": [seconds, seconds]})
    place = two[1] / "cells" / "tiny__uniform__0.5__color__s0"
    change(place, provenance=facts_of(place)["provenance"] | {"hardware": "another"})
    assert run(*two, f"out={tmp_path / 'ours'}") == 0
    records, _ = cells.read(tmp_path / "ours")
    (own,) = [record for record in records if record.method == "uniform"]
    assert own.hardware == "2 cores"


def test_two_measurements_of_time_are_a_conflict(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cost(two[0], "fastv", "color", 0.7, 0.8)
    cost(two[1], "fastv", "color", 0.6, 0.8)
    assert run(*two, f"out={tmp_path / 'ours'}") == 2
    assert "their times are two measurements" in capsys.readouterr().err


def test_a_cell_that_failed_for_one_is_the_one_that_did_not(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    cell(two[0], "pool", "color", None, status="failed", reason="broken")
    assert run(*two, f"out={tmp_path / 'ours'}") == 0
    records, _ = cells.read(tmp_path / "ours")
    assert {record.method: record.status for record in records}["pool"] == "ok"


def test_a_damaged_cell_is_left_out_and_named(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two[1] / "cells" / "tiny__pool__0.5__color__s0" / "cell.json"
    path.write_text(path.read_text().replace('"ok"', '"oom"'))
    assert run(*two, f"out={tmp_path / 'ours'}") == 1
    assert "tiny__pool__0.5__color__s0 is damaged" in capsys.readouterr().err
    records, _ = cells.read(tmp_path / "ours")
    assert [record.method for record in records] == ["fastv", "none"]


def test_a_cell_that_is_not_finished_is_left_out_and_named(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = two[0] / "cells" / "tiny__dart__0.5__color__s0"
    folder.mkdir()
    (folder / "samples.jsonl").write_text("")
    assert run(*two, f"out={tmp_path / 'ours'}") == 1
    assert "it was not finished" in capsys.readouterr().err
    assert not (tmp_path / "ours" / "cells" / folder.name).exists()


def test_questions_that_differ_are_refused(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid(two[1], methods=["pool"], limit=4)
    assert run(*two, f"out={tmp_path / 'ours'}") == 2
    assert "limit is null in hers and 4 in his" in capsys.readouterr().err


def test_one_label_for_two_methods_is_refused(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid(two[1], methods=["pool", {"name": "fastv", "layer": 3}])
    assert run(*two, f"out={tmp_path / 'ours'}") == 2
    assert "method 'fastv' has layer 2 in hers and 3 in his" in capsys.readouterr().err


def test_studies_of_several_seeds_keep_their_questions(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    grid(tmp_path / "third", methods=["fastv"], seed=1)
    cell(tmp_path / "third", "none", "color", [1, 1, 0, 1], seed=1)
    cell(tmp_path / "third", "fastv", "color", [1, 1, 0, 1], seed=1)
    out = tmp_path / "ours"
    assert run(two[0], tmp_path / "third", f"out={out}") == 0
    assert not (out / "grid.yaml").exists()
    seeds = {path.stem: load(path).seed for path in (out / "grids").iterdir()}
    assert seeds == {"hers": 0, "third": 1}
    assert main(["report", str(out)]) == 0
    board = (out / "leaderboard.csv").read_text()
    assert "tiny,fastv" in board
    # and a further one is added to them
    assert run(two[1], f"out={out}") == 0
    assert sorted(path.stem for path in (out / "grids").iterdir()) == ["hers", "his", "third"]


def test_words_that_are_no_studies_are_refused(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*two) == 2
    assert "out is missing" in capsys.readouterr().err
    assert run(two[0], f"out={tmp_path / 'ours'}") == 2
    assert "alone is nothing to merge" in capsys.readouterr().err
    assert run(two[0], tmp_path / "nowhere", f"out={tmp_path / 'ours'}") == 2
    assert "is no study" in capsys.readouterr().err


def test_a_merged_study_has_nothing_left_to_sweep(tmp_path: Path) -> None:
    """Two real sweeps: what the united question asks is there, whoever asked it."""
    for name, method in (("hers", "fastv"), ("his", "uniform")):
        words = [f"methods={method}", "budgets=0.5", "limit=2", "controls=false", "cost=false"]
        assert main(["sweep", *words, f"out={tmp_path / name}"]) == 0
    out = tmp_path / "ours"
    assert run(tmp_path / "hers", tmp_path / "his", f"out={out}") == 0
    before = contents(out / "cells")
    assert main(["sweep", str(out / "grid.yaml")]) == 0
    assert contents(out / "cells") == before

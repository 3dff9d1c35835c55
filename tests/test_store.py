"""Store: killed at any point and run again, nothing is lost and nothing is there twice; damage is found, the rest is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from prunebench.budget import Budget
from prunebench.run import store
from prunebench.run.cell import Cell
from prunebench.run.grid import Grid, load
from prunebench.run.store import StoreError, open_study

SAMPLES = [f"sample-{number}" for number in range(4)]
PRINT = "fingerprint"


@pytest.fixture(scope="module")
def grid() -> Grid:
    return load(None, ["methods=fastv", "budgets=0.5", "controls=false"])


def row(sample: str, error: str | None = None) -> dict[str, Any]:
    return {
        "sample_id": sample,
        "doc_id": SAMPLES.index(sample),
        "prediction": f"answer to {sample}",
        "score": 1.0,
        "error": error,
    }


def cells(grid: Grid) -> list[Cell]:
    variant = grid.variants()[0]
    return [Cell("quality", "m", variant, Budget.parse(share), "t", 0) for share in ("0.5", "0.25")]


def facts(status: str = "ok", fingerprint: str = PRINT) -> dict[str, Any]:
    return {"fingerprint": fingerprint, "status": status, "reason": "", "metrics": [{"metric": "score", "value": 0.1}]}


def work(folder: Path, grid: Grid) -> list[str]:
    """What a sweep does, sample by sample over all cells; the samples that were computed, also in a file beside it."""
    computed: list[str] = []
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with open_study(folder) as study:
        study.begin(grid)
        waiting = [cell for cell in cells(grid) if study.result(cell, PRINT) is None]
        journals = {cell.id: study.journal(cell, PRINT) for cell in waiting}
        for sample in SAMPLES:
            for cell in waiting:
                if sample not in journals[cell.id].rows:
                    journals[cell.id].append([row(sample)])
                    computed.append(f"{cell.id} {sample}")
                    os.write(log, f"{computed[-1]}\n".encode())
        for cell in waiting:
            study.finish(cell, facts(), {"samples": list(journals[cell.id].rows.values())})
    os.close(log)
    return computed


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def killed_at(step: int, run: Callable[[], Any]) -> bool:
    """Run in a child that kill -9 meets at its `step`-th write (halfway), flush, rename or deletion; whether it did."""
    child = os.fork()
    if child == 0:
        try:
            _arm(step)
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _arm(step: int) -> None:
    left = iter(range(step))

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def armed(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                die()
            return call(*args, **kwargs)

        return armed

    class Torn:
        """A file whose fatal write gets halfway."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Torn:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: Any) -> int:
            if next(left, None) is None:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                die()
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    for name in ("replace", "fsync", "truncate"):
        setattr(store.os, name, before(getattr(os, name)))
    unlink, plain = Path.unlink, Path.open
    Path.unlink = before(unlink)  # type: ignore[method-assign]
    Path.open = lambda self, mode="r", *rest, **named: (  # type: ignore[method-assign,assignment,misc]
        plain(self, mode, *rest, **named) if "r" in mode else Torn(plain(self, mode, *rest, **named))
    )


def test_killed_anywhere_and_run_again_it_is_as_if_it_had_not_been(tmp_path: Path, grid: Grid):
    whole = tmp_path / "whole"
    everything = work(whole, grid)
    assert len(everything) == 2 * len(SAMPLES)
    expected = contents(whole)
    step, folder = 0, tmp_path / "killed-0"
    while killed_at(step, partial(work, folder, grid)):
        done = folder.with_suffix(".log").read_text().splitlines()
        again = work(folder, grid)
        assert not set(done) & set(again), f"step {step}: a sample was lost, or computed twice"
        assert len(done) + len(again) in (len(everything), len(everything) - 1)  # one was on the disk, and not yet logged
        assert contents(folder) == expected, f"step {step}"
        step += 1
        folder = tmp_path / f"killed-{step}"
    assert step > 20


def test_killed_twice(tmp_path: Path, grid: Grid):
    work(tmp_path / "whole", grid)
    for step in (9, 3, 12):
        assert killed_at(step, partial(work, tmp_path / "study", grid))
    work(tmp_path / "study", grid)
    assert contents(tmp_path / "study") == contents(tmp_path / "whole")


def test_a_torn_last_line_costs_one_sample(tmp_path: Path, grid: Grid):
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        journal = study.journal(cell, PRINT)
        journal.append([row(SAMPLES[0])])
        journal.append([row(SAMPLES[1])])
        with journal.path.open("ab") as file:
            file.write(b'{"sample_id": "sample-2", "pred')
        again = study.journal(cell, PRINT)
        assert list(again.rows) == SAMPLES[:2]
        again.append([row(SAMPLES[2])])
        assert list(study.journal(cell, PRINT).rows) == SAMPLES[:3]
        assert study.notes == []


@pytest.fixture
def finished(tmp_path: Path, grid: Grid) -> Path:
    work(tmp_path / "study", grid)
    return tmp_path / "study"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 0.1', '"value": 0.9'))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("cell.json", lambda path: path.write_text("{"), "cell.json cannot be read"),
        ("cell.json", lambda path: path.write_text("[]"), "cell.json cannot be read"),
        ("cell.json", _edit, "cell.json was changed by hand"),
        ("samples.parquet", _flip, "samples.parquet was changed"),
        ("samples.parquet", Path.unlink, "samples.parquet is missing"),
    ],
)
def test_a_damaged_cell_is_set_aside_and_runs_again(
    finished: Path, grid: Grid, file: str, damage: Callable[[Path], Any], said: str
):
    first, second = cells(grid)
    damage(finished / "cells" / first.id / file)
    before = contents(finished / "cells" / second.id)
    with open_study(finished) as study:
        assert study.result(first, PRINT) is None
        assert study.result(second, PRINT) is not None
        assert len(study.notes) == 1
        assert said in study.notes[0]
        assert first.id in study.notes[0]
    assert len(work(finished, grid)) == len(SAMPLES)
    assert contents(finished / "cells" / second.id) == before
    assert [path.name for path in (finished / "damaged").iterdir()] == [f"{first.id}.damaged-1"]


def test_a_damaged_journal_is_set_aside(tmp_path: Path, grid: Grid):
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        journal = study.journal(cell, PRINT)
        journal.append([row(SAMPLES[0])])
        journal.append([row(SAMPLES[1])])
        journal.path.write_text(journal.path.read_text().replace('"sample_id": "sample-0"', '"sample_id": '))
        assert study.journal(cell, PRINT).rows == {}
        assert "samples.jsonl" in study.notes[0]


def test_another_configuration_is_not_reused(finished: Path, grid: Grid):
    cell = cells(grid)[0]
    with open_study(finished) as study:
        assert study.result(cell, "another") is None
        journal = study.journal(cell, "another")
        assert journal.rows == {}
        journal.append([row(SAMPLES[0])])
        assert study.journal(cell, "a third").rows == {}


def test_a_failed_cell_is_tried_again_and_keeps_its_good_samples(tmp_path: Path, grid: Grid):
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        rows = [row(SAMPLES[0]), row(SAMPLES[1], error="its image is truncated")]
        study.finish(cell, facts("failed"), {"samples": rows})
        assert study.result(cell, PRINT) is None
        assert list(study.journal(cell, PRINT).rows) == SAMPLES[:1]
        assert list(study.journal(cell, PRINT).rows) == SAMPLES[:1], "it must be on the disk"


def test_infeasible_is_an_answer(tmp_path: Path, grid: Grid):
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        study.finish(cell, facts("infeasible"), {"samples": []})
        found = study.result(cell, PRINT)
        assert found is not None
        assert found["status"] == "infeasible"
        table = parquet.read_table(study.cell_folder(cell) / "samples.parquet")
        assert table.num_rows == 0
        assert "score" in table.column_names


def test_a_study_of_another_grid_is_refused(finished: Path):
    other = load(None, ["methods=fastv", "budgets=0.25", "controls=false"])
    with open_study(finished) as study, pytest.raises(StoreError, match=r'holds another study: budgets is .*"0.5".*"0.25"'):
        study.begin(other)


def test_a_study_whose_grid_is_unreadable_is_refused(finished: Path, grid: Grid):
    (finished / "grid.yaml").write_text("methods: [")
    with open_study(finished) as study, pytest.raises(StoreError, match=r"grid\.yaml cannot be read"):
        study.begin(grid)


def test_an_unwritable_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"), open_study(tmp_path / "file" / "study"):
        pass


def test_one_sweep_at_a_time(tmp_path: Path):
    with open_study(tmp_path / "s"):
        with pytest.raises(StoreError, match="another sweep is writing"), open_study(tmp_path / "s"):
            pass
        assert (tmp_path / "s").exists()
    with open_study(tmp_path / "s"):
        pass


def test_a_sweep_that_comes_to_nothing_leaves_nothing(tmp_path: Path):
    with open_study(tmp_path / "s"):
        pass
    assert not (tmp_path / "s").exists()

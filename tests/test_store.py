"""Store: killed at any point and run again, nothing is lost and nothing is there twice; damage is
found, the rest is kept.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hand_written import change
from pyarrow import parquet

from prunebench import cli
from prunebench.budget import Budget
from prunebench.run.cell import Cell
from prunebench.run.grid import Grid, load
from prunebench.run.store import StoreError, Vanished, open_study
from prunebench.study import folder as folder_module
from prunebench.study import journal as journal_module
from prunebench.study.lines import Chain
from prunebench.study.record import CellRecord, Metric, Status
from prunebench.study.schema import SCHEMA
from prunebench.study.seal import seal

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


def record(cell: Cell, status: Status = "ok", **more: Any) -> CellRecord:
    values: dict[str, Any] = {
        "settings": cell.variant.settings(),
        "reason": "",
        "metrics": (Metric("score", 0.1, n=4),),
    }
    return CellRecord(
        id=cell.id,
        fingerprint=PRINT,
        kind=cell.kind,
        model=cell.model,
        method=cell.variant.label,
        budget=cell.amount,
        budget_kind=cell.budget_kind,
        task=cell.task,
        seed=cell.seed,
        status=status,
        provenance={"hardware": "2 cores", "dirty": False},
        **(values | more),
    )


def work(folder: Path, grid: Grid) -> list[str]:
    """What a sweep does, sample by sample over all cells; the samples that were computed, also in a
    file beside it.
    """
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
            study.finish(cell, record(cell), {"samples": list(journals[cell.id].rows.values())})
    os.close(log)
    return computed


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def killed_at(step: int, run: Callable[[], Any]) -> bool:
    """Run in a child that kill -9 meets at its `step`-th write (halfway), flush, rename or
    deletion; whether it did.
    """
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

    for name in ("replace", "fsync"):
        setattr(os, name, before(getattr(os, name)))
    Path.unlink = before(Path.unlink)  # type: ignore[method-assign]
    plain = os.fdopen
    os.fdopen = lambda handle, mode="r": (  # type: ignore[assignment]
        plain(handle, mode) if "r" in mode else Torn(plain(handle, mode))
    )


def test_killed_anywhere_and_run_again_it_is_as_if_it_had_not_been(
    tmp_path: Path, grid: Grid
) -> None:
    whole = tmp_path / "whole"
    everything = work(whole, grid)
    assert len(everything) == 2 * len(SAMPLES)
    expected = contents(whole)
    step, folder = 0, tmp_path / "killed-0"
    while killed_at(step, partial(work, folder, grid)):
        before = folder.with_suffix(".log").read_text().splitlines()
        again = work(folder, grid)
        assert not set(before) & set(again), f"step {step}: a sample was lost, or computed twice"
        missing = len(everything) - len(before) - len(again)
        assert missing in (0, 1)  # one may be on the disk, and not yet logged
        assert contents(folder) == expected, f"step {step}"
        step += 1
        folder = tmp_path / f"killed-{step}"
    assert step > 20


def test_killed_twice(tmp_path: Path, grid: Grid) -> None:
    work(tmp_path / "whole", grid)
    for step in (9, 3, 12):
        assert killed_at(step, partial(work, tmp_path / "study", grid))
    work(tmp_path / "study", grid)
    assert contents(tmp_path / "study") == contents(tmp_path / "whole")


def test_a_torn_last_line_costs_one_sample(tmp_path: Path, grid: Grid) -> None:
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


def _sealed(path: Path, **change: Any) -> None:
    """Changed facts under a seal that fits."""
    content = {
        key: value
        for key, value in (json.loads(path.read_text()) | change).items()
        if key != "seal"
    }
    path.write_text(json.dumps(content if "seal" in change else content | {"seal": seal(content)}))


def _measured(path: Path, **change: Any) -> None:
    _sealed(path, metrics=[{"metric": "score", "value": 0.1} | change])


def _resealed(path: Path) -> None:
    """No table at all, though the seal knows it."""
    path.write_bytes(b"PAR1")
    _sealed(path.with_name("cell.json"), files={path.name: sha256(b"PAR1").hexdigest()})


def _edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 0.1', '"value": 0.9'))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("cell.json", lambda path: path.write_text("{"), "cell.json cannot be read"),
        ("cell.json", lambda path: path.write_text("[]"), "cell.json cannot be read"),
        ("cell.json", lambda path: path.write_text("[" * 100_000), "cell.json cannot be read"),
        ("cell.json", lambda path: path.write_bytes(b"\xff\xfe\0"), "cell.json cannot be read"),
        (
            "cell.json",
            lambda path: os.truncate(path, 2**31),
            "cell.json cannot be read: is larger than",
        ),
        (
            "cell.json",
            lambda path: path.write_text(path.read_text().replace("{", '{"id": "x",', 1)),
            "stands in it twice",
        ),
        ("cell.json", _edit, "cell.json was changed by hand"),
        ("cell.json", partial(_sealed, seal=None), "cell.json has no seal"),
        ("cell.json", partial(_sealed, id="../../up"), "belongs to cell '../../up'"),
        ("cell.json", partial(_sealed, method=7), "method 7 where a name belongs"),
        ("cell.json", partial(_sealed, provenance={"dirty": "no"}), "provenance.dirty 'no'"),
        (
            "cell.json",
            partial(_sealed, samples={"asked": 3, "answered": 4}),
            "samples a mapping of 2",
        ),
        ("cell.json", partial(_sealed, files={}), "does not name samples.parquet"),
        ("cell.json", partial(_sealed, files={"../../grid.yaml": "0"}), "no file of its folder"),
        ("cell.json", partial(_measured, value=float("nan")), "value nan where a number belongs"),
        ("cell.json", partial(_measured, value="0.9"), "value '0.9' where a number belongs"),
        ("cell.json", partial(_measured, n=10**30), "n a huge number where a count belongs"),
        ("cell.json", partial(_measured, n=-1), "n -1 where a count belongs"),
        (
            "cell.json",
            partial(_measured, unit="tokens", value=-4),
            "-4, which cannot be below zero",
        ),
        ("samples.parquet", _resealed, "samples.parquet cannot be read"),
        ("samples.parquet", _flip, "samples.parquet was changed"),
        ("samples.parquet", Path.unlink, "samples.parquet is missing"),
    ],
)
def test_a_damaged_cell_is_set_aside_and_runs_again(
    finished: Path, grid: Grid, file: str, damage: Callable[[Path], Any], message: str
) -> None:
    first, second = cells(grid)
    damage(finished / "cells" / first.id / file)
    before = contents(finished / "cells" / second.id)
    with open_study(finished) as study:
        assert study.result(first, PRINT) is None
        assert study.result(second, PRINT) is not None
        assert len(study.notes) == 1
        assert message in study.notes[0]
        assert first.id in study.notes[0]
    assert len(work(finished, grid)) == len(SAMPLES)
    assert contents(finished / "cells" / second.id) == before
    assert [path.name for path in (finished / "damaged").iterdir()] == [f"{first.id}.damaged-1"]


Lines = list[str]


def _forged(content: str) -> Callable[[Lines], Lines]:
    """A journal whose second row holds `content` under a checksum that fits."""

    def forge(texts: Lines) -> Lines:
        chain = Chain()
        chain.take(texts[0].encode())
        chain.take(texts[1].encode())
        body = texts[2].partition('"row": ')[2][:-2]
        body = content.replace("ROW", body[1:-1])
        check = sha256(f"{chain.check}\n{body}".encode(errors="surrogatepass")).hexdigest()
        return [*texts[:2], f'{{"check": "{check}", "row": {body}}}\n', *texts[3:]]

    return forge


DAMAGES: dict[str, Callable[[Lines], Lines]] = {
    "a prediction was edited": lambda texts: [
        *texts[:2],
        texts[2].replace("answer to", "no answer to"),
        *texts[3:],
    ],
    "lines were swapped": lambda texts: [*texts[:2], texts[3], texts[2], *texts[4:]],
    "a line stands twice": lambda texts: [*texts[:2], texts[1], *texts[2:]],
    "a line in the middle is gone": lambda texts: [*texts[:2], *texts[3:]],
    "an old line without checksum": lambda texts: [
        *texts[:2],
        json.dumps(row(SAMPLES[1])) + "\n",
        *texts[3:],
    ],
    "an empty line": lambda texts: [*texts[:2], "\n", *texts[2:]],
    "zero bytes": lambda texts: [*texts[:2], "\0" * 100 + "\n", *texts[2:]],
    "a row that is a number": _forged("7"),
    "a row of another task": _forged('{ROW, "sample_id": "stranger"}'),
    "a doc_id of another sample": _forged('{ROW, "doc_id": 3}'),
    "a sample that is there already": _forged('{ROW, "sample_id": "sample-0", "doc_id": 0}'),
    "a row without an id": _forged('{"doc_id": 1, "error": null}'),
    "a row that does not say how it ended": _forged('{"sample_id": "sample-1", "doc_id": 1}'),
    "a prediction that is a list": _forged('{ROW, "prediction": ["yes"]}'),
    "a nested number": _forged('{ROW, "stages": [1, [2]]}'),
    "not a number": _forged('{ROW, "seconds": NaN}'),
    "an endless number": _forged('{ROW, "seconds": 1e999}'),
    "a number of 400 digits": _forged('{ROW, "kv_bytes": ' + "9" * 400 + "}"),
    "a number of 5000 digits": _forged('{ROW, "kv_bytes": ' + "9" * 5000 + "}"),
    "an unknown column": _forged('{ROW, "surprise": 1}'),
    "an unknown status": _forged('{ROW, "status": "fine"}'),
    "nesting without end": _forged("[" * 100_000),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_of_a_damaged_journal_the_lines_before_are_kept_and_the_others_asked_again(
    tmp_path: Path, grid: Grid, name: str
) -> None:
    cell = cells(grid)[0]
    doc_ids = {sample: number for number, sample in enumerate(SAMPLES)}
    with open_study(tmp_path / "s") as study:
        journal = study.journal(cell, PRINT, doc_ids)
        for sample in SAMPLES:
            journal.append([row(sample)])
        before = journal.path.read_text()
        damaged = "".join(DAMAGES[name](before.splitlines(keepends=True)))
        journal.path.write_text(damaged)
        again = study.journal(cell, PRINT, doc_ids)
        assert list(again.rows) == SAMPLES[:1]
        assert len(study.notes) == 1
        assert "samples.jsonl of cell" in study.notes[0]
        assert "1 samples before that are kept" in study.notes[0]
        assert [path.read_text() for path in (tmp_path / "s" / "damaged").iterdir()] == [damaged]
        for sample in SAMPLES[1:]:
            again.append([row(sample)])
        assert journal.path.read_text() == before


def test_a_journal_of_another_cell_is_not_taken(tmp_path: Path, grid: Grid) -> None:
    first, second = cells(grid)
    with open_study(tmp_path / "s") as study:
        journal = study.journal(first, PRINT)
        journal.append([row(SAMPLES[0])])
        study.cell_folder(second).mkdir()
        os.replace(journal.path, study.cell_folder(second) / "samples.jsonl")
        assert study.journal(second, PRINT).rows == {}
        assert f"belongs to cell '{first.id}'" in study.notes[0]


def _outside(path: Path) -> Path:
    """A file outside the study with the same content, which must stay as it is."""
    target = path.parents[3] / f"outside-{path.name}"
    target.write_bytes(path.read_bytes() if path.is_file() else b"")
    return target


def _link(path: Path) -> None:
    target = _outside(path)
    path.unlink()
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.unlink()
    (path / "in the way").mkdir(parents=True)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [_link, _folder, _pipe])
@pytest.mark.parametrize("file", ["cell.json", "samples.parquet", "samples.jsonl"])
def test_what_is_no_plain_file_is_never_followed(
    tmp_path: Path, grid: Grid, file: str, replace: Callable[[Path], None]
) -> None:
    work(tmp_path / "study", grid)
    cell = cells(grid)[0]
    path = tmp_path / "study" / "cells" / cell.id / file
    if file == "samples.jsonl":
        (path.parent / "cell.json").unlink()
        with open_study(tmp_path / "study") as study:
            study.journal(cell, PRINT).append([row(SAMPLES[0])])
    replace(path)
    outside = contents(tmp_path)
    assert len(work(tmp_path / "study", grid)) == len(SAMPLES)
    assert path.is_file() or file == "samples.jsonl"
    assert not path.is_symlink()
    for name, data in contents(tmp_path).items():
        assert not name.startswith("outside") or data == outside[name]


@pytest.mark.parametrize("name", ["cells", "damaged", "grid.yaml"])
def test_a_study_of_links_is_refused(finished: Path, name: str) -> None:
    path = finished / name
    target = finished.parent / f"outside-{name}"
    if path.exists():
        path.rename(target)
    path.symlink_to(target)
    with pytest.raises(StoreError, match=f"{name} is no plain"), open_study(finished):
        pass


def test_a_cell_whose_id_leads_out_of_the_study_is_refused(tmp_path: Path, grid: Grid) -> None:
    cell = cells(grid)[0]
    for label in ("../../up", "..", "/etc"):
        astray = replace(cell, variant=replace(cell.variant, label=f"x/{label}/"))
        with (
            open_study(tmp_path / "s") as study,
            pytest.raises(StoreError, match="no name for a folder"),
        ):
            study.journal(astray, PRINT)


# ---- changed while it runs -----------------------------------------------------------------------


def test_a_cell_that_vanishes_while_it_runs_is_written_anew(tmp_path: Path, grid: Grid) -> None:
    work(tmp_path / "whole", grid)
    first, second = cells(grid)
    with open_study(tmp_path / "study") as study:
        study.begin(grid)
        journals = {cell.id: study.journal(cell, PRINT) for cell in (first, second)}
        for sample in SAMPLES:
            for cell in (first, second):
                journals[cell.id].append([row(sample)])
            if sample == SAMPLES[1]:
                shutil.rmtree(study.cell_folder(first))
            if sample == SAMPLES[2]:
                with journals[second.id].path.open("a") as file:
                    file.write("not ours\n")
        assert [name.partition(" was ")[0][-13:] for name in study.notes] == ["samples.jsonl"] * 2
        assert list(study.journal(first, PRINT).rows) == SAMPLES
        shutil.rmtree(study.cell_folder(second))
        for cell in (first, second):
            study.finish(cell, record(cell), {"samples": list(journals[cell.id].rows.values())})
    assert contents(tmp_path / "study") == contents(tmp_path / "whole")


def test_a_study_that_vanishes_while_it_runs_is_one_line_and_is_not_made_again(
    tmp_path: Path, grid: Grid
) -> None:
    cell = cells(grid)[0]
    with open_study(tmp_path / "study") as study:
        journal = study.journal(cell, PRINT)
        (tmp_path / "study").rename(tmp_path / "elsewhere")
        for step in (
            lambda: journal.append([row(SAMPLES[0])]),
            lambda: study.finish(cell, record(cell), {"samples": []}),
        ):
            with pytest.raises(Vanished, match="was deleted or moved while the sweep ran"):
                step()
        assert not (tmp_path / "study").exists()
        (tmp_path / "study").mkdir()
        with pytest.raises(Vanished):
            journal.append([row(SAMPLES[0])])


@pytest.mark.parametrize(("error", "code"), [(Vanished("gone"), 1), (StoreError("unusable"), 2)])
def test_a_study_that_vanished_is_no_wrong_request(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: StoreError,
    code: int,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("prunebench.run.runner.sweep", fail)
    assert cli.main(["sweep", "methods=fastv"]) == code
    assert capsys.readouterr().err == f"prunebench: error: {error}\n"


def test_what_could_not_be_read_again_fails_its_cell(tmp_path: Path, grid: Grid) -> None:
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        nan = record(cell, metrics=(Metric("score", float("nan")),))
        rows = [row(SAMPLES[0]), row(SAMPLES[1]) | {"score": float("inf")}]
        outcome = study.finish(cell, nan, {"samples": rows})
        assert (outcome.status, outcome.metrics) == ("failed", ())
        assert "score is inf" in outcome.reason
        assert study.result(cell, PRINT) is None
        assert list(study.journal(cell, PRINT).rows) == SAMPLES[:1]
        odd = record(
            cell,
            reason="half a character \ud800",
            settings={"scale": float("inf"), "object": object, 5: (1, 2)},
        )
        assert study.finish(cell, odd, {"samples": []}).status == "ok"
        assert study.result(cell, PRINT) is not None
        assert study.notes == []
        with pytest.raises(StoreError, match="seconds is nan"):
            study.journal(cell, "another").append([row(SAMPLES[0]) | {"seconds": float("nan")}])


def test_sweeps_that_come_to_nothing_do_not_pull_the_folder_from_under_another(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a" / "s"
    with open_study(folder) as study:
        with pytest.raises(StoreError, match="another sweep is writing"), open_study(folder):
            pass
        study.still()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "/".join(["d" * 200] * 30), "loop/s"])
def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (
        pytest.raises(StoreError, match="cannot be written") as caught,
        open_study(tmp_path / name),
    ):
        pass
    assert len(str(caught.value)) < 300
    assert "out=" in str(caught.value)


def test_another_configuration_is_not_reused(finished: Path, grid: Grid) -> None:
    cell = cells(grid)[0]
    with open_study(finished) as study:
        assert study.result(cell, "another") is None
        journal = study.journal(cell, "another")
        assert journal.rows == {}
        journal.append([row(SAMPLES[0])])
        assert study.journal(cell, "a third").rows == {}


def test_a_failed_cell_is_tried_again_and_keeps_its_good_samples(
    tmp_path: Path, grid: Grid
) -> None:
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        rows = [row(SAMPLES[0]), row(SAMPLES[1], error="its image is truncated")]
        study.finish(cell, record(cell, "failed"), {"samples": rows})
        assert study.result(cell, PRINT) is None
        assert list(study.journal(cell, PRINT).rows) == SAMPLES[:1]
        assert list(study.journal(cell, PRINT).rows) == SAMPLES[:1], "it must be on the disk"


def test_tables_from_before_a_column_came_are_read(tmp_path: Path, grid: Grid) -> None:
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        study.finish(cell, record(cell, "failed"), {"samples": [row(SAMPLES[0])]})
        path = study.cell_folder(cell) / "samples.parquet"
        parquet.write_table(
            parquet.read_table(path).drop_columns(["status", "kv_bytes_padded"]), path
        )
        _sealed(
            path.with_name("cell.json"), files={path.name: sha256(path.read_bytes()).hexdigest()}
        )
        journal = study.journal(cell, PRINT)
        assert list(journal.rows) == SAMPLES[:1]
        journal.append([row(SAMPLES[1]) | {"status": "ok", "kv_bytes": 8, "kv_bytes_padded": 12}])
        assert study.notes == []


def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        journal = study.journal(cell, PRINT)
        journal.append([row(SAMPLES[0])])
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "fsync", partial(_refuse, OSError(errno.ENOSPC, "No space left on device"))
            )
            patch.setattr(journal_module, "SYNC_SECONDS", 0)
            with pytest.raises(OSError, match=r"No space left.*samples\.jsonl"):
                journal.append([row(SAMPLES[1])])
        journal.append([row(SAMPLES[2])])
        assert list(study.journal(cell, PRINT).rows) == [SAMPLES[0], SAMPLES[2]]
        assert study.notes == []


def test_a_disk_that_fails_a_journal_later_has_it_written_anew(
    tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a failed fsync leaves of earlier lines nobody knows, so none of them is trusted to it;
    the cell that happened to ask for it loses the row that it was about to add.
    """
    first, second = cells(grid)
    with open_study(tmp_path / "s") as study:
        journals = [study.journal(cell, PRINT) for cell in (first, second)]
        for sample in SAMPLES[:2]:
            journals[0].append([row(sample)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", partial(_refuse, OSError(errno.EIO, "Input/output error")))
            patch.setattr(journal_module, "SYNC_SECONDS", 0)
            with pytest.raises(StoreError, match=r"samples\.jsonl cannot be used: Input/output"):
                journals[1].append([row(SAMPLES[0])])
        with journals[0].path.open("r+b") as file:  # as long as before, so that nothing shows
            file.seek(-40, os.SEEK_END)
            file.write(bytes(40))
        for journal in journals:
            journal.append([row(SAMPLES[2])])
        assert list(study.journal(first, PRINT).rows) == SAMPLES[:3]
        assert list(study.journal(second, PRINT).rows) == [SAMPLES[2]]


@pytest.mark.parametrize("interval", [0.0, 1000.0])
def test_no_end_of_the_process_loses_what_was_appended(
    tmp_path: Path, grid: Grid, interval: float
) -> None:
    """Killed by the signal that nobody can catch, whether the disk has been asked or not."""
    cell = cells(grid)[0]

    def append_and_die() -> None:
        journal_module.SYNC_SECONDS = interval
        with open_study(tmp_path / "s") as study:
            journal = study.journal(cell, PRINT)
            for sample in SAMPLES[:3]:
                journal.append([row(sample)])
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        append_and_die()
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with open_study(tmp_path / "s") as study:
        assert list(study.journal(cell, PRINT).rows) == SAMPLES[:3]
        assert study.notes == []


def test_the_disk_has_all_journals_at_least_every_few_seconds(
    tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, synced = [0.0], []
    monkeypatch.setattr(folder_module, "monotonic", lambda: clock[0])
    plain = os.fsync

    def watched(handle: int) -> None:
        synced.append(os.fstat(handle))
        plain(handle)

    monkeypatch.setattr(os, "fsync", watched)
    first, second = cells(grid)
    with open_study(tmp_path / "s") as study:
        study.synced = 0.0
        journals = [study.journal(cell, PRINT) for cell in (first, second)]
        synced.clear()
        for seconds, sample in zip((1, 4.9, 5, 6), SAMPLES, strict=True):
            clock[0] = seconds
            for journal in journals:
                journal.append([row(sample)])
            inodes = {place.st_ino for place in synced}
            # at 5 s the first journal that is added to brings both along; the second's new line
            # waits for the next time
            assert len(inodes) == (0 if seconds < 5 else 2), seconds
            assert len(synced) == len(inodes)
    assert len(synced) > 2, "what is left is brought to the disk at the end"


def _refuse(error: OSError, *_: object) -> None:
    raise error


def test_infeasible_is_an_answer(tmp_path: Path, grid: Grid) -> None:
    cell = cells(grid)[0]
    with open_study(tmp_path / "s") as study:
        study.finish(cell, record(cell, "infeasible"), {"samples": []})
        outcome = study.result(cell, PRINT)
        assert outcome is not None
        assert outcome.status == "infeasible"
        table = parquet.read_table(study.cell_folder(cell) / "samples.parquet")
        assert table.num_rows == 0
        assert "score" in table.column_names


def test_a_study_of_another_grid_is_refused(finished: Path) -> None:
    other = load(None, ["methods=fastv", "budgets=0.25", "controls=false"])
    with (
        open_study(finished) as study,
        pytest.raises(StoreError, match=r'holds another study: budgets is .*"0.5".*"0.25"'),
    ):
        study.begin(other)


def test_a_study_whose_grid_is_unreadable_is_refused(finished: Path, grid: Grid) -> None:
    (finished / "grid.yaml").write_text("methods: [")
    with (
        open_study(finished) as study,
        pytest.raises(StoreError, match=r"grid\.yaml cannot be read"),
    ):
        study.begin(grid)


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="cannot be written"),
        open_study(tmp_path / "file" / "study"),
    ):
        pass


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    with open_study(tmp_path / "s"):
        with (
            pytest.raises(StoreError, match="another sweep is writing"),
            open_study(tmp_path / "s"),
        ):
            pass
        assert (tmp_path / "s").exists()
    with open_study(tmp_path / "s"):
        pass


def test_a_sweep_that_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with open_study(tmp_path / "s"):
        pass
    assert not (tmp_path / "s").exists()


def test_a_cell_of_a_newer_version_is_neither_set_aside_nor_asked_again(
    tmp_path: Path, grid: Grid
) -> None:
    work(tmp_path / "study", grid)
    folder = next((tmp_path / "study" / "cells").iterdir())
    change(folder, schema=SCHEMA + 1)
    before = contents(tmp_path / "study")
    with pytest.raises(StoreError, match="update prunebench, or choose another folder with out="):
        work(tmp_path / "study", grid)
    assert contents(tmp_path / "study") == before

"""Figures that two processes draw are those that one draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import synthetic

from prunebench import report
from prunebench.report import drawing

SHAPE = synthetic.Shape(models=1, tasks=1, methods=3, seeds=1, samples=8)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    synthetic.write(tmp_path / "study", SHAPE)
    return tmp_path / "study"


PROGRAM = """
import sys
from pathlib import Path
from prunebench import report
from prunebench.report import drawing
drawing.LEAST, drawing.cores = 1, lambda: int(sys.argv[2])
print(*(path.name for path in report.build(Path(sys.argv[1])).figures))
"""
"""Draws a study's figures on so many cores, in a process in which nothing else has run."""


def drawn(study: Path, cores: int) -> dict[str, bytes]:
    """The figures of a study by name, in the order in which a report names them."""
    command = [sys.executable, "-c", PROGRAM, str(study), str(cores)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: (study / "figures" / name).read_bytes() for name in process.stdout.split()}


def test_two_processes_draw_what_one_draws(study: Path) -> None:
    alone, together = drawn(study, 1), drawn(study, 2)
    assert [*together] == [*alone]
    assert {"accuracy.png", "by_type.png"} <= {*alone}
    for name, content in together.items():
        # a diagram of ranks is never drawn twice in the same order
        if name != "ranks.png":
            assert content == alone[name]


def test_figures_are_not_drawn_in_the_style_of_other_libraries(study: Path) -> None:
    """Such as one that a notebook sets."""
    usual = {path.name: path.read_bytes() for path in report.build(study).figures}
    with matplotlib.rc_context({"figure.dpi": 72, "font.size": 14, "axes.facecolor": "0.8"}):
        others = report.build(study).figures
    for path in others:
        if path.stem != "ranks":
            assert path.read_bytes() == usual[path.name]


def test_what_a_process_that_ended_did_not_draw_is_drawn_here(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [path.name for path in report.build(study).figures]
    monkeypatch.setattr(drawing, "LEAST", 1)
    monkeypatch.setattr(drawing, "cores", lambda: 2)
    monkeypatch.setattr("sys.executable", "/bin/true")
    for path in (study / "figures").iterdir():
        path.unlink()
    together = report.build(study)
    assert [path.name for path in together.figures] == names
    assert all(path.is_file() for path in together.figures)

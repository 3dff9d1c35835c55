"""The command line: lists, new files and checks, and one line with an exit code for every mistake."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from test_grid import MINE

from prunebench.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "metods=fastv"], "unknown key metods; did you mean 'methods'?"),
        (["sweep", "model=qwen9"], "unknown model 'qwen9'"),
        (["sweep", "methods=fastw"], "did you mean 'fastv'?"),
        (["sweep", "fastv.layr=1"], "did you mean 'layer'?"),
        (["sweep", "budgets=0"], "budget 0 is no count"),
        (["sweep", "missing.yaml"], "no grid file missing.yaml"),
        (["sweep", "a.yaml", "b.yaml"], "one grid file at most"),
        (["sweep", "methods=none", "out=file/study"], "study folder file/study cannot be written"),
        (["report", "nowhere"], "nowhere"),
        (["show", "methd=fastv"], "unknown key methd; did you mean 'method'?"),
        (["show", "image=nowhere.png"], "image nowhere.png cannot be read"),
        (["show", "method=fastw"], "did you mean 'fastv'?"),
        (["check", "nowhere.py"], "nowhere.py"),
        (["check", "broken.py"], "broken.py cannot be imported: SyntaxError"),
        (["new", "fastv"], "a method named 'fastv' is built in"),
        (["verify", "nowhere"], "nowhere"),
        (["testbed", "train", "x", "sead=1"], "unknown key sead; did you mean 'seed'?"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("broken.py").write_text("def f(:")
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = err.strip().splitlines()[-1]
    assert line.startswith("prunebench: error: ")
    assert said in line
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.py", "file"]


@pytest.mark.parametrize(("what", "name"), [("models", "tiny-qwen2.5-vl"), ("methods", "fastv"), ("tasks", "scenes_mixed")])
def test_lists(capsys: pytest.CaptureFixture[str], what: str, name: str):
    assert main(["list", what, "--json"]) == 0
    assert name in [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert main(["list", what]) == 0
    assert name in capsys.readouterr().out


def test_a_new_method_passes_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert main(["check", "mine.py"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert main(["new", "mine"]) == 2


def test_a_method_that_breaks_the_contract_fails_its_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.py").write_text(MINE.replace("tokens.features.norm(p=self.power, dim=-1)", "torch.rand(len(tokens))"))
    assert main(["check", str(tmp_path / "mine.py")]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_show_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    out = tmp_path / "show.png"
    assert main(["show", "method=divprune", "budget=0.25", f"out={out}"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as drawn:
        assert drawn.width > drawn.height


def test_show_puts_methods_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    widths = []
    for methods in ("random", "random,divprune,fastv"):
        out = tmp_path / "side.png"
        assert main(["show", f"method={methods}", "budget=0.5", f"out={out}"]) == 0
        with Image.open(out) as drawn:
            widths.append(drawn.width)
    assert widths[1] > 1.8 * widths[0]
    assert main(["show", "method=random,resize"]) == 2
    assert "show that one alone" in capsys.readouterr().err


def test_an_error_that_is_nobodys_fault_but_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken() -> list[str]:
        raise KeyError("a bug")

    monkeypatch.setattr("prunebench.benchmarks.listed", broken)
    with pytest.raises(KeyError):
        main(["list", "tasks"])


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full() -> list[str]:
        raise OSError(errno.ENOSPC, "No space left on device", "study/cell.json")

    monkeypatch.setattr("prunebench.benchmarks.listed", full)
    assert main(["list", "tasks"]) == 1
    said = capsys.readouterr().err.strip()
    assert said == "prunebench: error: cannot write study/cell.json: No space left on device; what is finished is kept"

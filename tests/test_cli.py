"""The command line: help, completion, lists, new files and checks, and one line with an exit
code for every mistake.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_grid import MINE

from prunebench.cli import listing, lists, main, names
from prunebench.run import grid

COMMANDS = (
    *("sweep", "report", "list", "show", "check"),
    *("new", "verify", "train", "reinforce", "testbed", "profile"),
)


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """The environment of a program in which torch cannot be imported, with no terminal."""
    (tmp_path / "torch.py").write_text("raise ImportError('this has to do without torch')")
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**kept, "PYTHONPATH": str(tmp_path)}


def program(words: Sequence[str], environment: dict[str, str]) -> str:
    """What the program prints into a pipe."""
    command = [sys.executable, "-m", "prunebench.cli", *words]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_the_program_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr()
    assert alone.err == ""
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert alone.out == capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command}" in alone.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_in_its_help_without_torch(
    without_torch: dict[str, str], command: str
) -> None:
    text = program([command, "--help"], {**without_torch, "COLUMNS": "80"})
    assert f"\n  prunebench {command} " in text.partition("\nexample")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_help_of_sweep_lists_every_key_with_type_default_and_example(
    without_torch: dict[str, str],
) -> None:
    text = " ".join(program(["sweep", "--help"], without_torch).split())
    every_key = grid.keys()
    for key in every_key:
        facts = f"{key.type}; default {key.default or 'none'}; such as {key.example}"
        assert f" {key.name} {key.what} {' '.join(facts.split())}" in text


def test_help_of_training_lists_what_the_schedule_declares(without_torch: dict[str, str]) -> None:
    text = program(["reinforce", "--help"], {**without_torch, "COLUMNS": "100"})
    assert "\n  steps               a whole number from 1 to 1,000,000; default 200\n" in text
    assert "\n  penalty             a number from 0; default 0.04\n" in text
    assert "\n  dtype               one of float32, bfloat16, float16; default float32\n" in text


def completions(line: str, environment: dict[str, str], tmp_path: Path) -> list[str]:
    """What a shell would offer for the end of a line, by argcomplete's protocol."""
    output = tmp_path / "completions"
    asked_by_shell = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(output),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_WORDBREAKS": " ",
    }
    program([], {**environment, **asked_by_shell})
    return output.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("prunebench sw", "sweep"),
        ("prunebench list m", "methods"),
        ("prunebench sweep mod", "models="),
        ("prunebench sweep cost.pa", "cost.pairs="),
        ("prunebench sweep model=qwen2.5-vl-", "model=qwen2.5-vl-3b"),
        ("prunebench sweep methods=fas", "methods=fastv"),
        ("prunebench sweep methods=fastv,div", "methods=fastv,divprune"),
        ("prunebench sweep tasks=scenes_", "tasks=scenes_fine"),
        ("prunebench sweep controls=", "controls=false"),
        ("prunebench sweep weights=r", "weights=random"),
        ("prunebench show image=x.png meth", "method="),
        ("prunebench show task=read", "task=reading"),
        ("prunebench train glimpse", "glimpseprune"),
        ("prunebench train glimpseprune dtype=b", "dtype=bfloat16"),
        ("prunebench reinforce pen", "penalty="),
        ("prunebench testbed train x model=tiny-l", "model=tiny-llava-next"),
    ],
)
def test_words_are_completed_without_torch(
    without_torch: dict[str, str], tmp_path: Path, line: str, word: str
) -> None:
    offers = completions(line, without_torch, tmp_path)
    assert word in offers
    assert all(offer.startswith(line.split()[-1]) for offer in offers)


def test_files_are_completed_where_a_file_is_due(
    without_torch: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my_study.yaml", "my_method.py"):
        (tmp_path / name).write_text("")
    assert completions("prunebench sweep my_", without_torch, tmp_path) == ["my_study.yaml"]
    offers = completions("prunebench check my_", without_torch, tmp_path)
    assert sorted(offers) == ["my_method.py", "my_study.yaml"]


def test_names_that_are_read_from_files_are_those_of_the_registries() -> None:
    from prunebench import benchmarks, models, registry

    assert names.methods() == registry.names()
    assert names.models() == models.aliases()
    assert names.tasks() == [task.name for task in benchmarks.listed()]


def test_models_are_listed_without_torch_and_fit_80_columns(without_torch: dict[str, str]) -> None:
    text = program(["list", "models"], {**without_torch, "COLUMNS": "80"})
    assert max(map(len, text.splitlines())) <= 80
    assert text.split()[:2] == ["name", "source"]
    rows = [line.split(maxsplit=1) for line in text.splitlines()[1:]]
    ids = {name: source.strip() for name, source in rows}
    assert ids["llava-onevision-0.5b"] == "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
    assert ids["tiny-llava-next"] == "in the package"


def test_methods_are_listed_without_torch(without_torch: dict[str, str]) -> None:
    rows = json.loads(program(["list", "methods", "--json"], without_torch))
    every = [row["name"] for row in rows]
    assert [name for name in every if not name.startswith("+")] == names.methods()
    assert "+restore" in every
    assert not [row for row in rows if row["status"].startswith("broken")], (
        "a method has changed: run prunebench verify tests/golden --record"
    )


def test_what_is_kept_of_methods_is_what_importing_them_gives() -> None:
    kept = listing.kept_rows()
    assert {name: lists.method_row(name) for name in kept} == kept
    assert len(kept) > 10


@pytest.mark.parametrize("change", ["the method", "what it inherits from", "the record", "gone"])
def test_what_is_kept_of_a_method_ends_with_its_files(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "methods"
    shutil.copytree(names.folder_of("prunebench.methods"), folder)
    file = {
        "the method": "glimpseprune_plus.py",
        "what it inherits from": "glimpseprune.py",
        "the record": "verified.json",
        "gone": "glimpseprune.py",
    }[change]
    assert "glimpseprune_plus" in listing.kept_rows(folder)
    if change == "gone":
        (folder / file).unlink()
    else:
        (folder / file).write_text((folder / file).read_text() + "\n")
    kept = listing.kept_rows(folder)
    assert "glimpseprune_plus" not in kept
    assert ("divprune" in kept) == (change != "the record")
    (folder / "listed.json").write_text("[")
    assert listing.kept_rows(folder) == {}


def test_lists_fit_the_columns_of_a_pipe_and_cut_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without COLUMNS whoever reads the pipe gets a line a row."""
    for words in (["methods"], ["methods", "--models"], ["tasks"]):
        monkeypatch.delenv("COLUMNS", raising=False)
        assert main(["list", *words]) == 0
        wide = capsys.readouterr().out
        assert main(["list", *words, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        lines = wide.splitlines()
        assert len(lines) >= len(rows) + 1
        for row, line in zip(rows, lines[1:], strict=False):
            assert line.startswith(next(iter(row.values())))
        for columns in (80, 120):
            monkeypatch.setenv("COLUMNS", str(columns))
            assert main(["list", *words]) == 0
            table = capsys.readouterr().out.partition("\n(1)")[0]
            assert max(map(len, table.splitlines())) <= columns
            narrow_words = set(table.replace(";", " ").replace(",", " ").split())
            for row in rows:
                assert str(next(iter(row.values()))) in narrow_words
                if words == ["methods"] and row["paper"]:
                    assert row["paper"] in narrow_words


@pytest.mark.parametrize(
    ("words", "reason"),
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
        (["report", "x" * 300], "File name too long"),
        (
            ["sweep", "limit=1000000"],
            "limit is 1000000, and scenes makes 2000 questions at most",
        ),
        (["sweep", *["seed=1"] * 5000], "5000 options are given"),
        (["sweep", "model=\udcff"], "no printable text"),
        (["sweep", "--limit", "3"], "unrecognized arguments: --limit;"),
        (["lst"], "invalid choice: 'lst'"),
        (["list", "x" * 5000], "is none of models, methods, tasks"),
        (["show", "methd=fastv"], "unknown key methd; did you mean 'method'?"),
        (["show", "sample=-1"], "sample is -1; it starts at 0"),
        (
            ["show", "sample=99999"],
            "sample is 99999, and scenes makes 2000 questions at most",
        ),
        (["show", "budget=x"], "budget 'x' is no number"),
        (["show", "method="], "method is empty"),
        (
            ["show", "task=scenes_all"],
            "task scenes_all is a suite; name one of scenes, scenes_text",
        ),
        (["show", "out=nowhere/x.png"], "there is no folder nowhere"),
        (["show", "out=."], "is a folder; name a file"),
        (["show", "question=${oc.env:HOME}"], "write the value itself"),
        (["show", "image=nowhere.png"], "image nowhere.png cannot be read"),
        (["show", "method=fastw"], "did you mean 'fastv'?"),
        (["check", "nowhere.py"], "nowhere.py"),
        (["check", "broken.py"], "broken.py cannot be imported: SyntaxError"),
        (["new", "fastv"], "a method named 'fastv' is built in"),
        (["new", "é"], "write lower-case letters"),
        (["new", "nan"], "as missing"),
        (["new", "x" * 300], "at most 64 letters"),
        (["train", "glimpseprune", "out=${oc.env:HOME}"], "write the value itself"),
        (["verify", "nowhere"], "nowhere"),
        (["testbed", "train", "x", "sead=1"], "unknown key sead; did you mean 'seed'?"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("broken.py").write_text("def f(:")
    try:
        code: object = main(words)
    except SystemExit as error:  # argparse's own way to end
        code = error.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = err.strip().splitlines()[-1]
    assert line.startswith("prunebench: error: ")
    assert reason in line
    assert len(line) <= 300
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.py", "file"]


@pytest.mark.parametrize(
    ("what", "name"),
    [("models", "tiny-qwen2.5-vl"), ("methods", "fastv"), ("tasks", "scenes")],
)
def test_lists(capsys: pytest.CaptureFixture[str], what: str, name: str) -> None:
    assert main(["list", what, "--json"]) == 0
    assert name in [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert main(["list", what]) == 0
    assert name in capsys.readouterr().out


def test_a_new_method_passes_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0
    assert main(["check", "mine.py"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert main(["new", "mine"]) == 2


def test_a_method_that_breaks_the_contract_fails_its_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        MINE.replace("tokens.features.norm(p=self.power, dim=-1)", "torch.rand(len(tokens))")
    )
    assert main(["check", str(tmp_path / "mine.py")]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_show_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    out = tmp_path / "show.png"
    assert main(["show", "method=divprune", "budget=0.25", f"out={out}"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as picture:
        assert picture.width > picture.height


def test_show_leaves_out_a_method_that_cannot_meet_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of several, and the others are drawn; alone it is an error."""
    out = tmp_path / "kept.png"
    assert main(["show", "method=random,pyramiddrop", "budget=0.1", f"out={out}"]) == 0
    assert "note: pyramiddrop is not shown: budget 0.1" in capsys.readouterr().err
    assert out.exists()
    assert main(["show", "method=pyramiddrop", "budget=0.1", f"out={out}"]) == 2


def test_show_puts_methods_side_by_side(tmp_path: Path) -> None:
    from PIL import Image

    widths = []
    for methods in ("random", "divprune,fastv,resize"):
        out = tmp_path / "side.png"
        assert main(["show", f"method={methods}", "budget=0.5", f"out={out}"]) == 0
        with Image.open(out) as picture:
            widths.append(picture.width)
    assert widths[1] > 1.8 * widths[0]


def test_an_error_that_is_nobodys_fault_but_ours_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> list[str]:
        raise KeyError("a bug")

    monkeypatch.setattr("prunebench.benchmarks.listed", broken)
    with pytest.raises(KeyError):
        main(["list", "tasks"])


def test_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> list[str]:
        raise OSError(errno.ENOSPC, "No space left on device", "study/cell.json")

    monkeypatch.setattr("prunebench.benchmarks.listed", full)
    assert main(["list", "tasks"]) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith(
        "prunebench: error: cannot write study/cell.json: No space left on device"
    )
    assert line.endswith("; what is finished is kept")


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("SIGINT", 130, "prunebench: interrupted"),
        ("SIGTERM", 143, "prunebench: stopped by SIGTERM"),
        ("SIGHUP", 129, "prunebench: stopped by SIGHUP"),
    ],
)
@pytest.mark.parametrize("swallowed", [None, ImportError("half of a library"), SystemExit(0)])
def test_a_signal_ends_the_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    line: str,
    swallowed: BaseException | None,
) -> None:
    """Also where it arrives while a library is imported, which makes another error of it."""
    number = getattr(signal, name)

    def signalled() -> list[str]:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        except BaseException:
            raise swallowed or KeyboardInterrupt from None
        return []

    monkeypatch.setattr("prunebench.benchmarks.listed", signalled)
    before = signal.getsignal(number)
    assert main(["list", "tasks"]) == code
    assert capsys.readouterr().err == line + "\n"
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled() -> list[str]:
        os.kill(os.getpid(), signal.SIGHUP)
        return []

    monkeypatch.setattr("prunebench.benchmarks.listed", signalled)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert main(["list", "tasks"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stopped_sweep_keeps_its_samples_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # stops the first of two sweeps, however often either asks it
    flag = tmp_path / "stopped"
    stopping = MINE.replace(
        "import torch\n", "import os, pathlib, signal, torch\nSEEN = []\n"
    ).replace(
        "        return tokens",
        "        SEEN.append(1)\n"
        f"        flag = pathlib.Path({str(flag)!r})\n"
        "        if len(SEEN) == 3 and not flag.exists():\n"
        "            flag.touch()\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return tokens",
    )
    (tmp_path / "mine.py").write_text(stopping)
    words = [
        "sweep",
        f"methods={tmp_path / 'mine.py'}",
        "controls=false",
        "cost=false",
        "budgets=0.5",
        "limit=4",
        "batch=1",
    ]
    words.append(f"out={tmp_path / 'study'}")
    assert main(words) == 143
    err = capsys.readouterr().err
    assert err.endswith(
        "stopped by SIGTERM; finished samples are kept, and the same command goes on from here\n"
    )
    assert "Traceback" not in err
    journal = next((tmp_path / "study").glob("cells/*mine*/samples.jsonl"))
    assert len(journal.read_text().splitlines()) == 3
    assert main(words) == 0


@pytest.mark.parametrize(
    "fault",
    [
        "raise SystemExit(0)",
        "import sys; sys.exit()",
        "raise KeyboardInterrupt",
        "raise GeneratorExit",
    ],
)
def test_a_method_cannot_end_the_program_as_if_all_were_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    (tmp_path / "mine.py").write_text(MINE + fault + "\n")
    for words in (
        ["check", str(tmp_path / "mine.py")],
        ["sweep", f"methods={tmp_path / 'mine.py'}"],
    ):
        assert main(words) in (1, 2)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("prunebench: error: ")
        assert "mine.py" in lines[0]


def test_text_of_others_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prunebench.benchmarks import Listed

    listed = [Listed("[/x]", "task", "a [bold]word[/bold] \x1b[31m \udcff")]
    monkeypatch.setattr("prunebench.benchmarks.listed", lambda: listed)
    assert main(["list", "tasks"]) == 0
    out = capsys.readouterr().out
    assert "[/x]" in out
    assert r"a [bold]word[/bold] \x1b[31m \udcff" in out


def test_a_broken_method_leaves_the_others_in_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prunebench import registry

    get = registry.get

    def broken(name: str) -> object:
        if name == "fastv":
            raise registry.RegistryError("fastv cannot be imported")
        return get(name)

    monkeypatch.setattr(registry, "get", broken)
    kept = {name: row for name, row in listing.kept_rows().items() if name != "fastv"}
    monkeypatch.setattr(listing, "kept_rows", lambda: kept)
    assert main(["list", "methods", "--json"]) == 0
    status = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert status["fastv"] == "broken: fastv cannot be imported"
    assert not status["divprune"].startswith("broken")


def test_show_draws_what_the_baseline_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "method=none", f"out={tmp_path / 'none.png'}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "none.png")


def test_a_reader_who_has_seen_enough_hears_no_complaint() -> None:
    """`list tasks | head`: what prints tables ends the program by itself, which is no failure."""
    words = [sys.executable, "-m", "prunebench.cli", "list", "tasks"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE

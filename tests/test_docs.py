"""What the documentation shows works: its code is run, and what is made from the code is fresh."""

from __future__ import annotations

import csv
import doctest
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import prunebench
from prunebench import registry
from prunebench.cli import main
from prunebench.measure.flops import head, llm_prefill
from prunebench.models import families
from prunebench.pricing.public import records
from prunebench.pricing.settings import Settings
from prunebench.run import grid
from prunebench.study import columns

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
SLOW = ("run_on_several_machines", "train_a_pruner")
"""Tutorials that take minutes."""

NOT_RUN = "<!-- not run: "
BLOCK = re.compile(
    r'^(?P<skip><!-- not run: [^\n]* -->\n)?```(?P<language>\w+)(?: title="(?P<file>[^"]+)")?\n'
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def tool(name: str) -> ModuleType:
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return tool("pages")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; `file` is where a reader puts it, "" where it is to be run."""

    language: str
    file: str
    code: str


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that a reader would copy, in order."""
    for match in BLOCK.finditer(page.read_text()):
        if match["skip"] is None:
            yield Block(match["language"], match["file"] or "", match["code"])


def run(page: Path) -> None:
    """Do in the current folder what a page tells its reader to do."""
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.code)
        elif block.language == "python":
            exec(compile(block.code, f"{page.name}", "exec"), names)
        elif block.language == "bash":
            for line in block.code.splitlines():
                program, *words = shlex.split(line)
                assert program == "prunebench", f"{page.name}: {line}"
                assert main(words) == 0, f"{page.name}: {line}"


@pytest.mark.parametrize("page", [page for page in TUTORIALS if page.stem not in SLOW],
                         ids=lambda page: page.stem)  # fmt: skip
def test_a_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_tutorial_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(ROOT / "docs" / "tutorials" / f"{name}.md")


def test_the_readme_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.md"))
    monkeypatch.chdir(tmp_path)
    run(ROOT / "README.md")
    answer, trace, *_ = capsys.readouterr().out.splitlines()
    assert answer == "4"  # the digit on the red thing of docs/scene.png
    assert trace.startswith("Trace of 1 sample")
    assert main(["check", "norm.py"]) == 0


def test_the_help_of_prune_shows_code_that_runs() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(prunebench.prune, "prune")
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_block_says_what_it_is() -> None:
    """A block without a language, or with one that `run` passes over, would be run by nobody."""
    for page in TUTORIALS:
        fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
        for opening in fences[::2]:
            assert opening.split(" ")[0] in ("python", "bash", "yaml", "text"), page.name


def test_ceilings_of_the_page_of_times_are_those_of_the_models(pages: ModuleType) -> None:
    """Beside 1,296 visual tokens stood 13 others, of which the cache tells; a quarter of the visual
    ones leaves 337 of 1,309 rows in every layer.
    """
    by_method = {}
    for row in pages.timed_page.measured("h100"):
        if row["model"] == "Qwen2.5-VL-7B-Instruct" and row["budget"] in ("1.0", "0.25"):
            by_method[row["method"]] = row
    record = records()["Qwen/Qwen2.5-VL-7B-Instruct"]
    text = Settings(record.config).get_text_config()
    full, quarter = (llm_prefill(text, [rows] * 28) + head(text) for rows in (1309, 337))
    written = by_method["random"]
    assert float(written["prefill_ceiling"]) == pytest.approx(quarter / full)
    assert by_method["resize"]["prefill_ceiling"] == written["prefill_ceiling"]
    assert float(by_method["resize"]["total_ceiling"]) < float(written["total_ceiling"])
    # four key heads of 128, keys and values, 2 bytes a number
    weights = 2 * (record.parameters.layers + record.parameters.head)
    caches = [28 * rows * 4 * 128 * 2 * 2 for rows in (337, 1309)]
    assert float(written["kv_bytes_baseline"]) == caches[1]
    read, unpruned = (weights + cache for cache in caches)
    assert float(written["decode_ceiling"]) == pytest.approx(read / unpruned)
    assert float(by_method["baseline"]["total_ceiling"]) == 1


def timed(method: str, ratio: float, **others: str) -> dict[str, str]:
    """A row of bench.csv, as far as a summary reads it."""
    row = {"method": method, "model": "a", "batch": "1", "budget": "0.25", "machine": "quiet"}
    numbers = {"latency_total_baseline_ms": "80", "latency_select_ms": "4", "total_ceiling": "0.3"}
    return {**row, **numbers, "latency_total_ratio": str(ratio), **others}


def test_a_summary_of_times_counts_methods_by_model_batch_and_budget(pages: ModuleType) -> None:
    rows = [
        timed("baseline", 0.1, budget="1.0"),
        timed("random", 0.2),
        timed("fastv", 0.95),
        timed("divprune", 0.951, machine="busy", latency_select_ms="7"),
        timed("dart", 1.5),
        timed("fastv", 0.7, batch="16"),
        timed("fastv", 0.5, batch="8"),
        timed("fastv", 0.6, batch="8", budget="0.5"),
        timed("fastv", 0.1, budget="kv:0.25"),
    ]
    lines = []
    for line in pages.timed_page.summary("x", rows):
        lines.append(dict(zip(pages.timed_page.SUMMARY, line, strict=True)))
    assert [(line["batch"], line["kept"]) for line in lines] == [
        ("1", "0.25"),
        ("8", "0.5"),
        ("8", "0.25"),
        ("16", "0.25"),
    ]
    first = lines[0]
    assert (first["card"], first["methods"], first["0.95 or less"]) == ("X", "3", "1")
    assert (first["best"], first["median"], first["`random`"]) == ("0.95 (fastv)", "0.95", "0.20")
    assert (first["selection, ms"], first["busy"], first["at best"]) == ("4.0", "1", "0.30")
    assert lines[1]["`random`"] == ""


def test_files_of_before_say_nothing_of_ceilings_and_machines(pages: ModuleType) -> None:
    row = timed("fastv", 0.9)
    del row["machine"], row["total_ceiling"]
    (line,) = pages.timed_page.summary("x", [row])
    said = dict(zip(pages.timed_page.SUMMARY, line, strict=True))
    assert (said["at best"], said["busy"]) == ("", "")


def test_what_is_said_of_times_is_what_was_measured(pages: ModuleType) -> None:
    """The numbers in prose, of README and of the page, which no tool writes."""
    head, lines = pages.timed_page.tables()["summary"]
    summary = {}
    for line in lines:
        values = dict(zip(head, line, strict=True))
        case = (values["card"], values["model"], values["batch"], values["kept"])
        summary[case] = values
    readme = " ".join((ROOT / "README.md").read_text().split())
    page = " ".join((ROOT / "docs" / "latency.md").read_text().split())

    qwen = summary["H100", "Qwen2.5-VL-7B-Instruct", "1", "0.25"]
    (count,) = re.findall(r"by no more than 5 % under any of (\d+) methods", readme)
    assert count == qwen["methods"]
    assert float(qwen["best"].split()[0]) >= 0.95
    assert float(qwen["median"]) > 1, "lengthens it under most"

    batch = summary["H100", "llava-1.5-7b-hf", "8", "0.25"]
    best = batch["best"].split()[0].removeprefix("0")
    said = f".95 or less under {batch['0.95 or less']} of {batch['methods']}"
    assert f"take {said}, and {best} under the fastest" in readme
    assert f"{said.replace('.95', '.95 of its time')} methods, and {best} under the fastest" in page

    for kept in ("0.5", "0.25", "0.1"):
        single = summary["H100", "llava-1.5-7b-hf", "1", kept]
        assert float(single["best"].split()[0]) > 1, "no method shortens it"


def test_a_card_has_the_last_profile_alone(pages: ModuleType, tmp_path: Path) -> None:
    card = "# tiny\n\n## Held-out figures\ngood\n\n## Training\nlong\n"
    file = tmp_path / "tiny" / "profile.csv"
    file.parent.mkdir()
    file.write_text("before_layer,score,n,attention_on_evidence\n0,.125,8,\n1,.5,8,.25\n2,.75,8,\n")
    cards = pages.profiled_cards
    once = cards.with_profile(card, cards.section(file))
    head, _, tail = once.partition("<!-- profile -->\n")
    profile, _, rest = tail.partition("<!-- /profile -->\n")
    assert f"{head}{rest.lstrip()}" == card
    rows = [line for line in profile.splitlines() if line.startswith("|")]
    assert rows == [
        "| visual tokens leave before layer | 0 | 1 | never |",
        "|---|---|---|---|",
        "| accuracy | 0.12 | 0.50 | 0.75 |",
        "| on the evidence |  | 0.25 |  |",
    ]
    assert cards.with_profile(once, "new\n") == card.replace("## T", "new\n\n## T")
    with pytest.raises(ValueError, match="no section on training"):
        cards.with_profile("# tiny\n", profile)


def test_what_is_made_from_the_code_is_fresh(pages: ModuleType) -> None:
    assert not pages.stale(), "run `make docs`"


def test_a_table_between_markers_is_replaced_whole(pages: ModuleType) -> None:
    text = "before\n<!-- a -->\nold\n<!-- /a -->\nafter\n"
    assert pages.between(text, "a", "new\n") == "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="no pair of markers"):
        pages.between(text, "b", "new\n")
    assert pages.table(["x"], [["a|b"]]) == "| x |\n| --- |\n| a\\|b |\n"


@pytest.mark.parametrize("name", registry.names())
def test_a_method_has_a_page_with_its_settings(pages: ModuleType, name: str) -> None:
    page = pages.method_page(name)
    assert page.startswith("# ")
    for setting, default in registry.settings(registry.build(name)).items():
        assert f"| `{setting}` | " in page, setting
        assert setting == "nouns" or f"`{default!r}`" in page, setting
    for family in families():
        assert f"[{family.name}](../families/" in page


@pytest.mark.parametrize("name", registry.addons())
def test_an_add_on_has_a_page_with_its_settings(pages: ModuleType, name: str) -> None:
    page = pages.addon_page(name)
    assert page.startswith("# ")
    assert f"`METHOD+{name}`" in page
    for setting, default in registry.defaults(registry.get(name)).items():
        assert f"| `{setting}` | " in page
        assert f"`{default!r}`" in page


def test_a_method_page_shows_its_rows_of_results(
    pages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = pages.method_page("fastv")
    with (ROOT / "results" / "tiny-qwen2.5-vl" / "leaderboard.csv").open(newline="") as file:
        rows = {(row["method"], row["budget"]): row for row in csv.DictReader(file)}
    measured = rows["fastv", "0.5"]
    value, low, high = (f"{float(measured[f'accuracy{end}']):.3f}" for end in ("", "_low", "_high"))
    assert f"| `fastv` | tiny-qwen2.5-vl | mean:0.5 | 500 | {value} ({low} to {high}) |" in page
    assert "| `fastv` | tiny-qwen2.5-vl | mean:0.1 |  | infeasible |" in page
    # a label that begins with the method's name is the method with other settings
    (row, *_) = [row for row in pages.boards() if row["method"] == "ptp"]
    monkeypatch.setattr(pages, "boards", lambda: [{**row, "method": "ptp-early"}])
    assert "| `ptp-early` | tiny-" in pages.method_page("ptp")


def test_a_family_page_lists_its_checkpoints_and_methods(pages: ModuleType) -> None:
    for family in families():
        page = pages.family_page(family)
        for alias, target in family.aliases.items():
            assert f"| `{alias}` | `{target}` |" in page
        for name in registry.names():
            assert f"[{name}](../methods/{name}.md)" in page


def test_every_key_of_a_grid_and_every_column_is_explained(pages: ModuleType) -> None:
    page = pages.grid_page()
    for key in grid.keys():  # noqa: SIM118  # a module, not a mapping
        assert f"| `{key.name}` | {key.type} | `{key.default}` |" in page
    page = pages.numbers_page()
    for table in columns.TABLES.values():
        for column in table:
            assert f"| `{column.name}` |" in page
    for board in (ROOT / "results").glob("*/leaderboard.csv"):
        for name in board.read_text().splitlines()[0].split(","):
            assert f"| `{name}` |" in page


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs: make install")
    pytest.importorskip("material", reason="the site needs the extra docs: make install")
    pytest.importorskip("mkdocstrings", reason="the site needs the extra docs: make install")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    build = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    for name in registry.names():
        assert (tmp_path / "methods" / f"{name}.html").is_file()
    # links may lead elsewhere; what a page loads lies beside it
    loads = re.compile(r'<(?:script|img|iframe|source)[^>]+src="https?:|<link[^>]+href="https?:')
    for page in tmp_path.rglob("*.html"):
        assert not loads.search(page.read_text()), page.name
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", sheet.read_text()), sheet.name

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
    """Beside 1,296 visual tokens stood 46 others, of which the cache tells; a quarter of the visual
    ones leaves 370 of 1,342 rows in every layer.
    """
    with pages.timed_page.BENCH.open(newline="") as file:
        measured = list(csv.DictReader(file))
    names = ("baseline", "random", "resize")
    qwen = []
    for row in measured:
        if row["model"].startswith("Qwen") and row["budget"] in ("1.0", "0.25"):
            qwen += [row] if row["method"] in names else []
    limits = pages.timed_page.limits_of(qwen)
    record = records()["Qwen/Qwen2.5-VL-7B-Instruct"]
    text = Settings(record.config).get_text_config()
    full, quarter = (llm_prefill(text, [rows] * 28) + head(text) for rows in (1342, 370))
    assert limits["random"].prefill == pytest.approx(quarter / full)
    assert limits["resize"].prefill == limits["random"].prefill
    assert limits["resize"].total < limits["random"].total
    # four key heads of 128, keys and values, 2 bytes a number
    weights = 2 * (record.parameters.layers + record.parameters.head)
    caches = [28 * rows * 4 * 128 * 2 * 2 for rows in (370, 1342)]
    read, unpruned = (weights + cache for cache in caches)
    assert limits["random"].decode == pytest.approx(read / unpruned)
    assert limits["baseline"].total == 1


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

"""The page of a study: what it holds, and what a reader can do with it in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
from browser import chromium, visit
from hand_written import cell, change, fold, golden_study, metrics_of
from PIL import Image
from test_figures import FRONTIERS

from prunebench import page, report
from prunebench.border.text import clean
from prunebench.cli import about
from prunebench.report import agreement
from prunebench.study import cells

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1>",
    "javascript:window.hacked=1",
    "<a href='javascript:window.hacked=1'>x</a>",
    "<!--<script>",
    "]]><script>window.hacked=1</script>",
    "'\"><iframe srcdoc='<script>parent.hacked=1</script>'>",
    "{{policy}} {{scripts}} ${window.hacked=1} {{constructor.constructor('window.hacked=1')()}}",
    "\u2028\u2029\u0000\u202e<b>bold</b>&lt;i&gt;",
)
"""Ten ways to get out of a text; each is put into ten disguises."""

ALL_SAID = """ids => ids.flatMap(sample => {
  setState({ view: "questions", sample });
  return [...document.querySelectorAll(".said")].map(one => one.textContent);
})"""
PLOT = "document.querySelector('.plot').data"
FASTV = f"{PLOT}.find(one => one.name === 'fastv')"

DISGUISES = ("{}", "{} ", "\n{}", "A: {}", "{0}{0}", "\\{}", "`{}`", "%3C {}", "<{}>", '"{}"')
ANSWERS = [form.replace("{0}", text).replace("{}", text) for text in HOSTILE for form in DISGUISES]


def data_of(file: Path) -> dict[str, Any]:
    """The data that lie in a page."""
    text = file.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def written(study: Path, other: Path | None = None) -> Path:
    """A study's page, from its leaderboard as it is folded now."""
    fold(study)
    records, _ = cells.read(study)
    return page.write(study, records, about.of_cells(records), other).path


def column_of(table: dict[str, Any], name: str) -> list[Any]:
    """The values of a column of the page."""
    (column,) = [one for one in table["columns"] if one["name"] == name]
    if column["kind"] == "number":
        return list(column["values"])
    return [column["texts"][code] for code in column["values"]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with answers, kinds of questions, and a picture of one question."""
    folder = golden_study(tmp_path_factory.mktemp("page") / "study")
    answers = {"none": "red", "random": "green", "fastv": "blue"}
    for method, text in answers.items():
        scores = {"none": [1, 1, 1, 0], "random": [0, 1, 0, 1], "fastv": [1, 0, 1, 0]}[method]
        columns: dict[str, list[Any]] = {
            "prediction": [f"{text} {number}" for number in range(4)],
            "reference": ["red"] * 4,
            "question_type": ["color", "color", "shape", "shape"],
            "available": [16] * 4,
            "stages": [[8, 4] if method == "fastv" else [16]] * 4,
            "evidence_recall": [0.5] * 4,
        }
        cell(folder, method, "kinds", scores, columns=columns)
    picture(folder)
    return folder


def picture(study: Path, fingerprint: str = "f") -> None:
    """pictures.json as a report leaves it, of the first question."""
    image = "data:image/png;base64," + base64.b64encode(pixel()).decode()
    entry = {"question": "which colour?", "image": image, "boxes": [[0.1, 0.1, 0.4, 0.4]]}
    stages = []
    for site, bits in (("input", "/wA="), ("llm:2", "8AA=")):
        region = [0.0, 0.0, 1.0, 1.0]
        stages.append({"site": site, "rows": 4, "columns": 4, "bits": bits, "region": region})
    kept = {"fingerprint": fingerprint, "samples": {"kinds/0": stages}}
    content = {
        "schema": 1,
        "images": {"kinds": {"kinds/0": entry}},
        "kept": {"tiny__fastv__0.5__kinds__s0": kept},
    }
    (study / "pictures.json").write_text(json.dumps(content))


def pixel() -> bytes:
    """The smallest image."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, format="PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def file(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that study beside another one in which fastv was better."""
    other = golden_study(tmp_path_factory.mktemp("other") / "before")
    for task in ("color", "count"):
        folder = other / "cells" / f"tiny__fastv__0.5__{task}__s0"
        for part in folder.iterdir():
            part.unlink()
        folder.rmdir()
        scores = [1.0] * 10 if task == "count" else [0.0] * 10
        cell(other, "fastv", task, scores)
    outputs = report.build(study)
    methods = about.of_cells(outputs.records)
    path = page.write(study, outputs.records, methods, other).path
    return path.rename(study.parent / "page.html")


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """A copy of the study, for a test that changes it."""
    return shutil.copytree(study, tmp_path / "copy")


# ---- what lies in it -----------------------------------------------------------------------------


def test_the_page_is_one_file_that_asks_nobody(file: Path) -> None:
    text = file.read_text()
    assert len(text) < 6e6
    markup = re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", markup)
    assert "default-src 'none'" in markup
    assert "unsafe-eval" not in markup
    assert "Permission is hereby granted" in text


def test_the_page_holds_the_tables(study: Path, file: Path) -> None:
    data = data_of(file)
    assert list(data["tables"]) == ["leaderboard", "by_type", "metrics", "pairs"]
    for name, table in data["tables"].items():
        stored = pd.read_csv(study / f"{name}.csv", dtype=str, keep_default_na=False)
        assert [column["name"] for column in table["columns"]] == list(stored.columns)
        assert table["rows"] == len(stored)
        assert column_of(table, "method") == list(stored["method"])
    board = pd.read_csv(study / "leaderboard.csv")
    shown = pd.Series(column_of(data["tables"]["leaderboard"], "accuracy"), dtype=float)
    pd.testing.assert_series_equal(shown, board["accuracy"], check_names=False)


def test_a_table_that_nobody_declared_is_shown_too(copy: Path) -> None:
    (copy / "pairs.csv").write_text("method,other,fidelity,since\nfastv,none,0.5,007\n")
    table = data_of(written(copy))["tables"]["pairs"]
    assert column_of(table, "fidelity") == [0.5]
    assert column_of(table, "other") == ["none"]


def test_what_is_known_of_a_method_stands_in_the_page(file: Path) -> None:
    methods = data_of(file)["methods"]
    assert methods["fastv"]["title"] == "FastV (ECCV 2024)"
    assert "last prompt token" in methods["fastv"]["idea"]
    assert methods["fastv"]["status"].startswith("verified")
    assert methods["fastv"]["paper"].startswith("https://arxiv.org/")
    assert methods["fastv"]["notes"]


def test_of_a_strangers_method_the_page_says_that_it_knows_nothing(tmp_path: Path) -> None:
    study = tmp_path / "study"
    cell(study, "none", "color", [1.0, 0.0])
    cell(study, "mine", "color", [1.0, 0.0], pruner="./mine.py")
    methods = data_of(written(study))["methods"]
    assert "./mine.py is none of the installed methods" in methods["mine"]["missing"]


def test_questions_on_which_methods_disagree_come_first(file: Path) -> None:
    (group,) = [one for one in data_of(file)["questions"] if one["task"] == "kinds"]
    assert group["of"] == 4
    assert [one["method"] for one in group["cells"]] == ["none", "fastv", "random"]
    # color 0 and 1 flip once each, shape 2 and 3 too; kinds take turns
    assert [one["type"] for one in group["questions"]] == ["color", "shape", "color", "shape"]
    first = group["questions"][0]
    assert [answer["text"] for answer in first["answers"]] == ["red 0", "blue 0", "green 0"]
    assert first["question"] == "which colour?"
    assert [stage["site"] for stage in first["answers"][1]["kept"]] == ["input", "llm:2"]


def test_a_page_of_many_cells_has_questions_of_fewer_tasks_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four tasks with seven cells each two fit, with ten questions of each."""
    synthetic.write(tmp_path, synthetic.Shape(models=1, tasks=4, methods=3, seeds=1))
    records, _ = cells.read(tmp_path)
    monkeypatch.setattr(page.questions, "MOST_ANSWERS", 150)
    outcome = page.write(tmp_path, records, {})
    groups = data_of(outcome.path)["questions"]
    shown = [(one["task"], len(one["questions"])) for one in groups]
    assert shown == [("task00", 10), ("task01", 10)]
    assert "answers of the first 2 of 4 models and tasks" in " ".join(outcome.left_out)
    assert not outcome.warnings
    monkeypatch.setattr(page.questions, "MOST_ANSWERS", 10)
    (group,) = data_of(page.write(tmp_path, records, {}).path)["questions"]
    assert len(group["questions"]) == 10


def test_kept_tokens_of_an_earlier_run_are_left_out(copy: Path) -> None:
    picture(copy, fingerprint="another")
    records, _ = cells.read(copy)
    outcome = page.write(copy, records, {})
    (group,) = [one for one in data_of(outcome.path)["questions"] if one["task"] == "kinds"]
    assert not any("kept" in answer for answer in group["questions"][0]["answers"])
    assert "as they were before they ran again" in outcome.warnings[0]


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[1]",
        '{"schema": 1, "images": 3, "kept": [4]}',
        '{"schema": 1, "images": {"kinds": {"kinds/0": {"image": "http://evil/x.png"}}}}',
        '{"schema": 2}',
    ],
)
def test_pictures_that_are_none_are_left_out(copy: Path, content: str) -> None:
    (copy / "pictures.json").write_text(content)
    records, _ = cells.read(copy)
    data = data_of(page.write(copy, records, {}).path)
    assert not any("image" in one for group in data["questions"] for one in group["questions"])


def test_two_studies_are_compared_on_the_same_questions(file: Path) -> None:
    contrast = data_of(file)["contrast"]
    verdicts = {(row["method"], row["task"]): row["verdict"] for row in contrast["rows"]}
    assert verdicts["fastv", "count"] == "worse"
    assert verdicts["fastv", "color"] == "better"
    assert verdicts["none", "color"] == "no difference shown"
    (row,) = [row for row in contrast["rows"] if (row["method"], row["task"]) == ("fastv", "count")]
    assert (row["score"], row["score_there"], row["n"]) == (0.4, 1.0, 10)
    assert row["difference"] == pytest.approx(-0.6)
    assert {(row["method"], row["task"]) for row in contrast["only_here"]} == {
        ("none", "kinds"),
        ("random", "kinds"),
        ("fastv", "kinds"),
    }


def test_what_fails_in_one_of_two_studies_is_a_regression(tmp_path: Path) -> None:
    now, before = tmp_path / "now", tmp_path / "before"
    for study in (now, before):
        cell(study, "none", "color", [1.0, 0.0])
    cell(now, "fastv", "color", None, status="failed", reason="broken")
    cell(before, "fastv", "color", [1.0, 1.0])
    rows = data_of(written(now, before))["contrast"]["rows"]
    assert [row["verdict"] for row in rows if row["method"] == "fastv"] == ["worse: failed here"]


def test_where_less_is_better_more_is_a_regression(tmp_path: Path) -> None:
    now, before = tmp_path / "now", tmp_path / "before"
    for study, scores in ((now, [0.9] * 20), (before, [0.1, 0.2] * 10)):
        cell(study, "none", "error", scores, higher_is_better=False)
    (row,) = data_of(written(now, before))["contrast"]["rows"]
    assert (row["verdict"], row["difference"] > 0) == ("worse", True)


def test_other_questions_under_the_same_numbers_are_not_paired(tmp_path: Path) -> None:
    """32 of 40 against 24 of 40: paired it is a loss, of other questions it may be chance."""
    now, before = tmp_path / "now", tmp_path / "before"
    for study, right, word in ((now, 24, "no"), (before, 32, "yes")):
        columns = {"reference": [f"{word} {number}" for number in range(40)]}
        cell(study, "fastv", "t", [1.0] * right + [0.0] * (40 - right), columns=columns)
    (row,) = data_of(written(now, before))["contrast"]["rows"]
    assert row["difference"] == pytest.approx(-0.2)
    assert (row["questions"], row["verdict"]) == ("others", "no difference shown")


def test_the_page_and_the_command_say_the_same_of_two_studies(study: Path, tmp_path: Path) -> None:
    other = golden_study(tmp_path / "before")
    rows = data_of(written(shutil.copytree(study, tmp_path / "now"), other))["contrast"]["rows"]
    in_page = {(row["method"], row["task"], row["budget"]): row["verdict"] for row in rows}
    changes = agreement.compare(other, study, lambda _: None).changes
    assert {(one.method, one.task, one.budget): one.mark for one in changes} == in_page


def test_the_command_writes_the_page(copy: Path, tmp_path: Path) -> None:
    other = golden_study(tmp_path / "before")
    command = [sys.executable, "-m", "prunebench.cli", "report", str(copy), f"compare={other}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == f"wrote {copy / 'leaderboard.html'}\n"
    assert data_of(copy / "leaderboard.html")["contrast"]["name"] == "before"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("compare=nowhere", "nowhere is no study"),
        ("pictures=1000", "pictures is 1000; it ends at 48"),
        ("color=red", "unknown key color"),
        ("paper=x", "size is"),
    ],
)
def test_what_a_report_cannot_do_is_said_in_one_line(
    study: Path, word: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from prunebench.cli import main

    words = [word, "size=huge"] if word.startswith("paper") else [word]
    assert main(["report", str(study), *words]) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as program:
        yield program


def test_every_view_opens_without_a_fault(browser: Any, file: Path) -> None:
    for width in (1400, 900, 390):
        with visit(browser, file, width=width) as seen:
            for view in ("board", "plot", "choose", "methods", "questions", "contrast"):
                seen.go(f"view={view}")
                assert seen.texts("#tabs [aria-selected=true]") != []
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert seen.faults == []


def test_rows_are_sorted_and_filtered(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=board&task=color") as seen:
        cells_of = '.tabulator-cell[tabulator-field="method"]'
        assert sorted(seen.texts(cells_of)) == ["fastv", "fastv", "none", "pool", "random"]
        # by the keyboard: what has no accuracy stays last, both ways
        heading = seen.page.locator('.tabulator-col[tabulator-field="accuracy"]')
        heading.focus()
        heading.press("Enter")
        assert heading.get_attribute("aria-sort") == "descending"
        first = seen.texts(cells_of)
        assert first[-1] in ("pool", "fastv")
        assert first[0] in ("none", "fastv")
        heading.press("Enter")
        assert seen.texts(cells_of)[0] == "random"
        seen.page.keyboard.press("/")
        seen.page.keyboard.type("fas")
        assert set(seen.texts(cells_of)) == {"fastv"}
        assert "find=fas" in seen.page.url
        assert seen.page.evaluate("document.activeElement.dataset.name") == "find"
        assert seen.faults == []


def test_a_kind_of_question_has_its_own_accuracy(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=board&task=kinds&type=shape&find=fastv") as seen:
        (accuracy,) = seen.texts('.tabulator-cell[tabulator-field="accuracy"]')
        assert accuracy.startswith("0.500")
        seen.go("view=board&table=by_type")
        (fastv,) = seen.texts('.tabulator-row:has-text("fastv") [tabulator-field="shape"]')
        assert fastv.startswith("0.500")


def test_the_plot_has_a_point_a_row_and_the_frontier(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=plot&task=color&x=flops_ratio") as seen:
        lines = seen.page.evaluate(f"{PLOT}.map(one => one.name || 'frontier')")
        assert sorted(lines) == ["fastv", "frontier", "none", "random"]
        assert seen.page.evaluate(f"{FASTV}.x") == [pytest.approx(0.625)]
        assert seen.page.evaluate(f"{FASTV}.error_y.array")[0] > 0
        seen.page.get_by_label("frontier").click()
        assert seen.page.evaluate(f"{PLOT}.length") == 3
        assert seen.faults == []


@pytest.mark.parametrize(("rows", "names"), FRONTIERS.values(), ids=FRONTIERS.keys())
def test_the_page_draws_the_frontier_of_the_figures(
    browser: Any, file: Path, rows: list[dict[str, Any]], names: str
) -> None:
    plain = json.loads(pd.DataFrame(rows).to_json(orient="records"))
    with visit(browser, file, "view=plot") as seen:
        line = f"frontier({json.dumps(plain)}, new Map(), 'flops_ratio', 'accuracy')"
        assert "".join(seen.page.evaluate(f"{line}.map(row => row.method)")) == names


def test_the_plot_says_which_rows_a_busy_machine_timed(browser: Any, file: Path) -> None:
    rows = [{"machine": "busy"}, {"machine": "quiet"}]
    with visit(browser, file, "view=plot") as seen:
        for x, said in (("total_ratio", True), ("flops_ratio", False)):
            call = f"aboutPlot(new Map(), {json.dumps(rows)}, '{x}', 'accuracy')"
            assert ("1 of 2 rows were timed on a busy machine" in seen.page.evaluate(call)) == said


def test_the_best_for_a_budget_and_for_a_loss(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=choose&task=color&spend=0.5") as seen:
        budget, loss = seen.page.locator(".cards").all()
        assert budget.locator("h3").all_inner_texts()[0].split() == ["fastv", "best"]
        assert loss.locator("h3").all_inner_texts()[0].split()[0] == "fastv"
        assert "random" not in loss.inner_text()
        seen.go("view=choose&task=color&spend=0.1")
        assert "Nothing costs so little" in seen.page.locator("main").inner_text()


def test_a_method_has_its_page(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=methods&method=fastv") as seen:
        text = seen.page.locator("article").inner_text()
        for words in ("FastV (ECCV 2024)", "verified", "https://arxiv.org", "In this study"):
            assert words in text
        assert "budget 0.05 is out of reach at llm:2" in text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("rank by `layers` and <b>", "rank by <code>layers</code> and &lt;b&gt;"),
        ("a lone ` stays", "a lone ` stays"),
    ],
)
def test_code_in_what_a_method_says_is_set_as_code(
    browser: Any, file: Path, text: str, html: str
) -> None:
    with visit(browser, file, "view=methods") as seen:
        call = f"element('p', {{}}, ...withCode({json.dumps(text)})).innerHTML"
        assert seen.page.evaluate(call) == html


def test_failures_are_looked_through(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=questions&group=tiny/kinds") as seen:
        seen.page.wait_for_selector(".answer canvas")
        assert seen.texts(".question") == ["which colour?"]
        assert seen.texts("#reference") == ["red"]
        cards = {text.split()[0]: text for text in seen.texts(".answer")}
        assert "right → wrong" in cards["random"]
        assert "✓ right" in cards["fastv"]
        assert "16 → 8 → 4 tokens" in cards["fastv"]
        # the last stage keeps the first row of four
        canvas = seen.page.locator(".answer:has-text('fastv') canvas")
        assert canvas.get_attribute("aria-label") == "4 of 16 tokens kept at llm:2"
        seen.page.get_by_role("button", name="input").click()
        assert canvas.get_attribute("aria-label") == "8 of 16 tokens kept at input"
        seen.page.keyboard.press("j")
        assert seen.texts(".question") != ["which colour?"]
        seen.page.locator('[data-name="flip"]').select_option("won")
        cards = {text.split()[0]: text for text in seen.texts(".answer")}
        assert "wrong → right" in cards["random"]
        assert len(seen.texts(".list button")) == 1
        assert seen.faults == []


def test_the_tab_of_the_view_is_in_sight_on_a_narrow_screen(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=contrast", width=390) as seen:
        tab = seen.page.locator("#tabs [aria-selected=true]").bounding_box()
        assert tab["x"] >= 0
        assert tab["x"] + tab["width"] <= 390
        seen.go("view=board")
        assert seen.page.locator("#tabs [aria-selected=true]").bounding_box()["x"] >= 0


def test_an_own_operating_point_is_on_no_line(browser: Any, tmp_path: Path) -> None:
    cell(tmp_path, "none", "t", [1.0] * 20)
    for budget, kind, tokens in (("0.5", "mean", 8.0), ("0.1", "mean", 2.0), ("own", "", 5.0)):
        columns: dict[str, Any] = {"available": [16] * 20, "tokens_mean": [tokens] * 20}
        values = {"score": 0.5, "tokens_mean": tokens, "tokens_available": 16}
        facts: dict[str, Any] = {"budget_kind": kind, "metrics": metrics_of(values, n=20)}
        cell(tmp_path, "fastv", "t", [1.0, 0.0] * 10, budget=budget, columns=columns, **facts)
    with visit(browser, written(tmp_path), "view=plot&x=tokens_mean") as seen:
        assert seen.page.evaluate(f"{FASTV}.x") == [2, 8, None, 5]
        texts = seen.page.evaluate("document.querySelector('.plot').layout.xaxis.ticktext")
        assert "5" not in texts
        assert seen.faults == []


def test_a_method_shows_its_steps_through_the_layers(browser: Any, tmp_path: Path) -> None:
    for budget, low in (("0.5", 4.0), ("0.25", 2.0)):
        entering = [16.0, 16.0, low, low]
        cell(tmp_path, "fastv", "t", [1.0] * 4, budget=budget, entering=entering)
        encoder = {"vision:3": 12.0}
        facts: dict[str, Any] = {"entering": [8.0, low], "encoder": encoder}
        cell(tmp_path, "inside", "t", [1.0] * 4, budget=budget, **facts)
    cell(tmp_path, "flat", "t", [1.0] * 4, entering=[8.0] * 4)
    early: dict[str, Any] = {"entering": [12.0] * 4, "encoder": {"vision:3": 12.0}}
    cell(tmp_path, "early", "t", [1.0] * 4, **early)
    cell(tmp_path, "none", "t", [1.0] * 4, entering=[16.0] * 4)
    report.build(tmp_path)
    with visit(browser, written(tmp_path), "view=methods&method=fastv") as seen:
        lines = seen.page.evaluate(
            "document.querySelector('.plot.low').data.map((line) => [line.name, line.x, line.y])"
        )
        assert lines == [
            ["50\xa0%", [0, 2, 4], [100, 25, 25]],
            ["25\xa0%", [0, 2, 4], [100, 12.5, 12.5]],
        ]
        seen.go("view=methods&method=inside")
        text = seen.page.locator("article").inner_text().replace("\xa0", " ")
        assert "50 %: 75 % from block 3 on; 25 %: 75 % from block 3 on." in text.replace(
            "\xa0", " "
        )
        seen.go("view=methods&method=early")
        assert seen.page.locator(".plot.low").count() == 0, "its lines are flat in the LLM"
        text = seen.page.locator("article").inner_text().replace("\xa0", " ")
        assert "50 %: 75 % from block 3 on" in text
        seen.go("view=methods&method=flat")
        assert seen.page.locator(".plot.low").count() == 0
        assert seen.faults == []


def test_regressions_stand_first(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=contrast") as seen:
        rows = seen.texts("#contrast .tabulator-row")
        assert rows[0].split()[0] == "worse"
        assert "fastv" in rows[0]
        assert "worse: 1" in seen.page.locator("main").inner_text()


def test_dark_and_light_by_system_and_by_hand(browser: Any, file: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with visit(browser, file, color_scheme="dark") as seen:
        assert seen.page.evaluate(ground) == "rgb(20, 23, 28)"
        seen.page.keyboard.press("t")
        assert seen.page.evaluate(ground) == "rgb(255, 255, 255)"
        seen.page.reload()
        assert seen.page.evaluate(ground) == "rgb(255, 255, 255)", "it is kept"
    with visit(browser, file, color_scheme="light") as seen:
        assert seen.page.evaluate(ground) == "rgb(255, 255, 255)"


def test_everything_is_reached_by_keys(browser: Any, file: Path) -> None:
    with visit(browser, file) as seen:
        seen.page.keyboard.press("5")
        assert seen.texts("#tabs [aria-selected=true]") == ["Questions"]
        seen.page.locator("#tabs [aria-selected=true]").focus()
        seen.page.keyboard.press("ArrowLeft")
        assert seen.texts("#tabs [aria-selected=true]") == ["Methods"]
        seen.page.locator(".list button").first.focus()
        seen.page.keyboard.press("ArrowDown")
        seen.page.keyboard.press("Enter")
        assert "method=" in seen.page.url
        seen.page.keyboard.press("?")
        assert "Keys" in seen.page.locator("#keys").inner_text()
        seen.page.go_back()


def test_nothing_that_somebody_wrote_is_run(browser: Any, tmp_path: Path) -> None:
    """Answers of a hundred kinds, names, reasons and settings stay the texts that they are."""
    study = tmp_path / "study"
    assert len({*ANSWERS}) == 100
    evil = "<img src=x onerror=window.hacked=1>"
    ids = [f"{evil}{number}" for number in range(50)]
    for method, score, texts in (("none", 1.0, ANSWERS[:50]), ("fastv", 0.0, ANSWERS[50:])):
        columns = {"prediction": texts, "reference": texts[::-1], "question_type": [evil] * 50}
        folder = cell(study, method, "color", [score] * 50, columns=columns, ids=ids)
    change(folder, reason=evil, settings={evil: evil}, method=evil, port=evil)
    file = written(study)
    with visit(browser, file) as seen:
        for view in ("board", "board&table=metrics", "plot", "choose", "methods", "questions"):
            seen.go(f"view={view}")
        seen.page.evaluate("method => setState({ view: 'methods', method })", evil)
        assert evil in seen.page.locator("article h2").inner_text()
        answers = seen.page.evaluate(ALL_SAID, ids)
        seen.page.wait_for_timeout(200)
        assert seen.page.evaluate("window.hacked") is None
        assert seen.page.evaluate("document.querySelectorAll('main img, main iframe').length") == 0
        # what turns or ends text stands as its escape, all else as it is
        assert {*answers} == {clean(text) for text in ANSWERS}
        assert seen.faults == []

"""Figures and tables for a paper, and the colours that methods keep for ever."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hand_written import board_of, cell, golden_study

from prunebench import registry
from prunebench.report import figures, palette, paper, paper_tables
from prunebench.study import cells
from prunebench.study.cells import ReportError


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return golden_study(tmp_path / "study")


def written(study: Path, folder: Path, **wish: Any) -> dict[str, Path]:
    """What was written for a paper, by name."""
    board = board_of(study)
    records, _ = cells.read(study)
    paths = paper.write(board, records, paper.Wish(**wish), folder)
    return {path.name: path for path in paths}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All that is written of two methods, one under another name."""
    folder = tmp_path_factory.mktemp("paper")
    wish = {"methods": ("random", "fastv"), "rename": {"fastv": "F_V & Co"}, "format": "svg"}
    return written(golden_study(folder / "study"), folder / "out", **wish)


def crowd(study: Path, count: int) -> list[str]:
    """A study of so many methods of which each is better than the one before."""
    names = [f"method{number:02d}" for number in range(count)]
    cell(study, "none", "color", [1.0] * 20)
    for number, name in enumerate(names):
        cell(study, name, "color", [1.0] * (number + 2) + [0.0] * (18 - number))
    return names


def test_every_installed_method_has_a_colour_and_marker_of_its_own() -> None:
    methods = [name for name in registry.names() if registry.card(registry.get(name)).paper]
    numbers = palette.numbers()
    assert set(methods) <= set(numbers), "tools/pages.py adds new ones"
    assert len({number % palette.PAIRS for number in numbers.values()}) == len(numbers)


def test_a_method_looks_the_same_in_whatever_study_it_stands() -> None:
    alone = palette.looks(["fastv", "mine"], ["random"])
    among = palette.looks(["aim", "divprune", "fastv", "mine", "zebra"], ["pool", "random"])
    assert alone["fastv"] == among["fastv"]
    assert alone["mine"] == among["mine"]
    pairs = {(look.colour, look.marker) for look in among.values()}
    assert len(pairs) == len(among)


def test_new_methods_get_the_numbers_behind_the_last() -> None:
    text = palette.with_new(["fastv", "brand_new"])
    last = max(palette.numbers().values())
    assert f'"brand_new": {last + 1}' in text
    assert palette.with_new(["fastv"]) == palette.FILE.read_text()


def test_a_vector_figure_has_its_text_as_text(
    study: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    text = files["accuracy.svg"].read_text()
    assert ">F_V &amp; Co<" in text
    assert ">fastv<" not in text
    figure = figures.evidence(board_of(study))
    pdf = figures.save(figure, tmp_path / "evidence.pdf").read_bytes()
    assert b"CIDFontType2" in pdf
    assert b"Type3" not in pdf


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_the_same_figure_is_the_same_file(study: Path, tmp_path: Path, form: str) -> None:
    board = board_of(study)
    paths = [tmp_path / f"{name}.{form}" for name in ("one", "two")]
    first, second = (figures.save(figures.evidence(board), path).read_bytes() for path in paths)
    assert first == second


def test_a_table_bears_intervals_marks_and_what_it_stands_on(
    study: Path, files: dict[str, Path]
) -> None:
    lines = files["table.md"].read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| none", "| random", r"| F\_V \& Co", r"| F\_V \& Co"]
    board = board_of(study)
    row = board[(board["method"] == "random") & (board["task"] == "all")].iloc[0]
    assert rows[1][2].startswith(f"{row['accuracy']:.3f} [{row['accuracy_low']:.3f}, ")
    assert r"\*" in rows[1][3], "far below the unpruned model"
    assert rows[2][2].startswith("**0.650**"), "the best at its budget"
    latex = files["table.tex"].read_text()
    assert r"F\_V \& Co" in latex
    assert "$^{*}$" in latex
    assert latex.count(r"\begin") == latex.count(r"\end")
    for name in files:
        if name != "captions.md":
            (caption,) = re.findall(rf"\*\*{name}\*\* (.*)", files["captions.md"].read_text())
            for words in ("tiny on color; count", "1 seed (0)", "prunebench", "code abc1234"):
                assert words in caption
    assert "n = 20 questions" in files["captions.md"].read_text()


def test_a_star_is_a_mark_of_the_leaderboard_with_an_interval_or_without(tmp_path: Path) -> None:
    """Lost every time there is no interval, and no doubt; equal every time there is neither."""
    for method, score in (("none", 1.0), ("random", 1.0), ("fastv", 0.0), ("hero", 1.0)):
        cell(tmp_path, method, "color", [score] * 20)
    table = written(tmp_path, tmp_path / "out", format="svg")["table.md"].read_text()
    differences = {}
    for line in table.splitlines():
        entries = line.split(" | ")
        differences[entries[0].removeprefix("| ")] = entries[3:5]
    assert differences["fastv"] == ["\u22121.000\\*"] * 2
    assert differences["hero"] == ["+0.000"] * 2


def test_methods_stand_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    names = crowd(tmp_path, 3)
    board = board_of(tmp_path)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, names),
        ({"order": "accuracy"}, names[::-1]),
        ({"methods": (names[2], names[0])}, [names[2], names[0]]),
    ]
    for facts, expected in cases:
        wish = paper.Wish(**facts)
        rows = paper.selected(board, wish)
        order = paper.methods_of(rows, wish)
        text = paper_tables.markdown(rows, paper_tables.Layout(order, {}), "")
        assert re.findall(r"^\| (method\d\d) ", text, re.MULTILINE) == expected
    legend = figures.accuracy(rows, figures.Plan(order=tuple(order))).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["none", *expected]


def test_of_more_methods_than_one_tells_apart_the_others_are_grey(tmp_path: Path) -> None:
    names = crowd(tmp_path, 11)
    board = board_of(tmp_path)
    figure = figures.accuracy(board)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*names[3:], "none", "3 others"]
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].get_lines()}
    assert {colours[name] for name in names[:3]} == {palette.PLAIN}
    assert palette.PLAIN not in {colours[name] for name in names[3:]}
    assert [ax.get_title() for ax in figures.by_method(board).axes] == names


def test_a_few_methods_need_one_panel_only(study: Path) -> None:
    with pytest.raises(ReportError, match="one panel shows every method"):
        figures.by_method(board_of(study))


@pytest.mark.parametrize(
    ("wish", "line"),
    [
        ({"methods": ("nobody",)}, "method nobody is not in the study; it has none, "),
        ({"rename": {"nobody": "X"}}, "method nobody is not in the study"),
    ],
)
def test_a_method_that_is_not_there_is_named(
    study: Path, tmp_path: Path, wish: dict[str, Any], line: str
) -> None:
    with pytest.raises(ReportError, match=line):
        written(study, tmp_path, **wish)


@pytest.mark.parametrize("word", ["3", "axb", "3x", "0x2", "3x200", "nanx2"])
def test_a_size_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ReportError, match=r"write inches, from 0\.5 to 20"):
        paper.sized(word)
    assert paper.sized("3.3x2") == (3.3, 2.0)


@pytest.mark.parametrize("word", ["fastv", "fastv:", ":FastV"])
def test_a_new_name_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ReportError, match="write name:Name"):
        paper.renamed([word])
    assert paper.renamed(["fastv: Fast:V"]) == {"fastv": "Fast:V"}


def test_names_in_a_table_stay_names() -> None:
    name = "a|b$\\input{x}_%"
    assert paper_tables.in_markdown(name) == r"a\|b\$\\input\{x\}\_%"
    assert paper_tables.in_latex(name) == r"a|b\$\textbackslash{}input\{x\}\_\%"

"""Grid: expansion to cells, key=value options, and one clear line for everything that cannot be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench import registry
from prunebench.run.grid import CONTROLS, Grid, GridError, differences, dump, load

MINE = """
from dataclasses import dataclass

import torch
from prunebench import ScorePruner, register


@register()
@dataclass(frozen=True)
class Mine(ScorePruner):
    power: float = 2.0

    def score(self, tokens):
        return tokens.features.norm(p=self.power, dim=-1)
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def test_the_default_grid_holds_every_method_at_every_budget_once():
    cells = load().cells(["scenes_mixed"])
    quality = [cell for cell in cells if cell.kind == "quality"]
    others = [name for name in registry.names() if name != "none"]
    assert len(quality) == 1 + len(load().budgets) * len(others)
    assert len(cells) == 2 * len(quality)
    assert len({cell.id for cell in cells}) == len(cells)
    assert quality[0].id == "tiny-qwen2.5-vl__none__1.0__scenes_mixed__s0"
    assert all("/" not in cell.id for cell in cells)


def test_comma_lists_and_settings():
    grid = load(None, ["methods=fastv,divprune", "budgets=0.5,kv:0.25,32", "fastv.layer=3", "cost.enabled=false", "seed=7"])
    assert [variant.label for variant in grid.variants()] == [*CONTROLS, "fastv", "divprune"]
    assert {v.label: v for v in grid.variants()}["fastv"].settings() == {"layer": 3}
    ids = [cell.id for cell in grid.cells(["a", "b"])]
    assert "tiny-qwen2.5-vl__fastv__kv-0.25__a__s7" in ids
    assert "tiny-qwen2.5-vl__fastv__32__b__s7" in ids
    assert not [cell for cell in ids if cell.endswith("cost")]


def test_variants_of_one_method(tmp_path: Path):
    file = tmp_path / "wide.yaml"
    file.write_text(
        "methods: [{name: fastv, label: fastv-3, layer: 3}, {name: fastv, positions: compact}]\nbudgets: 0.5\ncontrols: false\n"
    )
    grid = load(file)
    assert [(v.label, v.settings()) for v in grid.variants()] == [
        ("fastv-3", {"layer": 3}),
        ("fastv", {"layer": 2, "positions": "compact"}),
    ]
    assert grid.budgets == ["0.5"]


def test_a_file_is_a_method(mine: Path):
    grid = load(None, [f"methods={mine}", "mine.power=1", "controls=false"])
    assert [(v.label, v.settings()) for v in grid.variants()] == [("mine", {"power": 1.0})]


def test_an_edited_method_is_another_method(mine: Path):
    before = load(None, [f"methods={mine}"]).variants()[-1].source()
    mine.write_text(MINE + "# changed\n")
    assert load(None, [f"methods={mine}"]).variants()[-1].source() != before


def test_what_is_written_reads_back(tmp_path: Path):
    grid = load(None, ["methods=fastv,pyramiddrop", "budgets=0.5", "limit=12", "fastv.layer=3"])
    file = tmp_path / "study" / "grid.yaml"
    file.parent.mkdir()
    file.write_text(dump(grid))
    again = load(file)
    assert differences(grid, again) == []
    assert again.folder() == file.parent
    other = differences(again, load(None, ["methods=fastv,pyramiddrop", "budgets=0.5", "limit=13", "fastv.layer=3"]))
    assert other == ["limit is 12 there and 13 here"]


def test_the_default_folder_is_named_after_the_question():
    assert load(None, ["seed=1"]).folder() != load(None, ["seed=2"]).folder()
    assert load(None, ["seed=1"]).folder() == load(None, ["seed=1"]).folder()
    assert load(None, ["seed=1"]).folder().parts[:2] == ("results", "scratch")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["metods=fastv"], "unknown key metods; did you mean 'methods'?"),
        (["cost.pair=3"], "unknown key cost.pair; did you mean 'pairs'?"),
        (["methods=fastw"], "unknown method 'fastw'; did you mean 'fastv'?"),
        (["fastv.layr=3"], "unknown setting fastv.layr; did you mean 'layer'?"),
        (["fastv.layer=two"], "fastv.layer is 'two', but it takes int"),
        (["fastv.layer=0"], "llm:0 is the language model's entry"),
        (["methods=divprune", "fastv.layer=3"], "unknown key fastv.layer"),
        (["budgets=0"], "budget 0 is no count of tokens; it starts at 1"),
        (["budgets=0.0"], "budget 0.0 is no share"),
        (["budgets=-0.5"], "budget -0.5 is no share"),
        (["budgets=1.5"], "budget 1.5 is no share"),
        (["budgets=much"], "budget 'much' is no number"),
        (["budgets=vk:0.5"], "budget kind 'vk' is unknown"),
        (["budgets="], "budgets is empty"),
        (["limit=0"], "limit is 0; it starts at 1"),
        (["limit=few"], "limit"),
        (["seed=x"], "seed"),
        (["device=gpu"], "device is 'gpu'; it is one of auto, cpu, cuda"),
        (["methods"], "'methods' is no option; write key=value"),
        (["methods=./missing.py"], "no method file missing.py"),
        (["tasks=./missing.yaml"], "no task file ./missing.yaml"),
        (["methods=[{name: fastv, label: a/b}]"], "label 'a/b' of method fastv is no file name"),
        (["methods=[{name: fastv, label: x}, {name: divprune, label: x}]"], "two methods are labelled 'x'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(options: list[str], said: str):
    with pytest.raises(GridError) as caught:
        load(None, options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("methods: [", "is no YAML for a grid: line 2: "), ("- fastv", "must hold keys and values"), ("modell: x", "did you mean 'model'?")],
)
def test_a_broken_grid_file(tmp_path: Path, text: str, said: str):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(GridError, match=said.replace("?", r"\?")):
        load(file)


def test_a_missing_grid_file(tmp_path: Path):
    with pytest.raises(GridError, match="no grid file"):
        load(tmp_path / "none.yaml")


def test_controls_can_be_left_out():
    assert [v.label for v in load(None, ["methods=fastv", "controls=false"]).variants()] == ["fastv"]


def test_two_grids_do_not_share_their_lists():
    Grid().methods.append("x")
    assert Grid().methods == ["all"]


def test_a_controls_label_is_the_controls():
    with pytest.raises(GridError, match="label 'none' is that of the control"):
        Grid(methods=[{"name": "divprune", "label": "none"}]).variants()
    labels = [v.label for v in Grid(methods=[{"name": "random", "label": "other", "seed": 7}]).variants()]
    assert "random" in labels
    assert "other" in labels

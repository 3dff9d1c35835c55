"""Grid: expansion to cells, key=value options, and one clear line for everything that cannot be
asked.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prunebench import registry
from prunebench.run import options, plain
from prunebench.run.grid import (
    CONTROLS,
    Cost,
    Grid,
    GridError,
    build,
    differences,
    dump,
    keys,
    load,
    stored_differences,
)
from prunebench.run.question import HOW
from prunebench.run.store import StoreError, open_study
from prunebench.run.view import View

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


@pytest.mark.parametrize("words", [[], ["methods=all"]])
def test_a_grid_holds_every_method_at_every_budget_once(words: list[str]) -> None:
    grid = load(None, words)
    cells = grid.cells(["scenes"])
    quality = [cell for cell in cells if cell.kind == "quality"]
    others = [variant for variant in grid.variants() if variant.label != "none"]
    with_own = [variant.name for variant in others if variant.has_own]
    assert {"fastv", "glimpseprune", "pyramiddrop"} <= set(with_own)
    assert grid.budgets[0] == "own"
    assert len(quality) == 1 + (len(grid.budgets) - 1) * len(others) + len(with_own)
    assert len(cells) == 2 * len(quality)
    assert len({cell.id for cell in cells}) == len(cells)
    assert quality[0].id == "tiny-qwen2.5-vl__none__1.0__scenes__s0"
    assert all("/" not in cell.id for cell in cells)


def test_comma_lists_and_settings() -> None:
    grid = load(
        None,
        [
            "methods=fastv,divprune",
            "budgets=0.5,kv:0.25,32",
            "fastv.layer=3",
            "cost.enabled=false",
            "seed=7",
        ],
    )
    assert [variant.label for variant in grid.variants()] == [*CONTROLS, "fastv", "divprune"]
    assert {v.label: v for v in grid.variants()}["fastv"].settings() == {"layer": 3}
    ids = [cell.id for cell in grid.cells(["a", "b"])]
    assert "tiny-qwen2.5-vl__fastv__kv-0.25__a__s7" in ids
    assert "tiny-qwen2.5-vl__fastv__32__b__s7" in ids
    assert not [cell for cell in ids if cell.endswith("cost")]


def test_a_cost_pass_that_is_off_still_takes_its_parts() -> None:
    assert load(None, ["cost=false", "cost.pairs=3"]).cost == Cost(enabled=False, pairs=3)


def test_variants_of_one_method(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text(
        "methods: [{name: fastv, label: fastv-3, layer: 3}, {name: fastv, positions: compact}]\n"
        "budgets: 0.5\ncontrols: false\n"
    )
    grid = load(file)
    assert [(v.label, v.settings()) for v in grid.variants()] == [
        ("fastv-3", {"layer": 3}),
        ("fastv", {"layer": 2, "positions": "compact"}),
    ]
    assert grid.budgets == ["0.5"]


def test_a_list_is_understood_in_the_singular() -> None:
    one = load(None, ["model=a", "method=fastv", "task=scenes_text", "budget=0.5"])
    several = load(None, ["models=a", "methods=fastv", "tasks=scenes_text", "budgets=0.5"])
    assert differences(one, several) == []
    assert one.models == ["a"]


def test_a_study_of_one_model_keeps_the_name_that_it_had() -> None:
    grid = load(None, ["model=tiny-llava-1.5", "methods=fastv"])
    assert grid.folder().name == "tiny-llava-1.5-021165e9"


def test_a_study_that_names_its_model_in_the_singular_goes_on(tmp_path: Path) -> None:
    grid = load(None, ["models=tiny-llava-1.5", "methods=fastv", "controls=false"])
    file = tmp_path / "grid.yaml"
    file.write_text(dump(grid).replace("models:\n- tiny", "model: tiny"))
    assert "model: tiny-llava-1.5" in file.read_text()
    assert stored_differences(file, grid) == []


def test_several_models_have_their_cells_one_after_the_other() -> None:
    grid = load(None, ["models=b,a,b", "methods=fastv", "budgets=0.5", "controls=false"])
    assert [cell.id for cell in grid.cells(["t"])] == [
        "b__fastv__0.5__t__s0",
        "b__fastv__0.5__t__s0__cost",
        "a__fastv__0.5__t__s0",
        "a__fastv__0.5__t__s0__cost",
    ]
    assert grid.folder().name.startswith("b-and-1-more-")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["models="], "models is empty"),
        (["models=a,b", "revision=main"], "revision is 'main', which is one model's"),
        (["models=x/A,x/a"], "models 'x/A' and 'x/a' would share the folder name"),
    ],
)
def test_models_that_cannot_be_asked(options: list[str], said: str) -> None:
    with pytest.raises(GridError, match=said):
        load(None, options)


def test_a_file_is_a_method(mine: Path) -> None:
    grid = load(None, [f"methods={mine}", "mine.power=1", "controls=false"])
    assert [(v.label, v.settings()) for v in grid.variants()] == [("mine", {"power": 1.0})]


def test_an_edited_method_is_another_method(mine: Path) -> None:
    before = load(None, [f"methods={mine}"]).variants()[-1].source()
    mine.write_text(MINE + "# changed\n")
    assert load(None, [f"methods={mine}"]).variants()[-1].source() != before


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    grid = load(None, ["methods=fastv,pyramiddrop", "budgets=0.5", "limit=12", "fastv.layer=3"])
    file = tmp_path / "study" / "grid.yaml"
    file.parent.mkdir()
    file.write_text(dump(grid))
    again = load(file)
    assert differences(grid, again) == []
    assert again.folder() == file.parent
    other = differences(
        again, load(None, ["methods=fastv,pyramiddrop", "budgets=0.5", "limit=13", "fastv.layer=3"])
    )
    assert other == ["limit is 12 there and 13 here"]


def test_the_default_folder_is_named_after_the_question() -> None:
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
        (
            ["tasks=../../etc/passwd"],
            "no task ../../etc/passwd; a task of your own is a file that ends in .yaml",
        ),
        (["limit=3", "limit.x=1"], "limit has no part 'x'; write limit=value"),
        (["limit=true", "limit.x=1"], "limit has no part 'x'; write limit=value"),
        (["methods=[{name: fastv, label: a/b}]"], "label 'a/b' of method fastv is no file name"),
        (
            ["methods=[{name: fastv, label: x}, {name: divprune, label: x}]"],
            "two methods are labelled 'x'",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(options: list[str], said: str) -> None:
    with pytest.raises(GridError) as caught:
        load(None, options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: [", "is no YAML for a grid: line 1: "),
        ("- fastv", "must hold keys and values"),
        ("modelss: x", "did you mean 'models'?"),
        ("model: x\nmodels: y", "model and models are the same key; write models alone"),
    ],
)
def test_a_broken_grid_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(GridError, match=said.replace("?", r"\?")):
        load(file)


def test_a_missing_grid_file(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="no grid file"):
        load(tmp_path / "none.yaml")


def test_controls_can_be_left_out() -> None:
    assert [v.label for v in load(None, ["methods=fastv", "controls=false"]).variants()] == [
        "fastv"
    ]


def test_two_grids_do_not_share_their_lists() -> None:
    Grid().methods.append("x")
    assert Grid().methods == ["founding"]


def test_a_group_stands_for_its_methods() -> None:
    """Each of them once, also where it is named again."""
    variants = load(None, ["methods=founding,fastv", "controls=false"]).variants()
    labels = [variant.label for variant in variants]
    assert labels == registry.groups()["founding"]


def test_all_is_every_installed_method() -> None:
    labels = {variant.label for variant in load(None, ["methods=all"]).variants()}
    assert labels == set(registry.names()) - {"blind"}


def test_groups_hold_methods_that_are_there() -> None:
    for name, methods in registry.groups().items():
        assert name not in registry.names()
        assert set(methods) <= set(registry.names())


def test_a_controls_label_is_the_controls() -> None:
    with pytest.raises(GridError, match="label 'none' is that of the control"):
        Grid(methods=[{"name": "divprune", "label": "none"}]).variants()
    labels = [
        v.label for v in Grid(methods=[{"name": "random", "label": "other", "seed": 7}]).variants()
    ]
    assert "random" in labels
    assert "other" in labels


LONG = "x" * 10_000
ANCHORS = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)

MALFORMED = {
    "a list inside itself": ("methods: &a [*a]\n", "inside what it repeats"),
    "a mapping inside itself": ("cost: &a {inputs: *a}\n", "inside what it repeats"),
    "aliases that multiply": (ANCHORS + "methods: *a8\n", "more than 10000 values"),
    "2,000 levels of lists": ("methods: " + "[" * 2000 + "]" * 2000, "levels deep"),
    "500 levels of mappings": ("model: " + "{a: " * 500 + "1" + "}" * 500, "levels deep"),
    "a key that stands twice": ("model: a\nmodel: b\n", "the key 'model' stands twice"),
    "a key that is a number": ("methods: [{name: fastv, 1: 2}]\n", "the key 1 is no text"),
    "a word tagged as a number": ("seed: !!int abc\n", "'abc' is no int"),
    "a word tagged as true or false": ("controls: !!bool abc\n", "'abc' is no bool"),
    "a tag of Python": ("model: !!python/object/apply:os.system [id]\n", "makes no plain value"),
    "a number of 5,000 digits": (f"seed: {'9' * 5000}\n", "is no int"),
    "a number of 30 digits": (f"seed: {'9' * 30}\n", "about 31 digits"),
    "a file that is too long": ("x" * 200_000 + ": 1\n", "the most is 100000"),
    "a text that is too long": (f"model: {LONG}\n", "model has 10000 characters"),
    "a name that no file can have": (f"tasks: [{'x' * 300}]\n", "a part of it 255"),
    "a label that no file can have": (
        f"methods: [{{name: fastv, label: {'x' * 260}}}]\n",
        "at most 64 letters",
    ),
    "a cell's name that is too long": (
        f"model: {'m' * 200}\nmethods: [{{name: fastv, label: {'x' * 60}}}]\n",
        "shorten the label",
    ),
    "a NUL": ('out: "a\\0b"\n', "no printable text"),
    "half a character": ('out: "\\ud800"\n', "no printable text"),
    "a line break in a folder's name": ('out: "a\\nb"\n', "with a line break"),
    "an escape for the terminal": ('model: "\\e[31m"\n', "no printable text"),
    "a number for a section": ("cost: 1\n", "cost is 1; it takes its parts"),
    "a list for a section": ("cost: [1]\n", "it takes its parts"),
    "a number for a text": ("revision: 12e5\n", "put it in quotes"),
    "a list for a number": ("limit: [1]\n", "limit is [1]; it takes a whole number"),
    "a number for true": ("controls: 3\n", "controls is 3; it takes true or false"),
    "a number for true in a section": (
        "cost: {enabled: -1}\n",
        "cost.enabled is -1; it takes true",
    ),
    "true for a number": ("limit: true\n", "limit is true; it takes a whole number"),
    "no number": ("timeout: .nan\n", "write a finite number"),
    "no number, as a text": ("timeout: 'nan'\n", "write a finite number"),
    "no time at all": ("timeout: 0\n", "above 0"),
    "more threads than there are": ("threads: 2147483648\n", "it ends at 1024"),
    "a negative seed": ("seed: -1\n", "it starts at 0"),
    "no pixels": ("max_image_pixels: 0\n", "it starts at 1"),
    "a budget beyond any image": (f"budgets: ['{'9' * 250}']\n", "beyond any image"),
    "a budget without a kind": ("budgets: [':0.5']\n", "no kind before its colon"),
    "2,000 methods": ("methods: [" + ", ".join(["random"] * 2000) + "]\n", "the most is 1000"),
    "a label read as missing": ("methods: [{name: fastv, label: 'null'}]\n", "as missing"),
    "a label read as a number": ("methods: [{name: fastv, label: '1e5'}]\n", "as a number"),
    "a label that is a device": (
        "methods: [{name: fastv, label: aux}]\n",
        "no file name on Windows",
    ),
    "labels alike but for capitals": (
        "methods: [{name: fastv, label: A}, {name: fastv, label: a}]\n",
        "differ in capitals",
    ),
    "nobody's home": ("out: ~nobody-of-that-name/x\n", "no such home folder"),
}


@pytest.mark.parametrize(("text", "said"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_grid_is_refused_in_one_short_line(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(GridError) as caught:
        load(file)
    line = str(caught.value)
    assert said in line
    assert len(line) <= 300
    assert line.isprintable()


@pytest.mark.parametrize(
    "text",
    [f"model={LONG}", f"limit={LONG}", f"{LONG}=1", f"fastv.{LONG}=1", f"fastv.layer={LONG}", LONG],
)
def test_no_message_is_as_long_as_what_it_is_about(text: str) -> None:
    with pytest.raises(GridError) as caught:
        load(None, [text])
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "value",
    ["${oc.env:SECRET}", "${oc.decode:${oc.env:SECRET}}", "${model}", "x${oc.env:SECRET}y", "???"],
)
def test_nothing_is_filled_into_a_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for text in (
        f"model: '{value}'",
        f"out: '{value}'",
        f"tasks: ['{value}']",
        f"methods: ['{value}']",
        f"methods: [{{name: random, label: '{value}'}}]",
        f"methods: [{{name: maskclip, template: '{value}'}}]",
        f"seed: '{value}'",
        f"cost: {{pairs: '{value}'}}",
        f"'{value}': 1",
    ):
        (tmp_path / "grid.yaml").write_text(text)
        with pytest.raises(GridError) as caught:
            load(tmp_path / "grid.yaml")
        assert "hunter2" not in str(caught.value)
    for text in (
        f"model={value}",
        f"out={value}",
        f"maskclip.template={value}",
        f"methods={value}",
        f"seed={value}",
    ):
        with pytest.raises(GridError) as caught:
            load(None, [text])
        assert "hunter2" not in str(caught.value)
    with pytest.raises(options.OptionError, match="write the value itself"):
        options.structured(View, {"question": value})


def test_a_text_is_taken_as_it_stands() -> None:
    grid = load(None, ["revision=1e10", "out=a  b: c", "model=007"])
    assert (grid.revision, grid.out, grid.models) == ("1e10", "a  b: c", ["007"])
    assert load(None, ["revision=", "limit=010"]).revision is None
    assert load(None, ["limit=010"]).limit == 10


def test_home_is_where_the_user_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(None, ["out=~/study"]).folder() == tmp_path / "study"
    (tmp_path / "mine.py").write_text(MINE)
    assert load(None, ["methods=~/mine.py", "controls=false"]).variants()[0].name == str(
        tmp_path / "mine.py"
    )


def test_a_grid_reads_back_whatever_its_words_look_like(tmp_path: Path) -> None:
    grid = load(
        None,
        [
            "model=1e5",
            "revision=null-and",
            "budgets=1e-05,kv:0.5",
            "maskclip.template=1e5 {}",
            "methods=maskclip",
        ],
    )
    (tmp_path / "grid.yaml").write_text(dump(grid))
    assert differences(grid, load(tmp_path / "grid.yaml")) == []
    assert stored_differences(tmp_path / "grid.yaml", grid) == []


def test_a_methods_file_may_go_once_it_is_loaded(mine: Path) -> None:
    mine.write_text(MINE + "\nopen(__file__ + '.count', 'a').write('x')\n")
    grid = load(None, [f"methods={mine}", "mine.power=3", "controls=false", "budgets=0.5"])
    mine.unlink()
    assert [cell.variant.settings() for cell in grid.cells(["a"])] == [{"power": 3.0}] * 2
    assert grid.digest() == grid.digest()
    assert Path(f"{mine}.count").read_text() == "x"


ODD = MINE.replace("power: float = 2.0", "held: object = None\n    power: float = 2.0").replace(
    "    def score",
    "    def __post_init__(self):\n        object.__setattr__(self, 'held', {})\n\n    def score",
)


@pytest.mark.parametrize(
    "held",
    [
        "torch.ones(2)",
        "{1: {2}}",
        "float('nan')",
        "frozenset('a')",
        "b'x'",
        "'\\ud800'",
        "Unsayable()",
    ],
)
def test_settings_that_no_file_can_hold_break_nothing(tmp_path: Path, held: str) -> None:
    unsayable = "\n\nclass Unsayable:\n    def __repr__(self):\n        raise RuntimeError\n"
    (tmp_path / "mine.py").write_text(ODD.replace("'held', {}", f"'held', {held}") + unsayable)
    grid = load(None, [f"methods={tmp_path / 'mine.py'}", "controls=false"])
    assert grid.digest() == grid.digest()
    with open_study(tmp_path / "study") as study:
        study.begin(grid)
        study.begin(grid)


def test_a_stored_grid_is_never_imported(tmp_path: Path, mine: Path) -> None:
    mark, study = tmp_path / "mark", tmp_path / "study"
    study.mkdir()
    (study / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n" + MINE)
    (study / "grid.yaml").write_text(f"methods: [{{name: {study / 'evil.py'}}}]\n")
    grid = load(None, [f"methods={mine}"])
    with (
        open_study(study) as opened,
        pytest.raises(StoreError, match="method evil is only there; method mine is only here"),
    ):
        opened.begin(grid)
    assert not mark.exists()


def test_what_an_older_version_stored_goes_on(tmp_path: Path, mine: Path) -> None:
    grid = load(None, [f"methods={mine},fastv", "limit=3"])
    older = grid.question()
    for key in ("timeout", "trust_remote_code", "max_image_pixels"):
        del older[key]
    older["methods"] = [
        {key: entry[key] for key in entry if key not in ("power", "layer")}
        for entry in older["methods"]
    ]
    del older["cost"]["warmup"]
    with open_study(tmp_path / "study") as study:
        (study.folder / "grid.yaml").write_text(plain.dump(older))
        study.begin(grid)
        changed = load(None, [f"methods={mine},fastv", "limit=3", "fastv.layer=4", "timeout=9"])
        with pytest.raises(StoreError) as caught:
            study.begin(changed)
    assert "fastv.layer is 2 there and 4 here; timeout is null there and 9.0 here" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "methods: [",
        "- a",
        "methods: &a [*a]",
        "\x00",
        "budgets: [x]",
        "methods: [{label: x}]",
        "cost: 3",
    ],
)
def test_a_damaged_stored_grid_is_one_line(tmp_path: Path, text: str) -> None:
    with open_study(tmp_path) as study:
        (tmp_path / "grid.yaml").write_text(text)
        with pytest.raises(StoreError) as caught:
            study.begin(Grid(methods=["fastv"]))
    line = str(caught.value)
    assert len(line) <= 300
    assert "\n" not in line
    assert "choose another folder with out=" in line


@pytest.mark.parametrize("fault", ["RuntimeError('no')", "SystemExit(0)", "GeneratorExit"])
def test_a_method_that_does_not_build_is_refused_by_name(mine: Path, fault: str) -> None:
    mine.write_text(MINE + f"\n    def __post_init__(self):\n        raise {fault}\n")
    with pytest.raises(GridError, match=r"mine\.py.*" + fault.partition("(")[0]):
        load(None, [f"methods={mine}"])


def test_new_keys_leave_the_default_folder_its_name() -> None:
    grid = Grid(methods=["none"], controls=False)
    assert grid.folder() == Path("results/scratch/tiny-qwen2.5-vl-13cf82f6"), (
        "a key that nobody sets must not move a study"
    )
    assert (
        build({"methods": ["none"], "controls": False, "timeout": None, "threads": None}).folder()
        == grid.folder()
    )
    assert build({"methods": ["none"], "controls": False, "timeout": 5}).folder() != grid.folder()


def test_every_key_says_what_it_is_and_its_example_can_be_asked(mine: Path) -> None:
    names = [key.name for key in keys()]
    assert len(set(names)) == len(names)
    question = Grid(methods=["none"]).question()
    sections = {name.partition(".")[0] for name in names}
    assert sections == set(question) | set(HOW)
    for key in keys():
        assert key.type
        assert key.what.endswith(".")
        assert key.example.partition("=")[0] in (key.name, key.name.partition(".")[0])
        example = key.example.replace("./mine.py", str(mine))
        # how many workers there are is Ray's to ask
        needs = ["executor=ray"] if key.name in HOW and key.name != "out" else []
        needs += alone(key.name)
        assert load(None, [*needs, example]) != load(None, alone(key.name))


def alone(key: str) -> list[str]:
    """One method in place of all, which are slow to build, unless the key is theirs."""
    return [] if key == "methods" else ["methods=none"]


def test_a_default_in_words_is_the_default() -> None:
    for key in keys():
        usual = load(None, alone(key.name))
        grid = load(None, [*alone(key.name), f"{key.name}={key.default}"])
        assert differences(usual, grid) == []
        assert grid.folder() == usual.folder()


def test_the_bounds_of_a_key_are_those_of_its_dataclass() -> None:
    words = {key.name: key for key in keys()}
    assert words["limit"].type == "a whole number, or null"
    assert words["device"].type == "one of auto, cpu, cuda"
    assert words["cost.pairs"].default == "10"
    assert words["budgets"].default == "own,0.5,0.25,0.1"


def test_the_keys_are_listed_without_torch() -> None:
    code = "import sys; from prunebench.run.grid import keys; keys(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"

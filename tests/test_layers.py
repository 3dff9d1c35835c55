"""Imports point one way, read off the import statements."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# a part may import itself and what is listed; "transformers" and "torch" stand for the packages
BORDER = {"border"}
TRUNK = {
    "words",
    "depth",
    "sites",
    "budget",
    "sizes",
    "signals",
    "observations",
    "tokens",
    "select",
    "absorb",
    "staircase",
    "cluster",
    "videos",
    "greedy",
    "matching",
    "recycling",
    "tilewise",
    "products",
    "regions",
    "reads",
    "attention_kinds",
    "relevance",
    "course",
    "steps",
    "pruner",
    "contract",
    "composition",
    "registry",
    "identity",
    "trained",
} | BORDER
MAY: dict[str, set[str]] = {
    "border": set(),
    "words": set(),
    "depth": set(),
    "sites": set(),
    "budget": {"sites"},
    "sizes": set(),
    "signals": {"sites", "sizes"},
    "observations": {"signals", "sites"},
    "tokens": {"observations", "signals", "sites"},
    "select": {"sites", "tokens"},
    "absorb": set(),
    "staircase": {"budget", "sites"},
    "cluster": {"products", "select"},
    "videos": {"budget", "pruner", "select", "tokens"},
    "greedy": set(),
    "matching": {"select"},
    "recycling": {"cluster", "tokens"},
    "tilewise": {"select", "tokens"},
    "products": set(),
    "regions": {"tokens"},
    "reads": {"signals", "sites"},
    "relevance": {"signals", "tokens"},
    "attention_kinds": {"reads", "signals", "tokens"},
    "course": {"budget"},
    "steps": {"sites"},
    "pruner": {"budget", "course", "reads", "select", "signals", "sites", "steps", "tokens"}
    | BORDER,
    "contract": {"budget", "course", "pruner", "reads", "signals", "sites", "tokens"},
    "composition": {"budget", "course", "pruner", "reads", "signals", "sites", "steps", "tokens"},
    "identity": {"composition", "pruner"},
    # of methods their names alone, as a type: what an editor completes
    "registry": {"composition", "identity", "methods", "pruner"} | BORDER,
    "trained": {"pruner", "registry", "tokens"} | BORDER,
    "learning": BORDER,
    "models": TRUNK | {"testbed"},
    "display": BORDER | {"report", "tokens"},
    "engine": TRUNK | {"display", "methods", "models", "testbed"},
    "measure": TRUNK | {"models", "engine", "study"},
    "pricing": TRUNK | {"engine", "measure", "models"},
    "study": BORDER,
    "published": BORDER,
    "report": {"published", "study"} | BORDER,
    "benchmarks": TRUNK,
    "run": TRUNK
    | {"benchmarks", "display", "engine", "measure", "models", "pricing", "study", "testbed"},
    "lmms_plugin": TRUNK | {"benchmarks", "run", "study"},
    "testbed": {"learning"} | BORDER,
    "training": TRUNK | {"engine", "learning", "models", "testbed"},
    "page": {"report", "study"} | BORDER,
}
FREE_OF_TORCH = ("published", "study", "report", "page")


def imports(path: Path) -> set[str]:
    """Every absolute module name a file imports, late imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def files(part: str) -> list[Path]:
    folder = ROOT / "prunebench" / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("part", MAY)
def test_parts_import_downwards(part: str) -> None:
    for path in files(part):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("prunebench.")}
        assert used <= MAY[part] | {part}, (
            f"{path.name} imports {sorted(used - MAY[part] - {part})}"
        )


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_methods_know_public_names_and_torch_alone(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in ("transformers", "lmms_eval"), (
            f"{path.name} imports {name}"
        )
        # a method may build on another
        inside = name.startswith("prunebench.") and not name.startswith("prunebench.methods.")
        assert not inside, f"{path.name} reaches into {name}; import from prunebench"


def test_only_the_bridge_and_what_runs_inside_it_know_lmms_eval() -> None:
    paths = (ROOT / "prunebench").rglob("*.py")
    users = [p for p in paths if any(n.split(".")[0] == "lmms_eval" for n in imports(p))]
    inside = ROOT / "prunebench" / "lmms_plugin"
    outside = [str(p.relative_to(ROOT)) for p in users if p.parent != inside]
    assert outside == ["prunebench/benchmarks/lmms.py"]


def test_the_report_runs_without_torch() -> None:
    for path in [file for part in FREE_OF_TORCH for file in files(part)]:
        assert not {n.split(".")[0] for n in imports(path)} & {"torch", "transformers"}, path.name


def test_the_trunk_needs_torch_alone() -> None:
    for part in TRUNK:
        for path in files(part):
            outside = {n.split(".")[0] for n in imports(path)} & {
                "transformers",
                "pandas",
                "omegaconf",
                "lmms_eval",
            }
            assert not outside, f"{path.name} imports {outside}"


def test_only_the_cli_prints() -> None:
    for path in (ROOT / "prunebench").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        printed = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert path.parent.name == "cli" or not printed, f"{path.name}:{printed} prints"


def test_the_framework_knows_no_method_by_name() -> None:
    """Only the controls every study carries may be named, in the one place that lists them."""
    names = {p.stem for p in (ROOT / "methods").glob("*.py")} - {"__init__"}
    for path in (ROOT / "prunebench").rglob("*.py"):
        if "run" in path.parts or "report" in path.parts or "cli" in path.parts:
            names_here = names - {"none", "random", "uniform", "pool", "resize", "blind"}
        else:
            names_here = names - {"none", "random", "blind"}
        constants = [
            n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)
        ]
        strings = {value for value in constants if isinstance(value, str)}
        assert not strings & names_here, f"{path.name} names {sorted(strings & names_here)}"


def test_the_framework_knows_no_task_by_name() -> None:
    """Nor the data that tasks make; only the default of a grid is named, in the one place. What is
    trained may be trained on these data.
    """
    names = {path.stem for path in (ROOT / "tasks").rglob("*.*")} - {"__init__", "utils"}
    users = {}
    for path in (ROOT / "prunebench").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        strings = {node.value for node in nodes if isinstance(node, ast.Constant)}
        named = {name for name in names if name in strings}
        place = path.relative_to(ROOT)
        if named and not {"testbed", "training", "cli"} & set(place.parts):
            users[str(place)] = named
    assert users == {"prunebench/run/question.py": {"scenes"}}


def test_public_names_are_where_the_package_says() -> None:
    import prunebench

    assert sorted(prunebench._HOME) == sorted(prunebench.__all__)
    for name in prunebench.__all__:
        assert getattr(prunebench, name) is not None

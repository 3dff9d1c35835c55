"""What a stranger meets first parses, agrees with the package, and points at things that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import prunebench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
FORMS = [
    path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / ".github").rglob("*.md"),
]


def content(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_citation_names_this_version() -> None:
    citation = content(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    for key in ("message", "title", "abstract", "type", "keywords"):
        assert citation[key], key
    assert citation["version"] == prunebench.__version__
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]


def test_there_is_a_form_for_a_method_for_a_number_and_for_a_bug() -> None:
    assert {path.stem for path in FORMS} == {"bug", "new_method", "wrong_number"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_as_forms_can(path: Path) -> None:
    form = content(path)
    assert {"name", "description", "body"} <= form.keys()
    identifiers = []
    for element in form["body"]:
        kind, attributes = element["type"], element["attributes"]
        if kind == "markdown":
            assert attributes["value"]
            continue
        assert kind in ("input", "textarea", "dropdown", "checkboxes")
        assert attributes["label"]
        identifiers.append(element["id"])
        for option in attributes.get("options", ()):
            label = option["label"] if kind == "checkboxes" else option
            assert isinstance(label, str), f"{option!r} is no text: quote it"
        assert kind not in ("dropdown", "checkboxes") or attributes["options"]
    assert len(set(identifiers)) == len(identifiers)
    assert identifiers


def test_the_workflow_runs_both_ends_of_what_is_supported() -> None:
    workflow = content(ROOT / ".github" / "workflows" / "test.yml")
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix == {"transformers": ["oldest", "newest"], "python": ["3.11", "3.13"]}
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    for version in matrix["python"]:
        assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    runs = {step.get("if", ""): step["run"] for step in workflow["jobs"]["test"]["steps"]
            if "run" in step}  # fmt: skip
    assert runs["matrix.transformers == 'oldest'"] == "make test-oldest"
    assert runs["matrix.transformers == 'newest'"] == "make test"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_asks_for_targets_that_there_are(path: Path) -> None:
    workflow = content(path)
    assert workflow["permissions"] == {"contents": "read"}
    commands = []
    for job in workflow["jobs"].values():
        commands += [step["run"] for step in job["steps"] if "run" in step]
    targets = [command.removeprefix("make ") for command in commands if "make " in command]
    assert targets
    assert set(targets) <= TARGETS


def test_commits_are_checked_by_the_ruff_that_the_project_pins() -> None:
    hooks = content(ROOT / ".pre-commit-config.yaml")
    remote, local = hooks["repos"]
    assert f"ruff=={remote['rev'].removeprefix('v')}\n" in (ROOT / "constraints.txt").read_text()
    assert [hook["id"] for hook in remote["hooks"]] == ["ruff-check", "ruff-format"]
    for hook in local["hooks"]:
        program, script = hook["entry"].split()
        assert program == "python3"
        assert (ROOT / script).is_file()


def test_everything_that_is_installed_is_pinned() -> None:
    pins = [line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().split()]
    pinned = {canonical(name) for name in pins}
    wanted_names = [*PROJECT["dependencies"]]
    for names in PROJECT["optional-dependencies"].values():
        wanted_names += names
    for requirement in wanted_names:
        name = re.split(r"[\[<>=~; ]", requirement)[0]
        assert canonical(name) in pinned, name
    for extra in re.findall(r"'\.\[([a-z,]+)\]'", MAKEFILE)[0].split(","):
        assert extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_points_at_what_exists(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert target in TARGETS, target
    for link in re.findall(r"\]\(([^)#\s]+)\)", text):
        if "://" in link or page.parts[-2] in ("docs", "tutorials", "methods"):
            continue  # the site's own links are checked by its build
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:docs|methods|prunebench|tasks|tests|tools)/[\w/.-]+)`", text):
        if "mine" not in path:
            assert (ROOT / path).exists(), path

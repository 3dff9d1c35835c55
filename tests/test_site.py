"""The site: the committed studies are on it, and what publishes it builds it by `make docs`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STUDIES = sorted(path.parent.name for path in (ROOT / "results").glob("*/cells"))


@pytest.fixture(scope="module")
def studies() -> ModuleType:
    """tools/studies.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("studies", ROOT / "tools" / "studies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["studies"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(studies: ModuleType) -> dict[str, bytes]:
    return dict(studies.files())


def test_every_committed_study_has_its_page_tables_and_figures(files: dict[str, bytes]) -> None:
    for name in STUDIES:
        assert b"Content-Security-Policy" in files[f"results/{name}/leaderboard.html"]
        table = ROOT / "results" / name / "leaderboard.csv"
        assert files[f"results/{name}/leaderboard.csv"] == table.read_bytes()
        assert f"results/{name}/figures/accuracy.png" in files
    assert not [path for path in files if "cells" in path]


def test_the_index_names_them_all_and_every_link_leads_somewhere(
    studies: ModuleType, files: dict[str, bytes]
) -> None:
    text = studies.index()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {f"results/{name}/leaderboard.html" for name in STUDIES} <= set(links)
    for link in links:
        assert link in files or (ROOT / "docs" / link).is_file(), link


def test_pages_are_published_from_what_make_docs_builds() -> None:
    workflow: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())
    steps = workflow["jobs"]["build"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make docs"]
    (upload,) = (step for step in steps if "upload-pages-artifact" in step.get("uses", ""))
    # mkdocs.yml has tags that are no plain YAML
    built = re.search(r"^site_dir: (\S+)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert built is not None
    assert upload["with"]["path"] == built[1]
    deploy = workflow["jobs"]["deploy"]
    assert deploy["needs"] == "build"
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    # whoever opens a pull request publishes nothing
    assert set(workflow[True]) == {"push", "workflow_dispatch"}

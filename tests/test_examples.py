"""The notebooks of examples/ run from their first cell to their last, and are stored as written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SECONDS = 300
"""What one cell may take on a machine that is busy with other tests."""


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "1_prune_a_model",
        "2_add_a_method",
        "3_read_a_study",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    """So that none shows where, or with which numbers, it last ran."""
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs"), cell["source"]
        assert cell.get("execution_count") is None, cell["source"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra dev: make install")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra dev: make install")
    pytest.importorskip("ipykernel", reason="notebooks need the extra dev: make install")
    (tmp_path / "results").symlink_to(ROOT / "results")
    copy = shutil.copy(path, tmp_path)
    notebook = nbformat.read(copy, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources=resources
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "it draws something"

"""The committed studies: every grid runs as it stands after `make install`."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.run.grid import load, stored_differences
from prunebench.run.runner import sweep

GRIDS = sorted(Path(__file__).parents[1].glob("results/*/grid.yaml"))


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.parent.name)
def test_a_committed_grid_runs_as_it_stands(file: Path, tmp_path: Path) -> None:
    grid = load(
        file
    )  # builds every method with its settings, so what one of them needs is installed
    assert grid.folder() == file.parent
    assert stored_differences(file, grid) == []
    first = load(file, [f"out={tmp_path}", "limit=1", "cost=false", "controls=false"])
    first.methods, first.budgets = first.methods[:1], first.budgets[:1]
    assert set(sweep(first).statuses.values()) == {"ok"}

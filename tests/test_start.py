"""Start and end of the program: what is imported for a small sweep, and how the process ends."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from prunebench.border.late import deferred, uncollected

UNNEEDED = ("evaluate", "matplotlib.pyplot", "ray", "scipy.stats", "seaborn", "sklearn")
"""Libraries that a sweep of one cell over a built-in task has no use for."""


def test_a_small_sweep_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    words = ["tasks=scenes", "limit=1", "models=tiny-qwen2.5-vl", "methods=none", "controls=false"]
    command = [sys.executable, "-X", "importtime", "-m", "prunebench.cli", "sweep", *words]
    done = subprocess.run(
        [*command, "cost.enabled=false", f"out={tmp_path / 'study'}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1.000" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "lmms_eval.tasks" in imported
    assert imported.isdisjoint(UNNEEDED)


def test_what_is_to_be_done_at_the_end_is_done() -> None:
    """The process ends without taking libraries apart, and yet nothing is lost."""
    code = (
        "import atexit, sys, torch\n"
        "from prunebench.start import main\n"
        "atexit.register(print, 'behind all')\n"
        "sys.argv[1:] = ['list', 'tasks']\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "scenes" in done.stdout
    assert done.stdout.endswith("behind all\n")
    assert not done.stderr


def test_a_deferred_library_comes_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_library.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with deferred("slow_library"):
        import slow_library as stand_in

        assert not hasattr(stand_in, "__file__")
    assert "slow_library" not in sys.modules
    assert stand_in.value == 3
    library = sys.modules.pop("slow_library")
    assert library is not stand_in


def test_a_library_that_is_there_is_not_deferred() -> None:
    with deferred("pathlib"):
        assert sys.modules["pathlib"].Path is Path
    assert sys.modules["pathlib"].Path is Path


@pytest.mark.parametrize("is_first", [False, True])
def test_collection_goes_on_behind_imports(is_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is there already is not kept from being collected."""
    if is_first:
        monkeypatch.delitem(sys.modules, "torch")
    frozen = gc.get_freeze_count()
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert (gc.get_freeze_count() > frozen) == is_first
    gc.unfreeze()

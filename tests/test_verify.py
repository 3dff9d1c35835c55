"""Verification: our methods agree with vectors of official code; what does not agree is told."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch

import prunebench
from prunebench import INPUT, Keep, Pruner, Stage, VisualTokens, llm, registry
from prunebench.sites import Part
from prunebench.testing.translators import load_translator
from prunebench.testing.vectors import VerifyError
from prunebench.testing.verified import (
    read_verified,
    shown,
    stages_shown,
    status,
    write_verified,
)
from prunebench.testing.verify import Comparison, summary, verify

GOLDEN = Path(__file__).parent / "golden"
TRANSLATORS = Path(__file__).parent / "vectors"
OURS = [name for name in registry.names() if (TRANSLATORS / f"{name}.py").exists()]


def first(_self: Pruner, _tokens: VisualTokens, stage: Stage) -> Keep:
    return Keep(torch.arange(stage.keep))


def sets_of(method: str) -> tuple[str, ...]:
    translator = load_translator(method)
    assert translator is not None
    return translator.sets


def disagreeing(found: list[Comparison]) -> set[str]:
    return {c.field for c in found if not c.agree}


@pytest.mark.parametrize("method", OURS)
def test_agrees_with_official_code(method: str) -> None:
    found = verify(GOLDEN, [method])
    assert [c for c in found if not c.agree] == []
    files = 3 * len(sets_of(method))
    assert summary(found) == {method: (files, files)}
    # who is left, by name or, where rows are all that official code tells, by what became of each
    answers = {"keep", "assignment", "llm_output"}
    assert answers & {c.field.removeprefix("engine ") for c in found}


def test_vectors_reach_what_they_are_there_for() -> None:
    fields = {
        method: {c.field for c in verify(GOLDEN, [method])}
        for method in ("divprune", "fastv", "pyramiddrop")
    }
    assert fields["divprune"] == {"keep", "order"}
    ends = {"engine keep", "engine kv_lengths", "engine llm_output"}
    assert (
        fields["fastv"]
        == {"keep", "order", "scores", "engine scores", "engine position_ids"} | ends
    )
    assert {"stage0.order", "stage2.keep", "engine stage2.keep"} | ends <= fields["pyramiddrop"]


def test_a_wrong_choice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.get("fastv"), "prune", first)
    found = verify(GOLDEN, ["fastv"])
    assert disagreeing(found) == {
        "keep",
        "order",
        "engine keep",
        "engine position_ids",
        "engine llm_output",
    }
    assert summary(found) == {"fastv": (0, 3)}


def test_a_wrong_order_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    method = registry.get("divprune")
    right = method.prune
    monkeypatch.setattr(method, "prune", lambda *given: Keep(right(*given).index.sort().values))
    assert disagreeing(verify(GOLDEN, ["divprune"])) == {"order"}


def test_wrong_positions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.get("fastv"), "default_positions", "compact")
    assert disagreeing(verify(GOLDEN, ["fastv"])) == {"engine position_ids", "engine llm_output"}
    monkeypatch.setattr(registry.get("pyramiddrop"), "default_positions", "original")
    assert "engine llm_output" in disagreeing(verify(GOLDEN, ["pyramiddrop"]))


def test_a_pruner_that_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Keep:
        raise RuntimeError("no survivors today")

    monkeypatch.setattr(registry.get("divprune"), "prune", fails)
    found = verify(GOLDEN, ["divprune"])
    assert [(c.field, c.difference) for c in found] == [
        ("run", "RuntimeError: no survivors today")
    ] * 3


def test_damaged_files_are_told_and_the_others_compared(tmp_path: Path) -> None:
    for number in (1, 2):
        shutil.copy(GOLDEN / f"divprune-{number}.safetensors", tmp_path)
    damaged = tmp_path / "divprune-3.safetensors"
    damaged.write_bytes((GOLDEN / "divprune-3.safetensors").read_bytes()[:50_000])
    found = verify(tmp_path, ["divprune"])
    assert summary(found) == {"divprune": (2, 3)}
    (told,) = [c for c in found if not c.agree]
    assert (told.file, told.field) == ("divprune-3.safetensors", "file")
    assert "cannot be read, it may be truncated" in str(told.difference)


def test_a_foreign_file_is_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"keep": torch.arange(3)}, tmp_path / "divprune-1.safetensors", {"format": "another"})
    (told,) = verify(tmp_path)
    assert "its format is 'another'" in str(told.difference)


def test_a_file_outside_the_package_is_verified_by_its_stem(tmp_path: Path) -> None:
    source = inspect.getfile(registry.get("divprune"))
    shutil.copy(source, tmp_path / "mine.py")
    shutil.copy(GOLDEN / "divprune-1.safetensors", tmp_path / "mine-1.safetensors")
    own = tmp_path / "translators"
    own.mkdir()
    shutil.copy(TRANSLATORS / "divprune.py", own / "mine.py")
    found = verify(tmp_path, [str(tmp_path / "mine.py")], translators=own)
    assert summary(found) == {"mine": (1, 1)}


def test_vectors_without_a_translator_are_told(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "divprune-1.safetensors", tmp_path / "uniform-1.safetensors")
    shutil.copy(GOLDEN / "divprune-1.safetensors", tmp_path)
    found = verify(tmp_path)
    assert summary(found) == {"divprune": (1, 1), "uniform": (0, 1)}
    (told,) = [c for c in found if not c.agree]
    assert (told.file, told.field) == ("uniform-1.safetensors", "translator")
    assert told.difference == "there is no uniform.py that translates its vectors"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def cases(:", "cannot be imported: SyntaxError"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("SETS = ('divprune',)", "has no function cases"),
    ],
)
def test_a_broken_translator_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "divprune.py").write_text(text)
    with pytest.raises(VerifyError, match=message):
        verify(GOLDEN, ["divprune"], translators=tmp_path)


def test_the_checkout_brings_both_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # wherever the command is started
    assert summary(verify(methods=["divprune"])) == {"divprune": (3, 3)}


def test_an_installed_package_says_that_it_brings_no_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    (site / "tests" / "golden").mkdir(parents=True)  # some other package's
    monkeypatch.setattr(prunebench, "__file__", str(site / "prunebench/__init__.py"))
    with pytest.raises(VerifyError, match="brings no vectors; run it in a checkout"):
        verify(methods=["divprune"])
    with pytest.raises(VerifyError, match="brings no translators of vectors; give a folder"):
        verify(GOLDEN, ["divprune"])
    found = verify(GOLDEN, ["divprune"], translators=TRANSLATORS)
    assert summary(found) == {"divprune": (3, 3)}


def test_nothing_to_verify_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="no folder"):
        verify(tmp_path / "absent")
    with pytest.raises(VerifyError, match="no folder"):
        verify(GOLDEN, translators=tmp_path / "absent")
    with pytest.raises(VerifyError, match="has no vectors"):
        verify(tmp_path)
    with pytest.raises(VerifyError, match=r"has no vectors METHOD-i\.safetensors for uniform"):
        verify(GOLDEN, ["uniform"])
    with pytest.raises(registry.RegistryError, match="unknown method"):
        verify(GOLDEN, ["divprun"])


def test_the_record_notices_a_change(tmp_path: Path) -> None:
    path = tmp_path / "verified.json"
    assert status("fastv", path) == "no vectors"
    write_verified(verify(GOLDEN, ["divprune", "fastv"]), path)
    assert status("fastv", path) == status("divprune", path) == "verified: 3 vectors"
    assert status("random", path) == "no vectors"
    record = read_verified(path)
    record["fastv"]["source"] = "another"
    path.write_text(json.dumps(record))
    assert status("fastv", path) == "verified: 3 vectors (before its last change)"
    write_verified(verify(GOLDEN, ["fastv"]), path)
    assert status("fastv", path) == "verified: 3 vectors"
    assert set(read_verified(path)) == {"divprune", "fastv"}


def test_the_installed_record_is_current() -> None:
    for method in OURS:
        files = 3 * len(sets_of(method))
        known = status(method).partition(";")[0]
        assert known.startswith("verified: ")
        assert known.endswith(f"{files} vectors")


def test_stages_that_no_vector_shows_are_not_claimed() -> None:
    class TwoStages(registry.get("divprune")):  # type: ignore[misc]
        def plan(self, *_: object) -> tuple[Stage, ...]:
            return Stage(INPUT, 20), Stage(llm(3), 10), Stage(llm(5), 5)

    assert stages_shown(TwoStages(), [Part.INPUT]) == ([1], 2)
    assert stages_shown(TwoStages(), [Part.INPUT, Part.LLM]) == ([1, 2], 2)
    entry = {"agree": 3, "files": 3, "stages": [[1], 2]}
    assert shown(entry) == "stage 1 of 2, 3 vectors"
    # a vector inside another part than the method plans to be in shows nothing of it
    assert stages_shown(registry.build("divprune"), [Part.LLM]) == ([2], 2)

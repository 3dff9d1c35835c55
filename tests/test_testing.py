"""The author's tools: a good file passes the checks, each broken one fails the check that is meant
for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunebench import Signal, registry
from prunebench.testing import check_file, new_file, tokens

HEAD = '''"""Mine: a method of a test."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunebench import Keep, Pruner, ScorePruner, Signal, Stage, VisualTokens, llm, register

SEEN = {}


@register()
@dataclass(frozen=True)
'''


def failures(path: Path, body: str) -> dict[str, str]:
    path.write_text(HEAD + body)
    return {check.name: check.message for check in check_file(path) if not check.ok}


def pruner(answer: str, before: str = "") -> str:
    return f'''class Mine(Pruner):
    """A method of a test."""

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        count = min(stage.keep, len(tokens))
        {before or "pass"}
        return Keep({answer})
'''


def test_builders_are_plausible_and_repeat() -> None:
    sample = tokens(rows=3, columns=5, tiles=2, seed=4, needs=list(Signal))
    assert len(sample) == 30
    assert sample.last_query_attention.shape == sample.next_query_attention.shape == (4, 30)
    assert (sample.text_attention.sum(-1) < 1).all()
    assert torch.equal(sample.last_query_attention, sample.text_attention[:, -1])
    assert torch.equal(sample.features, tokens(rows=3, columns=5, tiles=2, seed=4).features)
    assert not torch.equal(sample.features, tokens(rows=3, columns=5, tiles=2, seed=5).features)
    with pytest.raises(AttributeError, match="was not asked for"):
        _ = tokens().keys


def test_the_file_to_start_from_passes(tmp_path: Path) -> None:
    path = new_file("my_idea", tmp_path)
    assert len(path.read_text().splitlines()) <= 25
    checks = check_file(path)
    assert [check for check in checks if not check.ok] == []
    assert len(checks) == 14


@pytest.mark.parametrize("name", ["two words", "class", "_hidden", "Loud", "3d", ""])
def test_new_refuses_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(registry.RegistryError, match="cannot name a method"):
        new_file(name, tmp_path)


def test_new_refuses_to_overwrite(tmp_path: Path) -> None:
    with pytest.raises(registry.RegistryError, match="is built in"):
        new_file("fastv", tmp_path)
    new_file("mine", tmp_path).write_text("precious")
    with pytest.raises(registry.RegistryError, match="exists"):
        new_file("mine", tmp_path)
    assert (tmp_path / "mine.py").read_text() == "precious"
    with pytest.raises(registry.RegistryError, match="cannot be written"):
        new_file("mine", tmp_path / "absent")


@pytest.mark.parametrize(
    ("body", "check", "message"),
    [
        (pruner("torch.zeros(count, dtype=torch.int64)"), "count and index", "more than once"),
        (pruner("torch.arange(count) + 1"), "keeps all at 1.0", "must lie in"),
        (
            pruner("torch.arange(min(count + 1, len(tokens)))"),
            "count and index",
            "the stage asks for",
        ),
        (pruner("torch.arange(max(1, count - 1))"), "count and index", "the stage asks for"),
        (pruner("torch.arange(count).float()"), "count and index", "must be int64"),
        (
            pruner("torch.arange(count), tokens.features[:1]"),
            "count and index",
            "they must be [K, D]",
        ),
        (
            pruner("torch.arange(count), tokens.features[:count].float()"),
            "bfloat16",
            "the tokens' are torch.bfloat16",
        ),
        (
            pruner("tokens.features.sum(1).argsort()[:count]", "tokens.features.mul_(2)"),
            "inputs untouched",
            "clone it",
        ),
        (
            pruner("tokens.keys.sum((0, 2)).argsort()[:count]"),
            "declared signals",
            "keys was not asked for",
        ),
        (pruner("torch.randperm(len(tokens))[:count]"), "same twice", "seed a generator"),
        (
            pruner("torch.as_tensor(tokens.features.numpy()[:, 0]).argsort()[:count]"),
            "bfloat16",
            "TypeError",
        ),
        (
            pruner("torch.as_tensor(tokens.features.numpy()[:, 0]).argsort()[:count]"),
            "another device",
            "numpy takes tensors of the CPU alone",
        ),
        (
            pruner("(tokens.features[:, 0] * torch.rand(len(tokens))).argsort()[:count]"),
            "another device",
            "mul was given tensors of two devices",
        ),
        (
            pruner("torch.arange(count)").replace('    """A method of a test."""\n', ""),
            "card",
            "no docstring",
        ),
    ],
)
def test_a_broken_file_fails_its_check(tmp_path: Path, body: str, check: str, message: str) -> None:
    failed = failures(tmp_path / "mine.py", body)
    assert message in failed[check]


@pytest.mark.parametrize(
    "store",
    [
        "SEEN.setdefault(len(tokens), tokens.features[:, 0])",
        "self.__class__.seen.setdefault(len(tokens), tokens.features[:, 0])",
        "self.own.setdefault(len(tokens), tokens.features[:, 0])",
    ],
)
def test_memory_of_the_first_image_is_found(tmp_path: Path, store: str) -> None:
    fields = "    seen = {}\n    own: dict = field(default_factory=dict)\n"
    body = pruner("score.argsort()[:count]", f"score = {store}").replace(
        "    def prune", fields + "\n    def prune"
    )
    failed = failures(tmp_path / "mine.py", body)
    assert "after another one" in failed["no memory"]


def test_an_overspending_plan_is_found(tmp_path: Path) -> None:
    body = pruner("torch.arange(count)") + (
        "\n    def plan(self, budget, available, layers):\n"
        "        return (Stage(llm(before=2), max(1, round(budget.tokens(available)))),)\n"
    )
    failed = failures(tmp_path / "mine.py", body)
    assert "the plan spends" in failed["budget"]


def test_settings_must_be_frozen(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text((HEAD + pruner("torch.arange(count)")).replace("@dataclass(frozen=True)\n", ""))
    failed = {check.name: check.message for check in check_file(path) if not check.ok}
    assert "@dataclass(frozen=True)" in failed["settings"]


def test_files_that_cannot_be_loaded_are_refused(tmp_path: Path) -> None:
    cases = {
        "absent.py": None,
        "notes.txt": "text",
        "broken.py": "def f(:",
        "empty.py": "",
        "fastv.py": HEAD,
    }
    for name, text in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(registry.RegistryError, match=name):
            check_file(tmp_path / name)


def test_a_dynamic_method_may_keep_fewer(tmp_path: Path) -> None:
    body = pruner("torch.arange(max(1, count // 2))").replace(
        "    def prune", "    dynamic = True\n\n    def prune"
    )
    assert failures(tmp_path / "mine.py", body) == {}

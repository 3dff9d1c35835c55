"""Cell identity: whatever decides a method's answers makes its cells other cells, and nothing else
does.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench import registry
from prunebench.cli import main
from prunebench.identity import folder_digest, identity, source_digest, weights_digest
from prunebench.models.llava_next import LlavaNext
from prunebench.pruner import Facts, Pruner
from prunebench.run import provenance

SCORER = '''"""A scorer."""
from dataclasses import dataclass

from prunebench import ScorePruner, register


@register()
@dataclass(frozen=True)
class Scorer(ScorePruner):
    """By the norm."""

    def score(self, tokens):
        return tokens.features.norm(dim=-1)
'''

HOLDER = '''"""A method that holds another, builds on a parent, and imports a helper."""
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunebench import Keep, Trained, build, register
from sign_helper import SIGN

HERE = Path(__file__).parent


@register()
@dataclass(frozen=True)
class Holder(Trained):
    """Ranks as the held method does."""

    scorer: str = str(HERE / "scorer.py")
    held: Any = field(default=None, repr=False, compare=False)

    def prepared(self, facts):
        return Trained.prepared(replace(self, held=build(self.scorer)), facts)

    def prune(self, tokens, stage):
        scores = SIGN * self.held.score(tokens) * self.module.weight.detach()[0, 0]
        return Keep(torch.sort(scores.float(), descending=True, stable=True).indices[: stage.keep])

    @classmethod
    def sizes(cls, facts):
        return {"channels": 1}

    @classmethod
    def build(cls, sizes):
        return nn.Linear(1, 1)

    def loss(self, example):
        raise NotImplementedError
'''

OPTIONS = ["limit=1", "budgets=0.5", "controls=false", "cost=false"]


def write(
    folder: Path, *, sign: int = 1, score: str = "tokens.features.norm(dim=-1)", weight: float = 1.0
) -> Path:
    """A method of a user's own that stands on a helper, on another method and on weights."""
    from safetensors.torch import save_file

    weights = folder / "weights"
    weights.mkdir(exist_ok=True, parents=True)
    (folder / "scorer.py").write_text(SCORER.replace("tokens.features.norm(dim=-1)", score))
    (folder / "sign_helper.py").write_text(f"SIGN = {sign}\n")
    (folder / "holder.py").write_text(HOLDER)
    (weights / "config.json").write_text(json.dumps({"sizes": {"channels": 1}}))
    save_file(
        {"weight": torch.full((1, 1), weight), "bias": torch.zeros(1)},
        weights / "model.safetensors",
    )
    return folder / "holder.py"


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost more than a small sweep."""
    monkeypatch.setattr("prunebench.report.figures.draw", lambda *_, **__: [])


def test_a_finished_study_is_asked_again_when_what_it_stands_on_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(
        tmp_path
    )  # undone at the end; the method's own folder comes behind all others
    file, out = write(tmp_path), tmp_path / "study"

    def done_before() -> str:
        (tmp_path / "grid.yaml").write_text(
            f"methods: [{{name: {file}, weights: {tmp_path / 'weights'}}}]\n"
        )
        assert main(["sweep", str(tmp_path / "grid.yaml"), *OPTIONS, f"out={out}"]) == 0
        err = capsys.readouterr().err
        return (
            next(line for line in err.splitlines() if "done before" in line)
            .partition(",")[2]
            .split(" of them")[0]
            .strip()
        )

    def kept() -> str:
        (cell,) = (out / "cells").iterdir()
        facts = json.loads((cell / "cell.json").read_text())
        assert facts["status"] == "ok", facts["reason"]
        return str(facts["fingerprint"])

    assert (done_before(), done_before()) == ("0", "1")
    prints = [kept()]
    for change in ({"sign": -1}, {"score": "-tokens.features.norm(dim=-1)"}, {"weight": -1.0}):
        write(tmp_path, **change)
        assert done_before() == "0", change
        prints.append(kept())
    write(tmp_path)
    assert done_before() == "0"
    assert kept() == prints[0], "what was there at first is the same cell again"
    assert len(set(prints)) == 4


def test_the_code_of_a_parent_and_of_a_sibling_counts() -> None:
    plus = registry.get("glimpseprune_plus")
    parent, own = (
        Path(registry.get(name).__module__.replace(".", "/"))
        for name in ("glimpseprune", "glimpseprune_plus")
    )
    assert parent != own
    before = source_digest(plus)
    from prunebench import identity as module

    noted = module._LOADED[registry.get("glimpseprune").__module__]
    try:
        module._LOADED[registry.get("glimpseprune").__module__] = {
            name: text + b"#" for name, text in noted.items()
        }
        assert source_digest(plus) != before
    finally:
        module._LOADED[registry.get("glimpseprune").__module__] = noted
    assert source_digest(plus) == before


def test_settings_weights_and_adapters_count(tmp_path: Path) -> None:
    assert identity(registry.build("fastv")) == identity(registry.build("fastv", {"layer": 2}))
    assert identity(registry.build("fastv")) != identity(registry.build("fastv", {"layer": 3}))
    facts = Facts("none", 6, 64, 4, 1e-6, 2, 32, 1)
    prepared: Any = registry.build("glimpseprune", {"weights": "random"}).prepared(facts)
    before = identity(prepared)
    with torch.no_grad():
        next(prepared.module.parameters()).add_(1)
    assert identity(prepared) != before
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a").write_text("x")
    first = folder_digest(tmp_path / "adapter")
    (tmp_path / "adapter" / "a").write_text("y")
    assert folder_digest(tmp_path / "adapter") != first


def test_weights_of_any_shape_and_type_are_hashed() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.6))
            self.thin = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("empty", torch.empty(0))

    odd = Odd()
    before = weights_digest(odd)
    with torch.no_grad():
        odd.scale.add_(1)
    assert weights_digest(odd) != before


def test_every_file_of_the_package_either_counts_or_does_not() -> None:
    package = Path(prunebench.__file__).parent
    named = {*provenance.COUNTED, *provenance.UNCOUNTED}
    assert not set(provenance.COUNTED) & set(provenance.UNCOUNTED)
    for parts in (provenance.COUNTED, provenance.UNCOUNTED):
        assert list(parts) == sorted(parts), "sorted, so that two people can add to it"
    for path in package.rglob("*.py"):
        place = path.relative_to(package)
        owners = [part for part in (str(place), *map(str, place.parents)) if part in named]
        assert len(owners) == 1, f"{place} must be listed once in COUNTED or UNCOUNTED"
    assert all((package / part).exists() for part in named - {"methods", "tasks"})


def test_a_method_is_prepared_once_a_cell_and_a_layout_made_once_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(owner: type, name: str) -> None:
        stock = getattr(owner, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return stock(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(Pruner, "prepared")
    counted(LlavaNext, "layouts")
    options = [
        "model=tiny-llava-next",
        "methods=fastervlm,random,divprune",
        "budgets=0.5,0.25",
        "limit=4",
        "batch=1",
        "controls=false",
    ]
    assert main(["sweep", *options, "cost=false", f"out={tmp_path / 'study'}"]) == 0
    # six cells, and the method that prunes nothing, which stands in for those that work on pixels;
    # four samples, and the picture on which the processor is tried when the model is loaded
    assert calls == {"prepared": 6 + 1, "layouts": 4 + 1}

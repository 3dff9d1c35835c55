"""VisionSelector and IDPruner: scores and picks by hand, and what serves without weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import (
    INPUT,
    Example,
    Layout,
    Pruner,
    Signal,
    Stage,
    Tile,
    VisualTokens,
    registry,
)
from prunebench.testing.samples import facts, tokens


def scorer() -> Any:
    return registry.build("visionselector", {"weights": "random"}).prepared(facts())


def test_a_score_is_the_mean_product_with_all_keys() -> None:
    pruner, sample = scorer(), tokens(rows=3, columns=5)
    query = pruner.module.q_proj(sample.features)
    key = pruner.module.k_proj(sample.features)
    expected = (query @ key.T).mean(1) / key.shape[1] ** 0.5
    scores = pruner.explain(sample, Stage(INPUT, 4))["scores"]
    assert torch.allclose(scores, expected, atol=1e-6)


def test_newlines_neither_count_nor_stay() -> None:
    pruner, sample = scorer(), tokens(rows=3, columns=4, newlines=True)
    scores = pruner.explain(sample, Stage(INPUT, 4))["scores"]
    patches = ~sample.newline
    alone = pruner.module(sample.features[patches])
    assert torch.allclose(scores[patches], alone)
    for count in (1, 12, 14):
        index = pruner.prune(sample, Stage(INPUT, count)).index
        assert len(set(index.tolist())) == count
        assert int(sample.newline[index].sum()) == max(0, count - 12)


def test_training_raises_the_scores_of_the_evidence() -> None:
    pruner, sample = scorer(), tokens(rows=4, columns=4)
    target = (sample.features[:, 0] > 0.5).float()
    module = pruner.module.requires_grad_(True)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss, figures = pruner.loss(Example(sample, target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(figures["evidence_loss"])
    module.requires_grad_(False)
    assert losses[-1] < losses[0] / 2


def picks(scores: list[float], degrees: list[float], count: int, **settings: Any) -> list[int]:
    angle = torch.deg2rad(torch.tensor(degrees))
    layout = Layout((Tile(1, len(scores)),))
    sample = VisualTokens(
        torch.stack([angle.cos(), angle.sin()], 1),
        layout,
        torch.arange(len(scores)),
        signals={Signal.CLS_ATTENTION: torch.tensor(scores)[None, None]},
    )
    pruner: Pruner = registry.build("idpruner", {"weights": "none", **settings})
    return pruner.prune(sample, Stage(INPUT, count)).index.tolist()


def test_importance_less_likeness() -> None:
    scores, degrees = [1.0, 0.9, 0.5, 0.0], [0.0, 0, 90, 180]
    # after 0: 1 is 0.9 - 1, 2 is 0.5 - 0 and 3 is 0 + 1
    assert picks(scores, degrees, 4) == [0, 3, 2, 1]
    assert picks(scores, degrees, 3, balance=1.0) == [0, 1, 2]
    # two at once: 0 and 1, then 3 before 2
    assert picks(scores, degrees, 4, together=2) == [0, 1, 3, 2]
    assert picks(scores, degrees, 9) == [0, 3, 2, 1]


def test_attention_serves_without_a_scorer() -> None:
    bare = registry.build("idpruner")
    assert bare.needs == {Signal.CLS_ATTENTION}
    ready = registry.build("idpruner", {"weights": "random"}).prepared(facts())
    assert ready.needs == frozenset()
    with pytest.raises(ValueError, match="has no weights yet"):
        registry.build("visionselector").prune(tokens(), Stage(INPUT, 2))

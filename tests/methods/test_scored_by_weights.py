"""ReDiPrune, VisionSelector and IDPruner: their scores and greedy choices by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from prunebench import INPUT, Example, Keep, Signal, Stage, VisualTokens, greedy_marginal, registry
from prunebench.testing import tokens
from prunebench.testing.samples import facts

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def kept(name: str, sample: VisualTokens, count: int, **settings: Any) -> Keep:
    pruner = registry.build(name, settings).prepared(facts())
    return pruner.prune(sample, Stage(INPUT, count))


def test_what_is_like_the_picks_comes_late() -> None:
    unit = torch.tensor([EAST, EAST, NORTH])
    gains = torch.tensor([0.5, 0.4, 0.1])
    # after 0, 1 is worth .4 - 1 and 2 is worth .1 - 0
    assert greedy_marginal(unit @ unit.T, gains, 3).tolist() == [0, 2, 1]
    # two a round: the second pick of a round does not see the first
    assert greedy_marginal(unit @ unit.T, gains, 3, at_once=2).tolist() == [0, 1, 2]


def test_the_end_of_the_text_asks_most() -> None:
    needs = registry.get("rediprune").needs
    words = torch.tensor([NORTH, EAST])
    sample = replace(tokens(rows=1, columns=2), features=torch.tensor([NORTH, EAST]))
    signals = {
        Signal.ENCODER_FEATURES: torch.tensor([[NORTH, EAST]]),
        Signal.TEXT_FEATURES: words,
        Signal.TEXT_PLACES: torch.tensor([5, 6]),
        Signal.VISUAL_PLACES: torch.tensor([3, 4]),
    }
    assert set(signals) == set(needs)
    sample = replace(sample, signals=signals)
    assert kept("rediprune", sample, 1).index.tolist() == [1]
    # only text behind the picture counts
    before = {**signals, Signal.TEXT_PLACES: torch.tensor([5, 2])}
    assert kept("rediprune", replace(sample, signals=before), 1).index.tolist() == [0]


def test_few_candidates_are_the_most_relevant() -> None:
    pruner = registry.build("rediprune", {"tau": 0.5})
    relevance = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4])
    assert pruner.candidates(relevance, 1).tolist() == [0, 2, 4]
    assert pruner.candidates(relevance, 4).tolist() == [0, 2, 4, 6]
    assert len(pruner.candidates(relevance, 5)) == 8


def test_the_mean_over_keys_is_taken_first() -> None:
    pruner = registry.build("visionselector", {"weights": "random"}).prepared(facts())
    sample = tokens()
    module, features = pruner.module, sample.features
    keys, queries = module.k_proj(features), module.q_proj(features)
    expected = (queries @ keys.T / keys.shape[1] ** 0.5).mean(1)
    assert torch.allclose(pruner.score(sample), expected, atol=1e-6)


def test_newlines_score_last_and_count_nowhere() -> None:
    pruner = registry.build("visionselector", {"weights": "random"}).prepared(facts())
    sample = tokens(newlines=True)
    other = replace(sample, features=sample.features.clone())
    other.features[sample.newline] += 10
    patches = ~sample.newline
    assert torch.allclose(pruner.score(sample)[patches], pruner.score(other)[patches])
    keep = pruner.prune(sample, Stage(INPUT, int(patches.sum())))
    assert not bool(sample.newline[keep.index].any())


def test_a_scorer_learns_where_the_evidence_is() -> None:
    sample = tokens()
    pruner = registry.build("visionselector", {"weights": "random"}).prepared(facts())
    module = type(pruner).build(pruner.sizes(facts()))
    pruner = replace(pruner, module=module)
    target = (sample.features[:, 0] > 1).float()
    example = Example(sample, target)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    first, figures = pruner.loss(example)
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = pruner.loss(example)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * float(first.detach())
    assert figures["uniform_loss"] == pytest.approx(-float(target.mean().log()))


def test_attention_stands_for_a_scorer_that_there_is_not() -> None:
    attention = torch.tensor([0.5, 0.4, 0.1])
    sample = replace(
        tokens(rows=1, columns=3),
        features=torch.tensor([EAST, EAST, NORTH]),
        signals={Signal.CLS_ATTENTION: attention[None, None]},
    )
    assert kept("idpruner", sample, 2).index.tolist() == [0, 2]
    assert kept("idpruner", sample, 2, balance=1.0).index.tolist() == [0, 1]

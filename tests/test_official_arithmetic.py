"""What a method selects is what its official arithmetic does, on random tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from official_arithmetic import OFFICIAL

from prunebench import Budget
from prunebench.registry import build
from prunebench.testing.candidate import sample
from prunebench.testing.samples import facts

KEEP = 36


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_same_tokens_stay(name: str, seed: int) -> None:
    official = OFFICIAL[name]
    pruner = build(name, official.settings).prepared(facts(dim=64))
    tokens = sample(pruner, rows=10, columns=14, dim=64, seed=seed)
    budget = None if pruner.dynamic else Budget(KEEP)
    stage = pruner.plan(budget, len(tokens), 28)[0]
    kept = set(pruner.prune(replace(tokens, site=stage.site), stage).index.tolist())
    expected = set(official.select(tokens, stage.keep).tolist())
    assert len(expected) == len(kept)
    if official.is_exact:
        assert kept == expected
    else:
        # a random decomposition of random features: better than chance is what there is to ask for
        assert len(kept & expected) > 2 * KEEP * len(kept) / len(tokens)

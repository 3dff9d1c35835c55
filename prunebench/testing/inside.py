"""Inside: the check that a method works in a stock model and leaves it as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.border.guard import Guard
from prunebench.border.text import one_line
from prunebench.budget import Budget, BudgetError
from prunebench.pruner import Pruner, Unsupported
from prunebench.signals import CLIP, GIVEN
from prunebench.sites import PIXELS
from prunebench.testing.candidate import Candidate, Fault, expect
from prunebench.testing.samples import QUESTION, random_model, tokens

ROWS, COLUMNS = 4, 6
"""Visual tokens of the image that the model is shown."""

DEPTHS = (4, 8, 16, 32, 48, 64, 80)
"""Layers of the models that are tried, the smallest first."""


def in_a_model(candidate: Candidate) -> str:
    """A stock Qwen2.5-VL with random weights answers with as many tokens as planned."""
    pruner = candidate.bare
    if pruner.site() == PIXELS:
        return "before the model: the runner scales the image"
    from prunebench.engine.session import prune

    budget, layers = _within_reach(pruner, ROWS * COLUMNS)
    model, inputs = random_model(rows=ROWS, columns=COLUMNS, layers=layers)
    # one of its own: that of the process does not look into this model
    guard = Guard(model)
    try:
        with prune(model, pruner, budget=budget, **_of_caller(pruner)) as trace:
            # min_new_tokens: random weights may choose the end mark at once
            model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    except Unsupported as error:
        return f"not on Qwen2.5-VL: {error}"
    finally:
        changes = guard.changes(type(pruner).__module__)
        guard.restore()
    listed = one_line(", ".join(changes), 200)
    expect(not changes, f"changes {listed}: a method leaves no trace behind")
    sample = trace.samples[0]
    for stage in sample.stages:
        kept = len(sample.kept[stage.site])
        planned = min(stage.keep, sample.available)
        as_planned = kept <= stage.keep if pruner.dynamic else kept == planned
        expect(
            as_planned,
            f"{stage.site}: {kept} tokens alive behind it, planned {stage.keep}",
        )
    spent = f"{sample.spent():g} of {sample.available} tokens a layer"
    return f"Qwen2.5-VL of {layers} layers: {spent}"


class _Words:
    """A processor that decodes whatever it is given to words of the question."""

    @property
    def tokenizer(self) -> _Words:
        return self

    def decode(self, ids: Sequence[int]) -> str:
        words = QUESTION.split()
        return words[ids[0] % len(words)]


def _of_caller(pruner: Pruner) -> dict[str, Any]:
    """What the caller of `prune` gives a method that reads such things."""
    if not pruner.needs & (GIVEN | CLIP):
        return {}
    sample = tokens(rows=ROWS, columns=COLUMNS, needs=GIVEN)
    return {
        "questions": [QUESTION],
        "pictures": [sample.pictures],
        "masks": [sample.masks],
        "processor": _Words(),
    }


def _within_reach(pruner: Pruner, available: int) -> tuple[Budget, int]:
    """Half of the tokens, and the smallest number of layers in which a method meets that; half of
    the cache for methods that prune late.
    """
    for budget in (Budget(0.5), Budget(0.5, "kv")):
        for layers in DEPTHS:
            try:
                pruner.plan(budget, available, layers)
            except BudgetError:
                continue
            return budget, layers
    raise Fault("budget 0.5 is out of reach in models of up to 80 layers, and kv:0.5, too")

"""Gemma 4: what no other family has, a decoder that cuts its own output, two kinds of sight, layers
that share keys.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import families
import pytest
import torch
from conftest import picture
from families import Miniature, gemma4
from oracle import logits
from test_equivalence import PLANS, Draw, dead_columns, run

from prunebench import INPUT, Stage, Unsupported, llm, prune
from prunebench.models import family_of


@cache
def variant(**text: Any) -> Miniature:
    """The miniature with another text model."""
    monkey, stock = pytest.MonkeyPatch(), gemma4.build
    monkey.setattr(gemma4, "build", lambda: stock(**text))
    try:
        return families.build("gemma4")
    finally:
        monkey.undo()


def batch(miniature: Miniature) -> dict[str, Any]:
    return miniature.inputs(
        ([picture(112, 84)], "color of 5"),
        ([picture(84, 112, 1), picture(56, 84, 2)], "digit on red square"),
    )


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize(
    "plan", [pytest.param(plan, marks=[pytest.mark.slow] * (plan != "llm:2")) for plan in PLANS]
)
@pytest.mark.parametrize("sight", ["vision", None])
def test_a_window_shorter_than_the_prompt(sight: str | None, plan: str, positions: Any) -> None:
    """Where positions see each other in windowed layers alone, or nowhere."""
    miniature = variant(sliding_window=24, use_bidirectional_attention=sight)
    inputs, model = batch(miniature), miniature.model
    tokens, got, trace = run(model, inputs, Draw(), plan=PLANS[plan], positions=positions)
    dead = dead_columns(model, inputs, trace)
    want = logits(model, inputs, tokens, dead, positions == "compact")
    torch.testing.assert_close(got, want, atol=5e-4, rtol=2e-4)


@pytest.mark.parametrize("plan", ["input", "llm:2"])
def test_logits_are_those_that_are_asked_for(plan: str) -> None:
    """The model cuts no output of the decoder that is shorter than the prompt."""
    miniature = variant()
    inputs, model = batch(miniature), miniature.model
    width = inputs["input_ids"].shape[1]
    with torch.no_grad(), prune(model, Draw(), plan=PLANS[plan]) as trace:
        last = model(**inputs, logits_to_keep=1).logits
        every = model(**inputs).logits
        two = model(**inputs, logits_to_keep=torch.tensor([width - 2, width - 1])).logits
    assert last.shape[1] == 1
    sample = trace.samples[1]
    assert every.shape[1] == sample.text + PLANS[plan][-1].keep
    assert torch.equal(every[:, -2:], two)
    torch.testing.assert_close(last, every[:, -1:])


@pytest.mark.parametrize(
    "text", [{"num_kv_shared_layers": 2}, {"hidden_size_per_layer_input": 8}], ids=str
)
def test_layers_that_read_the_keys_of_others_are_refused(text: dict[str, int]) -> None:
    miniature = gemma4.build(**text)
    inputs = miniature.inputs(([picture(112, 84)], "color of 5"))
    with (
        pytest.raises(Unsupported, match=r"\(E2B, E4B\) cannot be pruned layer by layer"),
        prune(miniature.model, Draw(), plan=(Stage(INPUT, 5), Stage(llm(2), 3))),
    ):
        miniature.model.generate(**inputs, max_new_tokens=1)


def test_positions_see_each_other_where_the_checkpoint_says_so() -> None:
    family = family_of(variant().model)
    assert family.mutual(variant().model) == {gemma4.SLIDING}
    assert (
        family.mutual(variant(use_bidirectional_attention=None, sliding_window=24).model) == set()
    )

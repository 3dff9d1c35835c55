"""Steps: what the engine leaves in a model while an answer goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import miniature
from test_equivalence import PROMPTS

from prunebench import prune

STEPS = 5


@pytest.fixture(scope="module")
def model() -> Any:
    return miniature()


def hooked_layers(model: Any) -> list[int]:
    layers = model.get_decoder().layers
    return [number for number, layer in enumerate(layers) if layer._forward_pre_hooks]


@pytest.mark.parametrize(("method", "first"), [("none", 6), ("fastv", 6), ("pyramiddrop", 1)])
def test_steps_go_past_no_more_than_they_need(
    model: Any, inputs_of: Any, method: str, first: int
) -> None:
    """A model of six layers: only layers behind the first compact stage are hooked, and the
    attention kernel is the model's own again.
    """
    looks: list[tuple[str, list[int]]] = []

    def look(_ids: Any, scores: Any) -> Any:
        looks.append((model.get_decoder().config._attn_implementation, hooked_layers(model)))
        return scores

    inputs = PROMPTS["one image"](inputs_of)
    with prune(model, method, 1.0 if method == "none" else 0.5):
        model.generate(**inputs, max_new_tokens=STEPS, logits_processor=[look])
    assert looks == [("sdpa", list(range(first, 6)))] * STEPS
    assert hooked_layers(model) == []


def test_rotary_tables_of_all_stages_are_made_in_one_go(
    model: Any, inputs_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotary = model.get_decoder().rotary_emb
    lengths: list[int] = []

    def counting(hidden: Any, position_ids: Any) -> Any:
        lengths.append(position_ids.shape[-1])
        return stock(hidden, position_ids)

    stock = rotary.forward
    monkeypatch.setattr(rotary, "forward", counting)
    inputs = PROMPTS["one image"](inputs_of)
    with prune(model, "pyramiddrop", 0.5) as trace:
        model.generate(**inputs, max_new_tokens=STEPS)
    stages = len(trace.samples[0].kept)
    assert stages == 3
    prefill, steps = lengths[: stages + 1], lengths[stages + 1 :]
    assert min(prefill) > 1
    assert steps == [1] * (STEPS - 1)


def test_logits_of_steps_are_judged_together(
    model: Any, inputs_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read back from a step, so that a device is not waited for."""
    reads = 0
    stock = torch.Tensor.item

    def counting(tensor: Any) -> Any:
        nonlocal reads
        reads += 1
        return stock(tensor)

    inputs = PROMPTS["one image"](inputs_of)
    counts = []
    for tokens in (2, 12):
        monkeypatch.setattr(torch.Tensor, "item", counting)
        reads = 0
        with prune(model, "none"):
            model.generate(**inputs, max_new_tokens=tokens)
        monkeypatch.undo()
        counts.append(reads)
    assert counts[0] == counts[1]

"""Dropping tokens equals hiding them: the engine against an oracle that never slices, at every
decode step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import picture
from oracle import logits
from torch import Tensor

from prunebench import INPUT, Keep, Pruner, Site, Stage, VisualTokens, llm, prune
from prunebench.models import family_of

STEPS = 5


@dataclass(frozen=True)
class Draw(Pruner):
    """Keeps a draw that depends on the sample's seed and the stage."""

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        generator = torch.Generator().manual_seed(tokens.seed + stage.site.layer)
        return Keep(torch.randperm(len(tokens), generator=generator)[: stage.keep])


PLANS: dict[str, tuple[Stage, ...]] = {
    "input": (Stage(INPUT, 7),),
    "llm:1": (Stage(llm(1), 7),),
    "llm:2": (Stage(llm(2), 5),),
    "three stages": (Stage(llm(1), 9), Stage(llm(3), 6), Stage(llm(5), 2)),
    "input and llm": (Stage(INPUT, 9), Stage(llm(2), 4)),
}

PROMPTS: dict[str, Callable[..., Any]] = {
    "one image": lambda build: build(([picture(112, 84)], "color of 5")),
    "two images": lambda build: build(([picture(112, 84), picture(84, 56, 1)], "color of 5")),
    "padded batch": lambda build: build(
        ([picture(112, 84)], "color of 5"),
        ([picture(84, 112, 1), picture(56, 84, 2)], "digit on red square"),
    ),
    "video": lambda build: build(([], "color of 5"), video=[picture(112, 84, i) for i in range(4)]),
}


def run(
    model: Any, inputs: dict[str, Any], pruner: Pruner, **options: Any
) -> tuple[Tensor, Tensor, Any]:
    """The tokens [B, T], their logits [B, T, V] and the trace of one pruned generation."""
    with prune(model, pruner, **options) as trace:
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, dim=1), trace


def dead_columns(model: Any, inputs: dict[str, Any], trace: Any) -> list[Tensor]:
    """Per layer [B, S]: visual positions that no longer live there, from the trace's indices."""
    visual = family_of(model).visual(model, inputs["input_ids"])
    dead = [torch.zeros_like(visual) for _ in family_of(model).layers(model)]
    for row, sample in enumerate(trace.samples):
        places = visual[row].nonzero()[:, 0]
        for site, kept in sample.kept.items():
            gone = torch.ones(len(places), dtype=torch.bool)
            gone[kept] = False
            for layer in range(site.layer, len(dead)):
                dead[layer][row, places[gone]] = True
    return dead


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("plan", PLANS)
def test_dropping_equals_hiding(
    model: Any, inputs_of: Any, plan: str, prompt: str, positions: Any
) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    tokens, got, trace = run(model, inputs, Draw(), plan=PLANS[plan], positions=positions)
    want = logits(model, inputs, tokens, dead_columns(model, inputs, trace), positions == "compact")
    torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("prompt", ["one image", "padded batch"])
def test_eager_is_served_too(eager_model: Any, model: Any, inputs_of: Any, prompt: str) -> None:
    inputs = PROMPTS[prompt](inputs_of)
    _, eager, seen = run(eager_model, inputs, Draw(), plan=PLANS["three stages"])
    _, sdpa, trace = run(model, inputs, Draw(), plan=PLANS["three stages"])
    torch.testing.assert_close(eager, sdpa, atol=2e-4, rtol=1e-4)
    assert [s.kept[llm(5)].tolist() for s in seen.samples] == [
        s.kept[llm(5)].tolist() for s in trace.samples
    ]


def test_the_oracle_can_tell(model: Any, inputs_of: Any) -> None:
    """Hiding one other token changes the logits by far more than the tolerance."""
    inputs = PROMPTS["one image"](inputs_of)
    tokens, got, trace = run(model, inputs, Draw(), plan=PLANS["llm:2"])
    dead = dead_columns(model, inputs, trace)
    for mask in dead[2:]:
        row = mask[0].nonzero()[0, 0]
        mask[0, row] = False
    assert (logits(model, inputs, tokens, dead) - got).abs().max() > 1e-2


def test_batch_equals_one_by_one(model: Any, inputs_of: Any) -> None:
    prompts = [([picture(112, 84)], "color of 5"), ([picture(84, 112, 1)], "digit on red square")]
    plan = PLANS["input and llm"]
    _, together, both = run(model, inputs_of(*prompts), Draw(), plan=plan, seeds=[3, 4])
    for row, prompt in enumerate(prompts):
        _, alone, trace = run(model, inputs_of(prompt), Draw(), plan=plan, seeds=[3 + row])
        torch.testing.assert_close(together[row], alone[0], atol=2e-4, rtol=1e-4)
        for site, kept in trace.samples[0].kept.items():
            assert both.samples[row].kept[site].tolist() == kept.tolist()


@dataclass(frozen=True)
class Blend(Pruner):
    """Keeps every second token and gives it the mean of itself and its neighbour, handed over in
    reverse order.
    """

    where: str = "llm:2"

    def site(self) -> Site:
        return Site.parse(self.where)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        index = torch.arange(0, len(tokens) - 1, 2)[: stage.keep].flip(0)
        return Keep(index, (tokens.features[index] + tokens.features[index + 1]) / 2)


@pytest.mark.parametrize("where", ["input", "llm:2"])
def test_the_rows_that_enter_are_the_rows_the_pruner_named(
    model: Any, inputs_of: Any, where: str
) -> None:
    """Chosen rows in sequence order, merged values in their places, text rows untouched and in
    order.
    """
    inputs = inputs_of(([picture(112, 84)], "color of 5"))
    layer = Site.parse(where).layer
    entered: list[Tensor] = []
    door = model.get_decoder().layers[layer].input_layernorm
    handle = door.register_forward_pre_hook(
        lambda _, args: entered.append(args[0].detach().clone())
    )
    with torch.no_grad():
        model(**inputs)
        with prune(model, Blend(where), plan=(Stage(Site.parse(where), 6),)):
            model(**inputs)
    handle.remove()
    full, pruned = entered[0][0], entered[1][0]
    visual = family_of(model).visual(model, inputs["input_ids"])[0]
    places = visual.nonzero()[:, 0]
    expected = []
    for place in range(len(visual)):
        if not visual[place]:
            expected.append(full[place])
        elif (ordinal := int((places == place).nonzero())) in range(0, 12, 2):
            expected.append((full[place] + full[places[ordinal + 1]]) / 2)
    torch.testing.assert_close(pruned, torch.stack(expected), atol=1e-6, rtol=1e-6)


def test_compacted_caches_hold_survivors_only(model: Any, inputs_of: Any) -> None:
    """A compacting stage removes the dropped from earlier layers' caches too."""
    inputs = PROMPTS["padded batch"](inputs_of)
    with prune(model, Draw(), plan=(Stage(llm(3), 6, compact=True),)) as trace:
        out = model.generate(
            **inputs, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True
        )
    lengths = {layer.get_seq_length() for layer in out.past_key_values.layers}
    assert lengths == {max(s.text for s in trace.samples) + 6 + 2}
    assert all(s.cached == [6] * 6 and s.entering[:3] == [s.available] * 3 for s in trace.samples)

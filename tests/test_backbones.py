"""Families whose checkpoints come with several language models: InternVL with those of 3.5."""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any

import families
import pytest
import torch
from conftest import counted, picture
from families import Miniature, internvl
from oracle import logits
from test_equivalence import PLANS, Draw, dead_columns, run
from test_families import Spy

from prunebench import Stage, llm, prune
from prunebench.engine.counter import counter
from prunebench.measure.flops import head, llm_prefill
from prunebench.models import family_of
from prunebench.models.llama4 import Llama4

BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("sdpa", {"model_type": "qwen3", "head_dim": 24}),
    "experts": (
        "sdpa",
        {
            "model_type": "qwen3_moe",
            "head_dim": 24,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
        },
    ),
    # windows in every other layer, scores that no key gets, no sdpa
    "sinks": (
        "eager",
        {
            "model_type": "gpt_oss",
            "head_dim": 24,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "sliding_window": 24,
        },
    ),
}


@cache
def backbone(name: str) -> Miniature:
    kernel, text = BACKBONES[name]
    monkey = pytest.MonkeyPatch()
    stock = internvl.build
    monkey.setattr(internvl, "build", lambda: stock(**text))
    try:
        return families.build("internvl", kernel)
    finally:
        monkey.undo()


def inputs_of(miniature: Miniature) -> dict[str, Any]:
    return miniature.inputs(
        ([picture(50, 150)], "color of 5"), ([picture(56, 60, 1)], "digit on red square")
    )


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "sinks")) for name in BACKBONES]
)
def test_dropping_equals_hiding(name: str, plan: str, positions: Any) -> None:
    miniature = backbone(name)
    inputs, model = inputs_of(miniature), miniature.model
    tokens, got, trace = run(model, inputs, Draw(), plan=PLANS[plan], positions=positions)
    dead = dead_columns(model, inputs, trace)
    want = logits(model, inputs, tokens, dead, positions == "compact")
    torch.testing.assert_close(got, want, atol=5e-4, rtol=2e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_flops_equal_torchs_counter(name: str) -> None:
    miniature = backbone(name)
    inputs, model = miniature.inputs(([picture(56, 60)], "color of 5")), miniature.model
    with torch.no_grad(), counter() as flops:
        model(**inputs, logits_to_keep=1)
    family, text = family_of(model), model.config.get_text_config()
    lengths = [inputs["input_ids"].shape[1]] * 6
    language = llm_prefill(text, lengths, family.layer_flops) + head(text)
    assert sum(family.vision_flops(model.config, inputs)) + language == counted(flops)


@pytest.mark.parametrize("layer", [1, 2])
def test_attention_is_what_the_model_puts_out(layer: int) -> None:
    """Of layers with a window and without one, where scores go to no key."""
    miniature = backbone("sinks")
    inputs, model, spy = inputs_of(miniature), miniature.model, Spy()
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[layer]
        with prune(model, spy, plan=(Stage(llm(layer + 1), 7),)):
            model(**inputs)
    visual = family_of(model).visual(model, inputs["input_ids"])
    for row, seen in enumerate(spy.seen):
        want = weights[row, :, -1, visual[row]]
        torch.testing.assert_close(seen.last_query_attention, want, atol=1e-5, rtol=1e-4)


def test_only_the_experts_that_are_chosen_count() -> None:
    """Llama 4, whose stock class runs all of them for every token."""
    family, config = Llama4(), families.build("llama4").model.config.text_config
    few, many = copy(config), copy(config)
    few.num_experts_per_tok = many.num_experts_per_tok = 1
    many.num_local_experts = 16
    sparse = config.moe_layers[0]
    tokens, width = 7, config.hidden_size
    router = 2 * tokens * width * (16 - config.num_local_experts)
    costs = [family.layer_flops(one, sparse, tokens, tokens) for one in (config, few, many)]
    assert costs[2] - costs[1] == router
    assert costs[0] - costs[1] == 3 * 2 * tokens * width * config.intermediate_size
